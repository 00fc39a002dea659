"""The file of results and the list of failures, written in one pass over the outcomes of a batch job."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from clearsight.serving.batch.parts import Outcome
from clearsight.serving.batch.results.forms import Form
from clearsight.serving.batch.results.names import legible
from clearsight.serving.batch.results.new_file import NewFile, already_exists
from clearsight.serving.batch.results.rows import RowLayout

__all__ = ["ERROR_LOG", "FAILED_FILES", "Counts", "require_free", "write_results"]

FAILED_FILES: Final = "failed_files.jsonl"
"""Beside the file of results."""
ERROR_LOG: Final = Path("user", "error.txt")
"""Below the logs of a job, as on Azure."""


@dataclass(frozen=True, slots=True)
class Counts:
    """What became of the entries of a job."""

    num_files: int
    num_ok: int
    """Rows with an answer."""
    num_failed: int
    failures: Mapping[str, int]
    """Their numbers by `Outcome.code`."""


def require_free(target: Path, form: Form) -> None:
    """Raise `Conflict` when the file of results, or the list of failures beside it, exists: before a job starts."""
    for file in (*([] if form.rows is None else [target]), target.with_name(FAILED_FILES)):
        if file.exists() or file.is_symlink():
            raise already_exists(file)


def write_results(
    outcomes: Iterable[Outcome],
    form: Form,
    layout: RowLayout,
    target: Path,
    logs: Path,
    *,
    replaces: bool = False,
) -> Counts:
    """Write the answers to `target` in the order of the outcomes, the failures to `failed_files.jsonl` beside it.

    The failures also go to `user/error.txt` in the folder `logs`, one line each. Both files are left out when nothing
    failed; a form without a file leaves out `target`. The files appear complete, the results last. Memory does not
    grow with the number of outcomes.

    `replaces`: files that are there are this job's earlier ones. Otherwise `Conflict` is raised unless their bytes are
    the same. Raises `OSError` for what cannot be written; no new file is left then.
    """
    failed = target.with_name(FAILED_FILES)
    num_files = num_ok = 0
    previous = None
    failures: Counter[str] = Counter()
    with ExitStack() as stack:
        results = None if form.rows is None else stack.enter_context(NewFile(target))
        listed = stack.enter_context(NewFile(failed))
        log = stack.enter_context(NewFile(logs / ERROR_LOG, 0o600))  # as all logs, which name paths
        rows = None if results is None else form.open(results.stream, layout)
        try:
            for outcome in outcomes:
                num_files += outcome.name != previous
                previous = outcome.name
                if outcome.answer is None:
                    failures[outcome.code or "error"] += 1
                    _write_failure(outcome, listed.stream, log.stream)
                    continue
                num_ok += 1
                if rows is not None:
                    rows.write(outcome.name, outcome.row, outcome.answer)
            if rows is not None:
                rows.finish()
        except BaseException:
            if rows is not None:
                rows.abandon()
            raise
        if failures:
            log.publish(replaces=True)
        elif replaces:
            failed.unlink(missing_ok=True)
        elif failed.exists():
            raise already_exists(failed)
        _publish([*([listed] if failures else []), *([] if results is None else [results])], replaces)
    return Counts(num_files, num_ok, failures.total(), dict(sorted(failures.items())))


def _write_failure(outcome: Outcome, listed: BinaryIO, log: BinaryIO) -> None:
    name, code = legible(outcome.name), outcome.code or "error"
    document = {"filename": name, "error": outcome.error, "code": code, "row": outcome.row}
    listed.write(json.dumps(document).encode("ascii") + b"\n")
    shown = name if name.isprintable() else ascii(name)
    row = f", row {outcome.row}" if outcome.row else ""
    log.write(f"{shown}{row}: {' '.join((outcome.error or '').split())} [{code}]\n".encode("utf-8", "backslashreplace"))


def _publish(files: Iterable[NewFile], replaces: bool) -> None:
    """Publish all of them or, where one cannot be, no new one."""
    new: list[Path] = []
    try:
        for file in files:
            if file.publish(replaces):
                new.append(file.target)
    except BaseException:
        for target in new:
            target.unlink()
        raise
