"""Background tasks that go on whatever they meet."""

import asyncio
import errno
import os

import pytest

from clearsight.background import BackOff, first_of, keep_running
from clearsight.errors import ServerUnavailable


async def test_a_task_is_run_again_whatever_ended_it(caplog: pytest.LogCaptureFixture) -> None:
    ends = iter([OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), None, KeyError("x"), ServerUnavailable("y")])
    pauses: list[float] = []
    num_failures = 0
    is_well = asyncio.Event()

    async def task() -> None:
        end = next(ends, "none")
        if end == "none":
            is_well.set()
            await asyncio.Event().wait()
        if isinstance(end, Exception):
            raise end

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)

    def count() -> None:
        nonlocal num_failures
        num_failures += 1

    running = asyncio.create_task(keep_running(task, "a task", count, BackOff(lambda: 0.0, sleep)))
    await is_well.wait()
    assert (pauses, num_failures) == ([0.5, 1, 2, 4], 4)
    assert [record.exc_info is not None for record in caplog.records] == [True, False, True, True]
    assert "No space left on device" in caplog.text
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


async def test_a_start_goes_on_after_unexpected_errors_until_it_is_given_up() -> None:
    now = 0.0
    num_tries = 0

    async def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds

    async def start() -> None:
        nonlocal num_tries
        num_tries += 1
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(OSError, match="No space left"):
        await BackOff(lambda: now, sleep).restart(start, "a server", give_up_s=100)
    assert num_tries == 9  # at 0.5, 1.5, 3.5, 7.5, 15.5, 31.5, 61.5, 91.5 and 121.5 s: the last is raised
    assert now == 121.5


async def test_the_first_to_end_decides_and_the_others_are_cancelled() -> None:
    cancelled = asyncio.Event()

    async def forever() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    async def soon() -> int:
        await asyncio.sleep(0)
        return 3

    async def fail() -> None:
        raise KeyError("x")

    assert await first_of(forever(), soon()) == 3
    assert cancelled.is_set()
    with pytest.raises(KeyError):
        await first_of(forever(), fail())
