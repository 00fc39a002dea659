"""A process that hangs is told from one that is slow."""

from collections.abc import Iterator, Sequence

import pytest

from clearsight.errors import ServerUnavailable
from clearsight.serving.supervisor.heartbeat import watch_heartbeat


class Process:
    """Whose threads run, or do not."""

    def __init__(self, cpu_ns: Iterator[int]) -> None:
        self._cpu_ns = cpu_ns

    def cpu_ns(self) -> int:
        return next(self._cpu_ns)


def stopped() -> Iterator[int]:
    while True:
        yield 7


def running() -> Iterator[int]:
    yield from range(1000)


async def beats_until_given_up(answers: Sequence[bool], cpu_ns: Iterator[int]) -> tuple[int, str]:
    """Number of heartbeats and the reason; without further answers none comes."""
    given = list(answers)
    num_beats = 0

    async def check() -> None:
        nonlocal num_beats
        num_beats += 1
        if not (given.pop(0) if given else False):
            raise ServerUnavailable("no answer")

    async def sleep(_: float) -> None: ...

    reason = await watch_heartbeat(check, Process(cpu_ns), lambda: 0.0, sleep)  # type: ignore[arg-type]
    return num_beats, reason


@pytest.mark.parametrize(
    ("answers", "cpu_ns", "num_beats", "reason"),
    [
        ([], stopped(), 3, "none of its threads runs"),
        ([True] * 10, stopped(), 13, "none of its threads runs"),
        ([False, False, True], stopped(), 6, "none of its threads runs"),
        ([], running(), 30, "has not answered for 30 s"),
        ([False] * 29 + [True], running(), 60, "has not answered for 30 s"),
    ],
)
async def test_three_misses_end_a_stopped_process_and_thirty_a_busy_one(
    answers: Sequence[bool], cpu_ns: Iterator[int], num_beats: int, reason: str
) -> None:
    counted, why = await beats_until_given_up(answers, cpu_ns)
    assert (counted, reason in why) == (num_beats, True)
