"""Send what the tracking server lacks, from the journals of stages that have ended, each thing once.

A stage that could not reach the server, or lost it, has left its journal; so has one that was killed, with what had not
been sent in its last seconds. What the server refuses by itself (status 4xx) is named and not sent again; whatever else
goes wrong stops, and the next time goes on.
"""

import warnings
from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from typing import Any, NamedTuple

from prunella.errors import UserError
from prunella.tracking.journal import Found, Row, found, journals
from prunella.tracking.run import (
    experiment_number,
    journal_folder,
    make_store,
    said,
    shown_store,
    store,
    store_lock,
    wait_at_most,
)
from prunella.tracking.sender import Place, begin, parts, send


class Outcome(NamedTuple):
    """What became of a journal: `sent` things by kind, `refused` lines, and why it is `left` ("" when all is sent)."""

    title: str
    sent: Counter[str]
    refused: list[str]
    left: str = ""


def sync() -> Iterator[Outcome]:
    """Send every journal, the oldest first. Raises UserError where the store does not answer."""
    if not (paths := journals(journal_folder())):
        return
    client = _client()
    for path in paths:
        with found(path) as it:
            if it is None:
                if path.exists():
                    yield Outcome(path.name, Counter(), [], "its stage is still running")
            elif it.start is None:
                yield Outcome(path.name, Counter(), [], "its first line is damaged, so nobody knows what it is of")
            elif it.start.said["store"] != shown_store():
                yield Outcome(_title(it.start), Counter(), [], f"it is for {it.start.said['store']}")
            else:
                yield _sent(client, it, it.start)


def _client() -> Any:
    wait_at_most(60, retries=2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            import mlflow
        except ImportError:
            raise UserError("prunella sync needs MLflow: pip install mlflow") from None
        try:
            with store_lock():
                make_store(mlflow.MlflowClient)
            client = mlflow.MlflowClient(store())
            client.get_experiment_by_name("any")
        except Exception as error:
            raise _away(error) from error
    return client


def _away(error: Exception) -> UserError:
    waiting = len(journals(journal_folder()))
    return UserError(
        f"MLflow at {shown_store()} does not answer, so {waiting} runs are not sent; they stay in "
        f"{journal_folder()}: {said(error)}"
    )


def _title(start: Row) -> str:
    return f"{start.said['stage']}, begun {datetime.fromtimestamp(start.at / 1000):%Y-%m-%d %H:%M:%S}"


def _sent(client: Any, it: Found, start: Row) -> Outcome:
    title, counts, refused = _title(start), Counter[str](), list[str]()
    try:
        run, parent = it.run, it.parent
        if run is None or parent is None:
            with store_lock():
                run, parent = begin(client, experiment_number(client, start.said["experiment"]), start, it.journal.name)
            it.journal.sent(start.n, run=run, parent=parent)
            counts["run"] += 1
        elif client.get_run(run).info.lifecycle_stage != "active":
            return Outcome(title, counts, refused, f"its run {run} was deleted in MLflow; remove {it.journal.path}")
        place = Place(client, run, parent, it.journal.kept)
        for part in parts(_left(it)):
            try:
                send(place, part)
                counts += _counted(part)
            except Exception as error:
                if not _for_good(error):
                    raise
                refused += [f"{each.kind}: {said(error)}" for each in part]
            it.journal.sent(part[-1].n)
    except Exception as error:
        if _for_good(error):
            return Outcome(title, counts, refused, f"MLflow refuses it: {said(error)}; remove {it.journal.path}")
        raise _away(error) from error
    it.journal.close(whole=True)
    return Outcome(title, counts, refused)


def _left(it: Found) -> list[Row]:
    """The rows to send; a stage that did not come to its end was killed after its last one."""
    rows = [row for row in it.rows[1:] if row.n > it.sent]
    if it.end is None:
        last = it.rows[-1]
        rows.append(Row(last.n + 1, last.at, "end", {"status": "KILLED"}))
    return rows


def _for_good(error: Exception) -> bool:
    """Whether it would fail again: the server's 4xx (but for "later" and "who are you"), or a file that is gone."""
    from mlflow.exceptions import MlflowException

    if isinstance(error, MlflowException):
        status = error.get_http_status_code()
        return 400 <= status < 500 and status not in (401, 403, 408, 429)
    return isinstance(error, FileNotFoundError | ValueError | TypeError | KeyError)


def _counted(part: list[Row]) -> Counter[str]:
    kind, many = part[0].kind, ("metrics", "headline", "params", "tags")
    name = {"headline": "metrics", "params": "parameters", "inputs": "data sets", "cached": "links"}.get(kind, kind)
    return Counter({name: sum(len(row.said["values"]) for row in part) if kind in many else len(part)})
