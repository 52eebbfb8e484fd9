"""A student in MLflow's model registry: its weights, what it takes and gives, its figures, an alias."""

import importlib.metadata
import os
import warnings
from pathlib import Path
from typing import Any

from prunella.errors import UserError
from prunella.tracking.run import opened, said, shown_store, store
from prunella.tracking.tags import origin_tags

SERVED = Path(__file__).with_name("serving.py")
NEEDED = ("torch", "diffusers", "transformers", "accelerate", "mlflow", "pillow")  # of the served model
EXAMPLE = {"prompt": "a small red heart", "negative_prompt": "", "seed": 0, "steps": 25, "guidance": 4.0}


def register(
    folder: Path, name: str, alias: str, figures: dict[str, float], tags: dict[str, str], drawing: dict[str, Any]
) -> str:
    """Log the pipeline `folder` with its weights, register it as `name`, give it the alias; "models:/NAME@ALIAS".

    `drawing` is what a request leaves out: negative_prompt, steps, guidance. Raises UserError where the store does not
    answer.
    """
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import mlflow

        try:
            mlflow.set_tracking_uri(store())
            client, experiment = opened()
            with mlflow.start_run(experiment_id=experiment, run_name=f"promote {name}", tags=origin_tags() | tags):
                made = _logged(mlflow, folder, name, figures, tags, drawing)
            client.set_registered_model_alias(name, alias, made.registered_model_version)
        except mlflow.exceptions.MlflowException as error:
            raise UserError(f"MLflow at {shown_store()} did not register {name}: {said(error)}") from error
    return f"models:/{name}@{alias}"


def _logged(
    mlflow: Any, folder: Path, name: str, figures: dict[str, float], tags: dict[str, str], drawing: dict[str, Any]
) -> Any:
    made = mlflow.pyfunc.log_model(
        name=name,
        python_model=str(SERVED),
        artifacts={"pipeline": str(folder)},
        model_config=drawing,
        signature=_signature(mlflow),
        input_example={key: [value] for key, value in (EXAMPLE | drawing).items()},
        pip_requirements=[f"{each}=={importlib.metadata.version(each)}" for each in NEEDED],
        registered_model_name=name,
        tags=tags,
    )
    for figure, value in figures.items():
        mlflow.log_metric(figure, value, model_id=made.model_id)
    return made


def _signature(mlflow: Any) -> Any:
    from mlflow.types import ColSpec, Schema, TensorSpec

    optional = {"negative_prompt": "string", "seed": "long", "steps": "long", "guidance": "double", "size": "long"}
    columns: list[ColSpec | TensorSpec] = [
        ColSpec("string", "prompt"),
        *(ColSpec(kind, key, required=False) for key, kind in optional.items()),
    ]
    return mlflow.models.ModelSignature(inputs=Schema(columns), outputs=Schema([ColSpec("string", "png")]))
