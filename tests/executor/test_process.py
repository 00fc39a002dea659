"""A process is identified by more than its id."""

import os
import signal
import subprocess
import sys
from dataclasses import asdict, replace

import pytest

from clearsight.executor import ProcessIdentity


def own() -> ProcessIdentity:
    identity = ProcessIdentity.of(os.getpid())
    assert identity is not None
    return identity


@pytest.mark.parametrize("document", [None, {}, {"pid": 1}, "1", {"pid": 1, "unknown": 2}])
def test_what_is_no_identity_is_none(document: object) -> None:
    assert ProcessIdentity.from_document(document) is None


def test_an_identity_survives_json() -> None:
    assert ProcessIdentity.from_document(asdict(own())) == own()


def test_an_unused_id_is_no_process() -> None:
    assert ProcessIdentity.of(2**22 + 1) is None  # beyond the kernel's largest


def test_a_process_knows_itself_and_is_here() -> None:
    assert own().is_alive()
    assert own().is_here()


def test_a_machine_may_change_its_name() -> None:
    assert replace(own(), host="renamed").is_alive()


def test_another_process_with_the_same_id_gets_no_signal() -> None:
    """The other process is this one, which would end."""
    stranger = replace(own(), started_at_tick=own().started_at_tick - 1)
    assert not stranger.is_alive()
    assert not stranger.send(signal.SIGKILL)
    assert not replace(own(), boot_id="another boot").send(signal.SIGKILL)


def test_the_identified_process_gets_the_signal_while_it_runs() -> None:
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    identity = ProcessIdentity.of(process.pid)
    assert identity is not None
    assert identity.send(signal.SIGTERM)
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert not identity.is_alive()  # ended, but its parent has not waited for it yet
    assert process.wait() == -signal.SIGTERM
    assert not identity.send(signal.SIGTERM)
