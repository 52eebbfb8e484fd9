"""`prunella promote`: register a student whose figures are good enough, as the one to serve."""

import argparse
from pathlib import Path
from typing import Any

from prunella.cli.arguments import Commands, add_at, add_command
from prunella.errors import UserError

REPORT = Path("reports/benchmark.json")


def register(commands: Commands) -> None:
    """Add the commands of this group."""
    about = "register a student in MLflow, with the alias of promote.alias, where it passes promote.gates"
    promote = add_command(commands, "promote", about, _promote)
    promote.add_argument("student", help="a student of this graph, or an entry of finetune.base")
    add_at(promote)
    promote.add_argument("--dry-run", action="store_true", help="say which gates hold, and register nothing")


def _promote(given: argparse.Namespace) -> None:
    from prunella.pipeline.stage import silence_libraries

    silence_libraries()
    from prunella.export.promotion_gates import evaluate_gates
    from prunella.export.resolve_model import model_label, resolve_model
    from prunella.params import read_params

    params, folder = read_params(), resolve_model(given.student, given.at)
    models = _measured()
    figures = models.get(f"{folder.name}/{folder.parent.name}")
    if folder.resolve().parent.parent != Path("models").resolve() or figures is None:
        raise UserError(f"{REPORT}: has no figures of {model_label(folder)}; measured are {', '.join(models)}")
    _check_measured(folder.name, own=folder.name not in params.finetune.base)
    found = evaluate_gates(params.promote.gates, figures, models["teacher"])
    print("\n".join(each.message for each in found))
    if missed := [each.gate.metric for each in found if each.shortfall]:
        raise UserError(
            f"{model_label(folder)} is not promoted: {', '.join(missed)} missed; see section promote of params.yaml"
        )
    if not given.dry_run:
        _register(Path("models", folder.parent.name, folder.name), params, figures)


def _measured() -> dict[str, Any]:
    from prunella.storage.files import read_json

    if not REPORT.is_file():
        raise UserError(f"{REPORT}: there is no benchmark yet; `dvc repro` makes one")
    return read_json(REPORT)["models"]


def _check_measured(student: str, *, own: bool) -> None:
    """Raises UserError where the report's figures are not of the weights in models/, by DVC's hashes of both.

    dvc.lock has the weights that were drawn with, scored and timed, the figures that came out, and the report made of
    these. What else changed, such as code, makes them no other model's. `own` is a student of this graph.
    """
    from prunella.verify.dvc_lock import query_dvc_status

    kind = "" if own else "base_"
    stages = [f"{kind}draw@{student}", f"{kind}score@{student}", "cost", "benchmark"]
    changed = {each for status in query_dvc_status(stages, Path()).values() for each in status.other_changes}
    if found := sorted(each for each in changed if each.startswith(("models/", "reports/"))):
        raise UserError(
            f"{REPORT}: its figures are not of the weights here, which differ from dvc.lock ({', '.join(found)}); "
            "`dvc repro` measures these, `dvc checkout` takes back those that were measured"
        )


def _register(folder: Path, params: Any, figures: dict[str, Any]) -> None:
    from prunella.export.promotion_gates import numeric_metrics
    from prunella.tracking.datasets import read_output_hashes
    from prunella.tracking.registry import register as register_model

    tags = {"dvc.path": folder.as_posix(), "dvc.hash": read_output_hashes().get(folder.as_posix(), "")}
    tags = {name: value for name, value in tags.items() if value}
    usual = params.benchmark
    drawing = {
        "negative_prompt": usual.negative_prompt,
        "steps": usual.num_inference_steps,
        "guidance": usual.guidance_scale,
    }
    named = register_model(folder, folder.name, params.promote.alias, numeric_metrics(figures), tags, drawing)
    print(f"{named}; serve it with\n  mlflow models serve -m {named} --env-manager local --port 5001")
