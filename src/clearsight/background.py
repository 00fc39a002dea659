"""Background tasks of a server: each goes on whatever it meets, with pauses that grow."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final

from clearsight.errors import ClearsightError

__all__ = ["BackOff", "first_of", "keep_running"]

log = logging.getLogger(__name__)

FIRST_PAUSE_S: Final = 0.5
MAX_PAUSE_S: Final = 30.0


class BackOff:
    """Pauses before restarts: none for a process that stayed up for 30 s, else 0.5 s, doubled with each try."""

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._clock = clock
        self._sleep = sleep
        self._up_since = clock()
        self._pause_s = 0.0

    async def restart(self, start: Callable[[], Awaitable[None]], name: str, give_up_s: float | None = None) -> None:
        """Pause and call `start` until it succeeds. Every exception is logged, an unexpected one with its traceback.

        After `give_up_s` seconds without success the last exception is raised.
        """
        began = self._clock()
        if self._clock() - self._up_since > MAX_PAUSE_S:
            self._pause_s = 0.0
        else:
            self._lengthen()
        while True:
            await self._sleep(self._pause_s)
            try:
                await start()
            except Exception as error:
                if give_up_s is not None and self._clock() - began > give_up_s:
                    raise
                is_expected = isinstance(error, ClearsightError)
                log.error("%s could not be started again: %s", name, error, exc_info=None if is_expected else error)
            else:
                self._up_since = self._clock()
                return
            self._lengthen()

    def _lengthen(self) -> None:
        self._pause_s = min(MAX_PAUSE_S, max(FIRST_PAUSE_S, 2 * self._pause_s))


async def keep_running(
    task: Callable[[], Awaitable[None]],
    name: str,
    on_failure: Callable[[], None] = lambda: None,
    back_off: BackOff | None = None,
) -> None:
    """Run a task that should never end; whenever it ends or raises, run it again after a pause.

    Every exception is logged with its traceback, and `on_failure` is called after each, for metrics. Never returns.
    """
    back_off = back_off or BackOff()
    while True:
        try:
            await task()
            log.error("the background task %s has ended; running it again", name)
        except Exception:
            log.exception("the background task %s failed; running it again", name)
        on_failure()
        await back_off.restart(_nothing, name)


async def first_of(*coroutines: Coroutine[Any, Any, Any]) -> Any:
    """Run coroutines until one of them ends; its result, or its exception. The others are cancelled."""
    tasks = [asyncio.create_task(coroutine) for coroutine in coroutines]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        return next(task for task in tasks if task in done).result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _nothing() -> None:
    pass
