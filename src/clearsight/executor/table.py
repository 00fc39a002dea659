"""Which executor runs the tasks of a job, by the job's `compute`."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

from clearsight.executor.inline import Inline
from clearsight.executor.local import Local
from clearsight.executor.protocol import Executor

__all__ = ["EXECUTORS", "executor_for"]

EXECUTORS: Final[Mapping[str, Callable[[str], Executor]]] = MappingProxyType(
    {"inline": lambda address: Inline(), "local": lambda address: Local()}
)
"""By scheme: makes an executor from what follows the colon (`scheme:address`), empty without one."""


def executor_for(compute: str | None) -> Executor:
    """The executor of a job's `compute`: a scheme of `EXECUTORS`, alone or with an address. None is `local`.

    Any other name is a cluster of Azure (`gpu-cluster`, `azureml:gpu-cluster`), whose jobs run on this machine.
    """
    scheme, _, address = (compute or "local").partition(":")
    return EXECUTORS.get(scheme, EXECUTORS["local"])(address)
