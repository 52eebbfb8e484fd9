"""Stages that DVC takes from its cache log nothing; here the runs that made their results are found and linked.

A finished run is given the hash of what its stage made, once DVC has recorded it in dvc.lock: when the next stage
starts. At the end of an execution each stage of dvc.lock that did not run in it is linked to the newest such run.
"""

from pathlib import Path
from typing import Any

import yaml

from prunella.storage.files import json_digest

LOCK = Path("dvc.lock")
OUTS = "dvc.outs"  # tag: a sum over the hashes of what a stage made
CHILD_OF = "mlflow.parentRunId"
NOTE = "mlflow.note.content"  # a run's description, in Markdown


def note_outs(client: Any, experiment: str, parent: str, made: dict[str, str], before: int) -> None:
    """Give the parent's finished runs that began `before` (ms since 1970) the hash of what they made."""
    asked = f"tags.`{CHILD_OF}` = '{parent}' and attributes.status = 'FINISHED' and attributes.start_time < {before}"
    for run in client.search_runs([experiment], asked):
        stage = run.data.tags.get("dvc.stage", "")
        if OUTS not in run.data.tags and stage in made:
            client.set_tag(run.info.run_id, OUTS, made[stage])


def link_cached(client: Any, parent: str, made: dict[str, str]) -> None:
    """Link the parent to the runs whose results it took from DVC's cache, as tags and in its description.

    `made` is what `outs` gave at its end.
    """
    experiment = client.get_run(parent).info.experiment_id
    own = {
        run.data.tags.get("dvc.stage") for run in client.search_runs([experiment], f"tags.`{CHILD_OF}` = '{parent}'")
    }
    links = {}
    for stage, digest in made.items():
        if stage not in own and (
            found := client.search_runs(
                [experiment], f"tags.`{OUTS}` = '{digest}'", max_results=1, order_by=["start_time DESC"]
            )
        ):
            links[stage] = found[0].info.run_id
    for stage, run in links.items():
        client.set_tag(parent, f"cached.{stage.replace('@', '.')}", run)
    if links:
        lines = [f"* [{stage}](#/experiments/{experiment}/runs/{run})" for stage, run in links.items()]
        client.set_tag(
            parent, NOTE, "\n".join(["Results taken from DVC's cache, and the runs that made them:", *lines])
        )


def outs(lock: Path = LOCK) -> dict[str, str]:
    """Stage (distill@sd-tiny) → a sum over the hashes of its outputs, of all in dvc.lock."""
    try:
        stages = (yaml.safe_load(lock.read_text(encoding="utf-8")) or {}).get("stages") or {}
    except (OSError, ValueError, yaml.YAMLError, AttributeError):
        return {}
    return {name: json_digest([stage.get("cmd"), stage["outs"]]) for name, stage in stages.items() if stage.get("outs")}
