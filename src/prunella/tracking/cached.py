"""Stages that DVC takes from its cache log nothing; here the runs that made their results are found and linked.

A finished run is given the hash of what its stage made, once DVC has recorded it in dvc.lock: when the next stage
starts. At the end of an execution each stage of dvc.lock that did not run in it is linked to the newest such run.
"""

from pathlib import Path
from typing import Any

import yaml

from prunella.storage.files import json_digest

DVC_LOCK = Path("dvc.lock")
OUTS_TAG = "dvc.outs"  # tag: a sum over the hashes of what a stage made
PARENT_RUN_TAG = "mlflow.parentRunId"
DESCRIPTION_TAG = "mlflow.note.content"  # a run's description, in Markdown


def tag_outputs(client: Any, experiment: str, parent: str, stage_digests: dict[str, str], started_before: int) -> None:
    """Give the parent's finished runs that began `started_before` (ms since 1970) the hash of what they made."""
    query = (
        f"tags.`{PARENT_RUN_TAG}` = '{parent}' and attributes.status = 'FINISHED' and attributes.start_time < "
        f"{started_before}"
    )
    for run in client.search_runs([experiment], query):
        stage = run.data.tags.get("dvc.stage", "")
        if OUTS_TAG not in run.data.tags and stage in stage_digests:
            client.set_tag(run.info.run_id, OUTS_TAG, stage_digests[stage])


def link_cached_runs(client: Any, parent: str, stage_digests: dict[str, str]) -> None:
    """Link the parent to the runs whose results it took from DVC's cache, as tags and in its description.

    `stage_digests` is what `digest_stage_outputs` gave at its end.
    """
    experiment = client.get_run(parent).info.experiment_id
    executed_stages = {
        run.data.tags.get("dvc.stage")
        for run in client.search_runs([experiment], f"tags.`{PARENT_RUN_TAG}` = '{parent}'")
    }
    links = {}
    for stage, digest in stage_digests.items():
        if stage not in executed_stages and (
            producing_runs := client.search_runs(
                [experiment], f"tags.`{OUTS_TAG}` = '{digest}'", max_results=1, order_by=["start_time DESC"]
            )
        ):
            links[stage] = producing_runs[0].info.run_id
    for stage, run in links.items():
        client.set_tag(parent, f"cached.{stage.replace('@', '.')}", run)
    if links:
        lines = [f"* [{stage}](#/experiments/{experiment}/runs/{run})" for stage, run in links.items()]
        client.set_tag(
            parent, DESCRIPTION_TAG, "\n".join(["Results taken from DVC's cache, and the runs that made them:", *lines])
        )


def digest_stage_outputs(lock_path: Path = DVC_LOCK) -> dict[str, str]:
    """Stage (distill@sd-tiny) → a sum over the hashes of its outputs, of all in dvc.lock."""
    try:
        stages = (yaml.safe_load(lock_path.read_text(encoding="utf-8")) or {}).get("stages") or {}
    except (OSError, ValueError, yaml.YAMLError, AttributeError):
        return {}
    return {name: json_digest([stage.get("cmd"), stage["outs"]]) for name, stage in stages.items() if stage.get("outs")}
