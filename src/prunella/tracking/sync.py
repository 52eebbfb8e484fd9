"""Send what the tracking server lacks, from the journals of stages that have ended, each thing once.

A stage that could not reach the server, or lost it, has left its journal; so has one that was killed, with what had not
been sent in its last seconds. A row that the server refuses by itself (status 4xx) is named and not sent again;
whatever else goes wrong stops, and the next time goes on.
"""

import warnings
from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from typing import Any, NamedTuple

from prunella.errors import UserError
from prunella.tracking.journal import PendingJournal, Row, list_journals, open_pending_journal
from prunella.tracking.run import (
    ensure_experiment,
    format_error_line,
    get_journal_dir,
    get_tracking_uri,
    init_sqlite_store,
    lock_store,
    redact_tracking_uri,
    set_http_timeouts,
)
from prunella.tracking.sender import SendTarget, ensure_run, group_rows, send


class SyncResult(NamedTuple):
    """The fate of a journal.

    `sent` things by kind, `refused` lines, and why it is `unsent_reason` ("" when all is sent).
    """

    title: str
    sent: Counter[str]
    refused: list[str]
    unsent_reason: str = ""


def sync() -> Iterator[SyncResult]:
    """Send every journal, the oldest first. Raises UserError where the store does not answer."""
    if not (paths := list_journals(get_journal_dir())):
        return
    client = _connect_client()
    for path in paths:
        with open_pending_journal(path) as pending:
            if pending is None:
                if path.exists():
                    yield SyncResult(path.name, Counter(), [], "its stage is still running")
            elif pending.start is None:
                yield SyncResult(path.name, Counter(), [], "its first line is damaged, so nobody knows what it is of")
            elif pending.start.payload["store"] != redact_tracking_uri():
                yield SyncResult(
                    _format_run_title(pending.start), Counter(), [], f"it is for {pending.start.payload['store']}"
                )
            else:
                yield _send_journal(client, pending, pending.start)


def _connect_client() -> Any:
    set_http_timeouts(60, retries=2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            import mlflow
        except ImportError:
            raise UserError("prunella sync needs MLflow: pip install mlflow") from None
        try:
            with lock_store():
                init_sqlite_store(mlflow.MlflowClient)
            client = mlflow.MlflowClient(get_tracking_uri())
            client.get_experiment_by_name("any")
        except Exception as error:
            raise _make_unreachable_error(error) from error
    return client


def _make_unreachable_error(error: Exception) -> UserError:
    num_pending = len(list_journals(get_journal_dir()))
    return UserError(
        f"MLflow at {redact_tracking_uri()} does not answer, so {num_pending} runs are not sent; they stay in "
        f"{get_journal_dir()}: {format_error_line(error)}"
    )


def _format_run_title(start: Row) -> str:
    return f"{start.payload['stage']}, begun {datetime.fromtimestamp(start.at / 1000):%Y-%m-%d %H:%M:%S}"


def _send_journal(client: Any, pending: PendingJournal, start: Row) -> SyncResult:
    title, counts, refused = _format_run_title(start), Counter[str](), list[str]()
    try:
        run, parent = pending.run, pending.parent
        if run is None or parent is None:
            with lock_store():
                run, parent = ensure_run(
                    client, ensure_experiment(client, start.payload["experiment"]), start, pending.journal.name
                )
            pending.journal.mark_sent(start.n, run=run, parent=parent)
            counts["run"] += 1
        elif client.get_run(run).info.lifecycle_stage != "active":
            return SyncResult(
                title, counts, refused, f"its run {run} was deleted in MLflow; remove {pending.journal.path}"
            )
        target = SendTarget(client, run, parent, pending.journal.attachments_dir)
        for batch in group_rows(_list_unsent_rows(pending)):
            try:
                send(target, batch)
                counts += _count_sent(batch)
            except Exception as error:
                if not _is_permanent(error):
                    raise
                refused += [f"{row.kind}: {format_error_line(error)}" for row in batch]
            pending.journal.mark_sent(batch[-1].n)
    except Exception as error:
        if _is_permanent(error):
            return SyncResult(
                title, counts, refused, f"MLflow refuses it: {format_error_line(error)}; remove {pending.journal.path}"
            )
        raise _make_unreachable_error(error) from error
    pending.journal.close(complete=True)
    return SyncResult(title, counts, refused)


def _list_unsent_rows(pending: PendingJournal) -> list[Row]:
    """The rows to send; a stage that did not come to its end was killed after its last one."""
    rows = [row for row in pending.rows[1:] if row.n > pending.last_sent]
    if pending.end is None:
        last = pending.rows[-1]
        rows.append(Row(last.n + 1, last.at, "end", {"status": "KILLED"}))
    return rows


def _is_permanent(error: Exception) -> bool:
    """Whether it would fail again: the server's 4xx (but for "later" and "who are you"), or a file that is gone."""
    from mlflow.exceptions import MlflowException

    if isinstance(error, MlflowException):
        status = error.get_http_status_code()
        return 400 <= status < 500 and status not in (401, 403, 408, 429)
    return isinstance(error, FileNotFoundError | ValueError | TypeError | KeyError)


def _count_sent(batch: list[Row]) -> Counter[str]:
    kind, counted_by_value = batch[0].kind, ("metrics", "headline", "params", "tags")
    name = {"headline": "metrics", "params": "parameters", "inputs": "data sets", "cached": "links"}.get(kind, kind)
    return Counter({name: sum(len(row.payload["values"]) for row in batch) if kind in counted_by_value else len(batch)})
