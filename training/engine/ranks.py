"""The processes that train one network together, and how they exchange values.

One process alone needs none of this. Several are started by the executor with the variables of `environment.launch`;
they find each other through a store in the first process. Gradients are averaged by torch's `DistributedDataParallel`.
A process that fails leaves its reason in the store before it ends, so that the first process, which alone writes the
run folder, can report it; the others stop waiting at once because its connections are closed.
"""

import atexit
import json
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final, TypeVar

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from clearsight.environment import Launch
from clearsight.errors import TrainingError

__all__ = ["Ranks", "joined"]

TIMEOUT: Final = timedelta(minutes=10)
"""Longest wait for another process: the first one may be downloading weights, or writing a checkpoint to a slow disk.
A process that dies is noticed at once; this limit is for one that hangs, or for a machine that is unreachable."""

_FAILURE: Final = "failure"

_left_groups: Final[list[dist.ProcessGroup | None]] = []
"""Process groups live until the interpreter ends. `DistributedDataParallel` must not be the last to hold one: it would
join the group's threads without releasing the interpreter's lock, for which a thread that frees a tensor of a failed
exchange may be waiting; both would wait for ever."""

atexit.register(_left_groups.clear)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Ranks:
    """This process among those that train together. The default is a process alone."""

    rank: int = 0
    local_rank: int = 0
    """Rank among the processes of this machine."""
    size: int = 1
    store: dist.Store | None = None  # type: ignore[name-defined]
    """Store that all processes share; None for a process alone."""

    @property
    def is_first(self) -> bool:
        """Whether this process writes the run folder."""
        return self.rank == 0

    def all_reduce_max(self, value: int) -> int:
        """Return the highest value of all processes; all must call it. About 0.1 ms among processes of one machine."""
        if self.store is None:
            return value
        tensor = torch.tensor(value)
        dist.all_reduce(tensor, dist.ReduceOp.MAX)
        return int(tensor)

    def all_reduce_sum(self, values: torch.Tensor) -> torch.Tensor:
        """Return the sums over all processes; all must call it."""
        if self.store is not None:
            values = values.clone()
            dist.all_reduce(values)
        return values

    def share(self, num_items: int) -> range:
        """The share of this process in the indices 0 .. `num_items` - 1."""
        return range(self.rank, num_items, self.size)

    def all_gather_rows(self, rows: npt.NDArray[np.float32], num_rows: int) -> npt.NDArray[np.float32]:
        """Join the rows (one per index of `share(num_rows)`) of all processes, in the order of the indices."""
        if self.store is None:
            return rows
        longest = -(-num_rows // self.size)
        padded = torch.zeros(longest, rows.shape[1])
        padded[: len(rows)] = torch.from_numpy(rows)
        parts = [torch.empty_like(padded) for _ in range(self.size)]
        dist.all_gather(parts, padded)
        return np.asarray(torch.stack(parts, dim=1).flatten(0, 1)[:num_rows].numpy())

    def all_gather_items(self, items: Sequence[T], num_items: int) -> list[T]:
        """Join the items (one per index of `share(num_items)`) of all processes, in the order of the indices.

        The items travel pickled, between processes of one trial only.
        """
        if self.store is None:
            return list(items)
        parts: list[Any] = [None] * self.size
        dist.all_gather_object(parts, list(items))
        return [parts[index % self.size][index // self.size] for index in range(num_items)]

    def all_gather_documents(self, name: str, document: Any) -> list[Any]:
        """Give plain data to all processes and get theirs, by rank. A name can be used once."""
        if self.store is None:
            return [document]
        self.store.set(f"{name}/{self.rank}", json.dumps(document))
        return [json.loads(self.store.get(f"{name}/{rank}")) for rank in range(self.size)]

    def wrap(self, network: nn.Module, device: torch.device) -> nn.Module:
        """Wrap the network so that backward passes average gradients; all processes get the first one's weights."""
        if self.store is None:
            return network
        return DistributedDataParallel(
            network, device_ids=[device] if device.type == "cuda" else None, gradient_as_bucket_view=True
        )

    def no_sync(self, module: nn.Module) -> AbstractContextManager[None]:
        """Context for the batches before the last one of an optimizer step, whose gradients are only accumulated."""
        return module.no_sync() if isinstance(module, DistributedDataParallel) else nullcontext()

    def broadcast_buffers(self, network: nn.Module) -> None:
        """Copy the batch-norm statistics of the first process to all, as each forward pass of training does."""
        if self.store is not None:
            for buffer in network.buffers():
                dist.broadcast(buffer, 0)

    def agree_on_failure(self, reason: str, message: str) -> tuple[str, str]:
        """Why this process failed, or, when that is only a consequence of another one's failure, why that one did."""
        if self.store is None:
            return reason, message
        if not self.is_first:
            word = json.dumps([reason, f"process {self.rank} of {self.size}: {message}"])
            with suppress(dist.DistError):  # the first process is gone: it has recorded its own reason
                self.store.compare_set(_FAILURE, "", word)
        elif reason == "internal_error" and self.store.check([_FAILURE]):
            reason, message = json.loads(self.store.get(_FAILURE))
        return reason, message


@contextmanager
def joined(launch: Launch | None) -> Iterator[Ranks]:
    """Join the group of training processes; leave it at the end. Without several processes, yield a group of one.

    Raises `TrainingError` when not all of them join within `TIMEOUT`.
    """
    if launch is None or launch.world_size == 1:
        yield Ranks()
        return
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    try:
        store = dist.TCPStore(  # type: ignore[attr-defined]
            launch.master_addr, launch.master_port, launch.world_size, is_master=launch.rank == 0, timeout=TIMEOUT
        )
        dist.init_process_group(backend, store=store, rank=launch.rank, world_size=launch.world_size, timeout=TIMEOUT)
    except dist.DistError as error:
        raise TrainingError(
            "internal_error", f"all {launch.world_size} processes of the trial must start, but not all came: {error}"
        ) from error
    try:
        yield Ranks(launch.rank, launch.local_rank, launch.world_size, store)
    finally:
        _left_groups.append(dist.group.WORLD)
        dist.destroy_process_group()
