"""`prunella sync`: what the tracking server lacks, since it was away or a stage was killed."""

import argparse
from collections import Counter

from prunella.cli.arguments import Commands, add_command

# Kind → one of it, several.
KIND_LABELS = {
    "run": ("created", "created"),
    "parameters": ("parameter", "parameters"),
    "metrics": ("metric", "metrics"),
    "tags": ("tag", "tags"),
    "data sets": ("list of data sets", "lists of data sets"),
    "picture": ("picture", "pictures"),
    "artifact": ("file or folder", "files and folders"),
    "model": ("model", "models"),
    "links": ("list of links", "lists of links"),
    "end": ("status", "statuses"),
}


def register(commands: Commands) -> None:
    """Add the command."""
    description = "send MLflow the records of stages that ran while it was unreachable"
    add_command(commands, "sync", description, _run_sync)


def _run_sync(args: argparse.Namespace) -> None:
    from prunella.pipeline.stage import silence_libraries

    silence_libraries()
    from prunella.tracking.run import redact_tracking_uri
    from prunella.tracking.sync import sync

    num_runs, total_sent = 0, Counter[str]()
    for result in sync():
        num_runs, total_sent = num_runs + bool(result.sent), total_sent + result.sent
        print(
            f"{result.title}: "
            f"{_format_sent_counts(result.sent)}{f'; left: {result.unsent_reason}' if result.unsent_reason else ''}",
            flush=True,
        )
        for line in result.refused:
            print(f"  not sent: {line}", flush=True)
    if num_runs:
        print(
            f"sent to MLflow at {redact_tracking_uri()}, of {num_runs} {'runs' if num_runs > 1 else 'run'}: "
            f"{_format_sent_counts(total_sent)}"
        )
    else:
        print(f"MLflow at {redact_tracking_uri()}: nothing to send")


def _format_sent_counts(sent: Counter[str]) -> str:
    nonzero_counts = {kind: sent[kind] for kind in KIND_LABELS if sent[kind]}
    phrases = [f"{count} {KIND_LABELS[kind][count > 1]}" for kind, count in nonzero_counts.items()]
    return ", ".join(phrases) or "nothing"
