"""Signals become flags that a job reads later."""

import os
import signal
import subprocess
import sys

import pytest

from clearsight.runs.stop_requests import StopRequests, graceful_shutdown


def test_at_first_no_stop_is_requested() -> None:
    stop = StopRequests()
    assert not stop.is_requested
    assert not stop.is_urgent


# In a process of its own: one that signals itself can end the run of all other tests with it.
SIGNALLED = """
import os, signal, sys
from clearsight.runs.stop_requests import graceful_shutdown

with graceful_shutdown() as stop:
    os.kill(os.getpid(), int(sys.argv[1]))
    assert stop.is_requested
    assert not stop.is_urgent
    os.kill(os.getpid(), signal.SIGTERM)
    assert not stop.is_urgent
    os.kill(os.getpid(), signal.SIGINT)
    assert stop.is_urgent
    os.kill(os.getpid(), signal.SIGTERM)
    assert stop.is_urgent
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_each_signal_requests_a_stop_and_only_a_second_ctrl_c_is_urgent(number: signal.Signals) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", SIGNALLED, str(int(number))], capture_output=True, text=True, timeout=60
    )
    assert ended.returncode == 0, ended.stderr


def test_ignored_signals_stay_ignored_and_handlers_come_back() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    interrupt = signal.getsignal(signal.SIGINT)
    try:
        with graceful_shutdown() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not stop.is_requested
        assert signal.getsignal(signal.SIGINT) is interrupt
    finally:
        signal.signal(signal.SIGHUP, before)
