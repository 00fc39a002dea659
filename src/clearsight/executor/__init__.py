"""Where a command runs. Only argv and environment travel; all state sits in the run folder."""

from clearsight.executor.gpus import count_gpus
from clearsight.executor.inline import Inline
from clearsight.executor.local import Local
from clearsight.executor.process import ProcessIdentity
from clearsight.executor.protocol import Executor, Exited, TaskSpec

__all__ = ["Executor", "Exited", "Inline", "Local", "ProcessIdentity", "TaskSpec", "count_gpus"]
