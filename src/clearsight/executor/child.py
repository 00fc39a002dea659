"""Entry point of every process of `Local`: `python -m clearsight.executor.child PARENT_PIPE MODULE ARGS…`.

PARENT_PIPE is the file descriptor of the read end of a pipe that only the parent process holds open. When the parent
ends, for whatever reason, the pipe closes, and this process sends itself SIGTERM, then kills its process group after a
grace period. (Linux's `PR_SET_PDEATHSIG` would send a signal too, but already when the parent's *thread* ends, and only
on Linux.)
"""

import os
import runpy
import signal
import sys
import threading
import time
from contextlib import suppress
from typing import Final

__all__ = ["ORPHAN_GRACE_S", "main"]

ORPHAN_GRACE_S: Final = 120.0
"""Grace period of a process without a parent: time to write a checkpoint, or to finish what follows training."""


def main() -> None:
    parent_pipe, module, *args = sys.argv[1:]
    threading.Thread(target=_watch, args=(int(parent_pipe),), name="parent_pipe", daemon=True).start()
    sys.argv = [module, *args]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def _watch(parent_pipe: int) -> None:
    os.read(parent_pipe, 1)  # nothing is ever written: returns when the parent has ended
    with suppress(OSError):  # a full disk, to which the log cannot be written, must not keep an orphan alive
        sys.stderr.write("the parent process is gone: stopping\n")
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(ORPHAN_GRACE_S)
    os.killpg(os.getpgrp(), signal.SIGKILL)


if __name__ == "__main__":
    main()
