"""Where every process of `Local` begins: `python -m clearsight.executor.child LIFELINE MODULE ARGS…`.

LIFELINE is the read end of a pipe that only the parent holds open. When the parent is gone, however it ended, the pipe
ends too, and this process asks itself to stop with SIGTERM; if it does not listen, it is ended. (Linux could send a
signal by itself, `PR_SET_PDEATHSIG`, but it does so already when the parent's *thread* ends, and only there.)
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
"""How long an orphan may take to write its checkpoint, or to finish what comes after training."""


def main() -> None:
    parent_pipe, module, *args = sys.argv[1:]
    threading.Thread(target=_watch, args=(int(parent_pipe),), name="parent_pipe", daemon=True).start()
    sys.argv = [module, *args]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def _watch(parent_pipe: int) -> None:
    os.read(parent_pipe, 1)  # nothing is ever written: returns when the parent is gone
    with suppress(OSError):  # a log on a full disk must not keep an orphan going
        sys.stderr.write("the parent process is gone: stopping\n")
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(ORPHAN_GRACE_S)
    os.killpg(os.getpgrp(), signal.SIGKILL)


if __name__ == "__main__":
    main()
