"""A server process: its log, how it ends, and the pauses between its restarts."""

import asyncio
import os
import signal
import sys
from pathlib import Path

import psutil

from clearsight.background import BackOff
from clearsight.errors import ServerUnavailable
from clearsight.executor import ManagedProcess
from clearsight.executor.managed import UNKNOWN_EXIT_CODE


def test_what_it_prints_since_the_last_start_is_known_and_it_stops_on_sigterm(tmp_path: Path) -> None:
    async def scenario() -> None:
        process = ManagedProcess(tmp_path / "logs" / "server.log")
        await process.stop(1)  # nothing was started
        assert process.pid is None
        await process.start([sys.executable, "-c", "print('first')"])
        assert await process.wait() == 0
        await process.start([sys.executable, "-c", "print('second', flush=True); import time; time.sleep(60)"])
        async with asyncio.timeout(30):
            while "second" not in process.output():
                await asyncio.sleep(0.02)
        assert process.output() == "second\n"
        assert process.returncode is None
        await process.stop(30)
        assert process.returncode == -signal.SIGTERM
        assert process.log_file.read_text() == "first\nsecond\n"

    asyncio.run(scenario())


def test_one_that_ignores_sigterm_is_killed(tmp_path: Path) -> None:
    program = "import signal, time; signal.signal(15, signal.SIG_IGN); print('ready', flush=True); time.sleep(60)"

    async def scenario() -> None:
        process = ManagedProcess(tmp_path / "log")
        await process.start([sys.executable, "-c", program])
        async with asyncio.timeout(30):
            while not process.output():
                await asyncio.sleep(0.02)
        await process.stop(0.1)
        assert process.returncode == -signal.SIGKILL

    asyncio.run(scenario())


def test_pauses_double_until_it_stays_up() -> None:
    now = 0.0
    pauses: list[float] = []
    failures = 8

    async def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds
        pauses.append(seconds)

    async def start() -> None:
        nonlocal failures
        failures -= 1
        if failures >= 0:
            raise ServerUnavailable("not yet")

    async def scenario() -> None:
        nonlocal now
        back_off = BackOff(lambda: now, sleep)
        await back_off.restart(start, "a server")
        assert pauses == [0.5, 1, 2, 4, 8, 16, 30, 30, 30]
        pauses.clear()
        now += 5  # it died soon after
        await back_off.restart(start, "a server")
        now += 31
        await back_off.restart(start, "a server")
        assert pauses == [30, 0]

    asyncio.run(scenario())


def test_another_process_adopts_it(tmp_path: Path) -> None:
    async def scenario() -> None:
        parent = ManagedProcess(tmp_path / "log")
        await parent.start([sys.executable, "-c", "import time; time.sleep(60)"])
        assert parent.identity is not None
        adopted = ManagedProcess.adopt(parent.identity, tmp_path / "log")
        assert (adopted.pid, adopted.returncode) == (parent.pid, None)
        waiting = asyncio.create_task(adopted.wait())
        await asyncio.sleep(0)
        assert not waiting.done()
        await adopted.stop(30)
        assert await waiting == adopted.returncode == UNKNOWN_EXIT_CODE
        assert await parent.wait() == -signal.SIGTERM

    asyncio.run(scenario())


def test_a_stopped_process_gets_no_time(tmp_path: Path) -> None:
    """Its threads are seen to run or not to run, on any machine."""

    async def scenario() -> None:
        process = ManagedProcess(tmp_path / "log")
        await process.start([sys.executable, "-c", "while True: pass"])
        before = process.cpu_ns()
        async with asyncio.timeout(30):
            while process.cpu_ns() == before:
                await asyncio.sleep(0.02)
        os.kill(process.pid or 0, signal.SIGSTOP)
        async with asyncio.timeout(30):
            while psutil.Process(process.pid).status() != psutil.STATUS_STOPPED:
                await asyncio.sleep(0.01)
        stopped = process.cpu_ns()
        await asyncio.sleep(0.1)
        assert process.cpu_ns() == stopped > 0
        process.kill()
        await process.wait()
        assert process.cpu_ns() == 0

    asyncio.run(scenario())
