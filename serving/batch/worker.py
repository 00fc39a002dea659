"""A worker of a batch job: `python -m clearsight.serving.batch.worker RUN_FOLDER NAME`.

It loads the package once and scores the ranges that its inbox names, one after the other; while one is scored, the
files of the next are read. It writes the outcomes of a range as a part file and says so in its outbox.
"""

import logging
import os
import sys
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from clearsight.errors import ClearsightError
from clearsight.handlers.scoring.scorer import MAX_BATCH_SIZE, Scorer, load_scorer
from clearsight.runs.package import ModelPackage
from clearsight.runs.run_folder import RunFolder
from clearsight.runs.workspace import Workspace
from clearsight.serving.batch.entries import Entry, Listing
from clearsight.serving.batch.inputs.reader import EntryReader, Unreadable
from clearsight.serving.batch.mailbox import Mailbox
from clearsight.serving.batch.parts import PartRange, Parts
from clearsight.serving.batch.plan import BatchPlan, fingerprint_of, read_plan, require_same, set_log_level
from clearsight.serving.batch.row_scorer import CannotWrite, Cell, RowScorer

__all__ = ["main"]

_POLL_S: Final = 0.005
_MAX_IMAGES_PER_CALL: Final = 16
_READERS: Final = 4
"""Files read at the same time."""

log = logging.getLogger("clearsight.batch")  # as a program, this module is `__main__`


@dataclass(frozen=True, slots=True)
class _Assignment:
    where: PartRange
    is_whole: bool
    """Whether the range is the whole part."""
    entries: Sequence[Entry]
    cells: Sequence[Future[Cell]]


def main(args: Sequence[str]) -> int:
    """Score until the inbox says stop."""
    folder, name = RunFolder(Path(args[0])), args[1]
    mailbox = Mailbox(folder.root / "workers", name, for_worker=True)
    try:
        plan = read_plan(folder)
        set_log_level(plan)
        scorer = _open(plan)
        rows = RowScorer(scorer, plan.rows, plan.output_file.parent)
        rows.warm_up()
    except ClearsightError as error:
        mailbox.send("unable", error=str(error))
        return 1
    mailbox.send("ready", pid=os.getpid(), batch_rule=scorer.batch_rule, num_threads=scorer.num_threads)
    with EntryReader() as reader, ThreadPoolExecutor(_READERS, "clearsight-read") as pool:
        _work(Listing(folder.root), Parts(folder.parts), mailbox, rows, reader, pool)
    return 0


def _open(plan: BatchPlan) -> Scorer:
    """Load the package. Raises `Conflict` when it is no longer that of the plan."""
    package = ModelPackage.open(plan.package)
    require_same(plan.fingerprint, fingerprint_of(plan, package), "a batch job")
    per_call = plan.part_size if plan.part_size <= _MAX_IMAGES_PER_CALL else MAX_BATCH_SIZE
    return load_scorer(
        package,
        plan.backend,
        plan.device,
        plan.precision,
        plan.num_threads,
        max_batch_size=per_call,
        cache_dir=Workspace.default().cache,
    )


def _work(
    listing: Listing, parts: Parts, mailbox: Mailbox, rows: RowScorer, reader: EntryReader, pool: ThreadPoolExecutor
) -> None:
    queue: deque[_Assignment] = deque()
    is_last = False
    while queue or not is_last:
        for message in mailbox.receive():
            if message["kind"] == "stop":
                is_last = True
                continue
            where = PartRange(message["part"], message["start"], message["stop"])
            of_part = listing.read_part(where.part)
            entries = of_part[where.start : where.stop]
            cells = [pool.submit(_read, reader, entry) for entry in entries]
            queue.append(_Assignment(where, len(entries) == len(of_part), entries, cells))
        if not queue:
            time.sleep(_POLL_S)
            continue
        assignment = queue.popleft()
        mailbox.send("began", **_fields(assignment.where))
        try:
            num_failed = _score(assignment, rows, parts, mailbox)
        except CannotWrite as error:
            mailbox.send("cannot_write", error=str(error))
            raise
        except OSError:
            raise  # the run folder cannot be written: the controller finds the reason in the log
        except Exception as error:  # of this range alone: the controller finds the entry that causes it
            log.exception("a range could not be scored")
            mailbox.send("failed", **_fields(assignment.where), error=f"{type(error).__name__}: {error}")
        else:
            log.debug("%s: %d failed", assignment.where, num_failed)
            mailbox.send("done", **_fields(assignment.where), num_failed=num_failed)


def _read(reader: EntryReader, entry: Entry) -> Cell:
    try:
        return reader.read(entry)
    except Unreadable as error:
        return error


def _score(assignment: _Assignment, rows: RowScorer, parts: Parts, mailbox: Mailbox) -> int:
    """Score a range and write its files, then its outcomes; return the number of entries without an answer."""
    cells = [cell.result() for cell in assignment.cells]
    # Each explanation, which takes seconds, has the whole time limit of an attempt.
    results = rows.score(cells, lambda: mailbox.send("began", **_fields(assignment.where)))
    outcomes = list(map(rows.outcome, assignment.entries, cells, results))
    num_failed = sum(is_failure for _, is_failure in outcomes)
    parts.commit(assignment.where, assignment.is_whole, [line for line, _ in outcomes], num_failed)
    return num_failed


def _fields(where: PartRange) -> dict[str, int]:
    return {"part": where.part, "start": where.start, "stop": where.stop}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
