"""Notices processes that hang: stopped, frozen, or too busy to answer."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final

from clearsight.errors import ServerUnavailable
from clearsight.executor import ManagedProcess

__all__ = ["CALL_TIMEOUT_S", "watch_heartbeat"]

HEARTBEAT_S: Final = 1.0
MAX_MISSES: Final = 3
"""Heartbeats in a row without an answer after which a process that does not run at all is given up."""

MAX_BUSY_MISSES: Final = 30
"""The same for a process whose threads do run: on a crowded machine it may only be slow."""

CALL_TIMEOUT_S: Final = 5.0
"""Time limit of a call on a control socket."""


async def watch_heartbeat(
    check: Callable[[], Awaitable[None]],
    process: ManagedProcess,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> str:
    """Call `check` once a second until the process must be given up; returns why.

    `check` raises ServerUnavailable without an answer. A miss is an answer that did not come within a second. An idle
    process runs its timers, so that one whose threads have not run for three misses is stopped or frozen.
    """
    num_misses, cpu_ns = 0, 0
    while True:
        began = clock()
        try:
            async with asyncio.timeout(HEARTBEAT_S):
                await check()
        except (ServerUnavailable, TimeoutError):
            if num_misses == 0:
                cpu_ns = process.cpu_ns()
            num_misses += 1
            if num_misses >= MAX_MISSES and process.cpu_ns() == cpu_ns:
                return "it hangs: it does not answer, and none of its threads runs"
            if num_misses >= MAX_BUSY_MISSES:
                return f"it has not answered for {MAX_BUSY_MISSES} s"
        else:
            num_misses = 0
        await sleep(max(0.0, HEARTBEAT_S - (clock() - began)))
