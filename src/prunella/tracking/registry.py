"""A student in MLflow's model registry: its weights, what it takes and gives, its figures, an alias."""

import importlib.metadata
import os
import warnings
from pathlib import Path
from typing import Any

from prunella.errors import UserError
from prunella.tracking.run import connect_store, format_error_line, get_tracking_uri, redact_tracking_uri
from prunella.tracking.tags import collect_run_tags

SERVING_SCRIPT = Path(__file__).with_name("serving.py")
REQUIREMENTS = ("torch", "diffusers", "transformers", "accelerate", "mlflow", "pillow")  # of the served model
EXAMPLE = {"prompt": "a small red heart", "negative_prompt": "", "seed": 0, "steps": 25, "guidance": 4.0}


def register(
    folder: Path,
    name: str,
    alias: str,
    metrics: dict[str, float],
    tags: dict[str, str],
    sampling_defaults: dict[str, Any],
) -> str:
    """Log the pipeline `folder` with its weights, register it as `name`, give it the alias; "models:/NAME@ALIAS".

    `sampling_defaults` is what a request leaves out: negative_prompt, steps, guidance. Raises UserError where the
    store does not answer.
    """
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import mlflow

        try:
            mlflow.set_tracking_uri(get_tracking_uri())
            client, experiment = connect_store()
            with mlflow.start_run(experiment_id=experiment, run_name=f"promote {name}", tags=collect_run_tags() | tags):
                model_info = _log_model(mlflow, folder, name, metrics, tags, sampling_defaults)
            client.set_registered_model_alias(name, alias, model_info.registered_model_version)
        except mlflow.exceptions.MlflowException as error:
            raise UserError(
                f"MLflow at {redact_tracking_uri()} did not register {name}: {format_error_line(error)}"
            ) from error
    return f"models:/{name}@{alias}"


def _log_model(
    mlflow: Any,
    folder: Path,
    name: str,
    metrics: dict[str, float],
    tags: dict[str, str],
    sampling_defaults: dict[str, Any],
) -> Any:
    model_info = mlflow.pyfunc.log_model(
        name=name,
        python_model=str(SERVING_SCRIPT),
        artifacts={"pipeline": str(folder)},
        model_config=sampling_defaults,
        signature=_make_signature(mlflow),
        input_example={key: [value] for key, value in (EXAMPLE | sampling_defaults).items()},
        pip_requirements=[f"{package}=={importlib.metadata.version(package)}" for package in REQUIREMENTS],
        registered_model_name=name,
        tags=tags,
    )
    for metric, value in metrics.items():
        mlflow.log_metric(metric, value, model_id=model_info.model_id)
    return model_info


def _make_signature(mlflow: Any) -> Any:
    from mlflow.types import ColSpec, Schema, TensorSpec

    optional = {"negative_prompt": "string", "seed": "long", "steps": "long", "guidance": "double", "size": "long"}
    columns: list[ColSpec | TensorSpec] = [
        ColSpec("string", "prompt"),
        *(ColSpec(kind, key, required=False) for key, kind in optional.items()),
    ]
    return mlflow.models.ModelSignature(inputs=Schema(columns), outputs=Schema([ColSpec("string", "png")]))
