"""`prunella sync`: what the tracking server lacks, since it was away or a stage was killed."""

import argparse
from collections import Counter

from prunella.cli.arguments import Commands, add_command

# Kind → one of it, several.
WORDS = {
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
    about = "send MLflow what it lacks of stages that ran while it was away, each thing once"
    add_command(commands, "sync", about, _sync)


def _sync(given: argparse.Namespace) -> None:
    from prunella.pipeline.stage import silence_libraries

    silence_libraries()
    from prunella.tracking.run import redact_tracking_uri
    from prunella.tracking.sync import sync

    runs, sent = 0, Counter[str]()
    for each in sync():
        runs, sent = runs + bool(each.sent), sent + each.sent
        print(
            f"{each.title}: {_listed(each.sent)}{f'; left: {each.unsent_reason}' if each.unsent_reason else ''}",
            flush=True,
        )
        for line in each.refused:
            print(f"  not sent: {line}", flush=True)
    if runs:
        print(f"sent to MLflow at {redact_tracking_uri()}, of {runs} {'runs' if runs > 1 else 'run'}: {_listed(sent)}")
    else:
        print(f"MLflow at {redact_tracking_uri()}: nothing to send")


def _listed(sent: Counter[str]) -> str:
    known = {kind: sent[kind] for kind in WORDS if sent[kind]}
    words = [f"{count} {WORDS[kind][count > 1]}" for kind, count in known.items()]
    return ", ".join(words) or "nothing"
