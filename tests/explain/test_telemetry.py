import threading

from clearsight.handlers.explain.deadline import Deadline
from clearsight.handlers.explain.network.functions import in_chunks
from clearsight.handlers.explain.telemetry import ExplainedRow, note_chunk, note_row, observed

ROW = ExplainedRow("xrai", {"regions": 12.4, "gradients": 99.6}, is_degraded=True, is_cached=False)


def test_without_notes_the_document_is_empty():
    with observed() as telemetry:
        pass
    assert telemetry.to_document() == {"chunk": None, "rows": []}


def test_what_is_noted_outside_goes_nowhere():
    note_row(ROW)
    note_chunk(3, 3, 8)
    with observed() as telemetry:
        pass
    assert telemetry.to_document() == {"chunk": None, "rows": []}


def test_rows_are_reported_in_order_with_whole_milliseconds():
    with observed() as telemetry:
        note_row(ROW)
        note_row(ExplainedRow("rise", {}, is_degraded=False, is_cached=True))
    assert telemetry.to_document()["rows"] == [
        {"algorithm": "xrai", "ms": {"regions": 12, "gradients": 100}, "degraded": True, "cached": False},
        {"algorithm": "rise", "ms": {}, "degraded": False, "cached": True},
    ]


def test_the_chunk_is_the_most_points_of_one_pass_that_memory_allowed():
    def work(start: int, stop: int) -> None:
        if stop - start > 3:
            raise MemoryError

    with observed() as telemetry:
        in_chunks(work, 20, Deadline(None), 16)
    assert telemetry.chunk == 2  # 16, 8 and 4 are too many


def test_threads_do_not_see_each_others_notes():
    with observed() as telemetry:
        thread = threading.Thread(target=note_row, args=(ROW,))
        thread.start()
        thread.join()
    assert telemetry.rows == []
