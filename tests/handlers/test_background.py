"""A long explanation beside the requests of its worker: their priority, and how a job is ended."""

import threading
import time
import weakref
from collections.abc import Callable, Iterator

import pytest

from clearsight.handlers.explain.deadline import Deadline
from clearsight.handlers.explain.network.functions import in_chunks
from clearsight.handlers.explain.telemetry import note_rows_done
from clearsight.handlers.worker.background import Background


class Work:
    """A hundred points in chunks of one; each chunk waits for `allowed`."""

    def __init__(self) -> None:
        self.allowed = threading.Semaphore(0)
        self.num_done = 0

    def __call__(self) -> str:
        note_rows_done(1, 3)
        in_chunks(self.chunk, 100, Deadline(None), 1)
        return "the map"

    def chunk(self, start: int, stop: int) -> None:
        assert self.allowed.acquire(timeout=10)
        self.num_done = stop


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


@pytest.fixture
def work() -> Work:
    return Work()


@pytest.fixture
def background(work: Work) -> Iterator[Background[str]]:
    made: Background[str] = Background()
    yield made
    for job_id in ("one", "two"):
        made.end(job_id)
    work.allowed.release(200)


def test_without_a_job_finding_ending_and_pausing_do_nothing(background: Background[str]) -> None:
    background.end("one")
    with background.preempt():
        assert background.find("one") is None


def test_a_job_reports_its_progress_and_keeps_its_result_until_it_is_ended(
    background: Background[str], work: Work
) -> None:
    job = background.start("one", work)
    assert job is not None
    work.allowed.release(7)
    wait_for(lambda: job.progress().get("points_done") == 7)
    assert job.progress() == {"rows_done": 1, "rows": 3, "points_done": 7, "points": 100}
    assert background.start("one", work) is job
    work.allowed.release(93)
    wait_for(lambda: not job.is_computing)
    assert (background.find("one"), job.result, work.num_done) == (job, "the map", 100)
    assert job.elapsed_s > 0
    background.end("two")
    assert background.find("one") is job
    background.end("one")
    assert background.find("one") is None


def test_a_job_that_has_stopped_refers_to_no_body(background: Background[str], work: Work) -> None:
    class Body:
        """Of a request."""

    body = Body()
    is_held = weakref.ref(body)
    job = background.start("one", lambda body=body: f"{body}{work()}")  # type: ignore[misc]
    assert job is not None
    del body
    wait_for(lambda: job.progress() != {})
    assert is_held() is not None
    background.end("one")
    work.allowed.release(200)
    wait_for(lambda: not job.is_computing)
    assert background.find("one") is job
    assert is_held() is None


def test_a_job_pauses_at_its_next_chunk_while_a_request_is_answered(background: Background[str], work: Work) -> None:
    job = background.start("one", work)
    assert job is not None
    wait_for(lambda: job.progress() != {})
    with background.preempt():
        work.allowed.release(50)
        wait_for(lambda: work.num_done == 1)
        time.sleep(0.05)
        assert work.num_done == 1
    wait_for(lambda: work.num_done == 50)


@pytest.mark.parametrize("is_ended", [True, False], ids=["ended by its gateway", "left behind by a gateway that died"])
def test_an_ended_job_stops_after_its_chunk_and_the_next_one_can_begin(
    background: Background[str], work: Work, is_ended: bool
) -> None:
    job = background.start("one", work)
    assert job is not None
    wait_for(lambda: job.progress() != {})
    if is_ended:
        background.end("one")
    assert background.start("two", lambda: "other") is None
    work.allowed.release(50)
    wait_for(lambda: not job.is_computing)
    assert (work.num_done, job.result) == (1, None)
    other = background.start("two", lambda: "other")
    assert other is not None
    wait_for(lambda: other.result == "other")
