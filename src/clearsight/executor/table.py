"""Which executor runs the tasks of a job, by the job's `compute`."""

from collections.abc import Mapping
from pkgutil import resolve_name
from types import MappingProxyType
from typing import Final

from clearsight.executor.protocol import Executor

__all__ = ["EXECUTORS", "executor_for"]

_EXECUTORS: Final[dict[str, str]] = {
    "inline": "clearsight.executor.inline:Inline",
    "local": "clearsight.executor.local:Local",
}

EXECUTORS: Final[Mapping[str, str]] = MappingProxyType(_EXECUTORS)
"""By scheme: class as `module:name`, made from what follows the colon (`scheme:address`), empty without one."""


def executor_for(compute: str | None) -> Executor:
    """The executor of a job's `compute`: a scheme of `EXECUTORS`, alone or with an address. None is `local`.

    Any other name is a cluster of Azure (`gpu-cluster`, `azureml:gpu-cluster`), whose jobs run on this machine.
    """
    scheme, _, address = (compute or "local").partition(":")
    executor: Executor = resolve_name(EXECUTORS.get(scheme, EXECUTORS["local"]))(address)
    return executor
