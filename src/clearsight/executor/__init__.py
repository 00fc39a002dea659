"""Executors: where a task runs. A task gets only argv and environment; all its state is in the run folder."""

from clearsight.executor.call import PythonCall, call_module
from clearsight.executor.gpus import count_gpus
from clearsight.executor.inline import Inline
from clearsight.executor.local import Local
from clearsight.executor.managed import ManagedProcess
from clearsight.executor.process import ProcessIdentity
from clearsight.executor.protocol import Executor, Exited, Resources, TaskSpec
from clearsight.executor.table import EXECUTORS, executor_for

__all__ = [
    "EXECUTORS",
    "Executor",
    "Exited",
    "Inline",
    "Local",
    "ManagedProcess",
    "ProcessIdentity",
    "PythonCall",
    "Resources",
    "TaskSpec",
    "call_module",
    "count_gpus",
    "executor_for",
]
