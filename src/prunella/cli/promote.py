"""`prunella promote`: register a student whose figures are good enough, as the one to serve."""

import argparse
from pathlib import Path
from typing import Any

from prunella.cli.arguments import Commands, add_command, add_stage_option
from prunella.errors import UserError

BENCHMARK_REPORT = Path("reports/benchmark.json")


def register(commands: Commands) -> None:
    """Add the commands of this group."""
    description = "register a student in MLflow under promote.alias if it passes promote.gates"
    parser = add_command(commands, "promote", description, _run_promote)
    parser.add_argument("student", help="a student of this graph, or an entry of finetune.base")
    add_stage_option(parser)
    parser.add_argument("--dry-run", action="store_true", help="show which gates pass, and register nothing")


def _run_promote(args: argparse.Namespace) -> None:
    from prunella.pipeline.stage import silence_libraries

    silence_libraries()
    from prunella.export.promotion_gates import evaluate_gates
    from prunella.export.resolve_model import model_label, resolve_model
    from prunella.params import read_params

    params, model_dir = read_params(), resolve_model(args.student, args.stage)
    metrics_by_model = _read_benchmark_models()
    metrics = metrics_by_model.get(f"{model_dir.name}/{model_dir.parent.name}")
    if model_dir.resolve().parent.parent != Path("models").resolve() or metrics is None:
        raise UserError(
            f"{BENCHMARK_REPORT}: has no figures of {model_label(model_dir)}; measured are "
            f"{', '.join(metrics_by_model)}"
        )
    _check_report_matches_weights(model_dir.name, is_own_student=model_dir.name not in params.finetune.base)
    gate_results = evaluate_gates(params.promote.gates, metrics, metrics_by_model["teacher"])
    print("\n".join(result.message for result in gate_results))
    if missed_metrics := [result.gate.metric for result in gate_results if result.shortfall]:
        raise UserError(
            f"{model_label(model_dir)} is not promoted: {', '.join(missed_metrics)} missed; see section promote "
            f"of params.yaml"
        )
    if not args.dry_run:
        _register_student(Path("models", model_dir.parent.name, model_dir.name), params, metrics)


def _read_benchmark_models() -> dict[str, Any]:
    from prunella.storage.files import read_json

    if not BENCHMARK_REPORT.is_file():
        raise UserError(f"{BENCHMARK_REPORT}: there is no benchmark yet; `dvc repro` makes one")
    return read_json(BENCHMARK_REPORT)["models"]


def _check_report_matches_weights(student: str, *, is_own_student: bool) -> None:
    """Raises UserError where the report's figures are not of the weights in models/, by DVC's hashes of both.

    dvc.lock has the weights that were drawn with, scored and timed, the figures that came out, and the report made of
    these. Other changes, such as code, make them no other model's. `own` is a student of this graph.
    """
    from prunella.verify.dvc_lock import query_dvc_status

    stage_prefix = "" if is_own_student else "base_"
    stages = [f"{stage_prefix}draw@{student}", f"{stage_prefix}score@{student}", "cost", "benchmark"]
    changed_paths = {path for status in query_dvc_status(stages, Path()).values() for path in status.other_changes}
    if changed_outputs := sorted(path for path in changed_paths if path.startswith(("models/", "reports/"))):
        raise UserError(
            f"{BENCHMARK_REPORT}: its figures are not of the weights here, which differ from dvc.lock "
            f"({', '.join(changed_outputs)}); "
            "`dvc repro` measures these, `dvc checkout` takes back those that were measured"
        )


def _register_student(model_dir: Path, params: Any, metrics: dict[str, Any]) -> None:
    from prunella.export.promotion_gates import numeric_metrics
    from prunella.tracking.datasets import read_output_hashes
    from prunella.tracking.registry import register as register_model

    tags = {"dvc.path": model_dir.as_posix(), "dvc.hash": read_output_hashes().get(model_dir.as_posix(), "")}
    tags = {name: value for name, value in tags.items() if value}
    benchmark = params.benchmark
    sampling_params = {
        "negative_prompt": benchmark.negative_prompt,
        "steps": benchmark.num_inference_steps,
        "guidance": benchmark.guidance_scale,
    }
    model_uri = register_model(
        model_dir, model_dir.name, params.promote.alias, numeric_metrics(metrics), tags, sampling_params
    )
    print(f"{model_uri}; serve it with\n  mlflow models serve -m {model_uri} --env-manager local --port 5001")
