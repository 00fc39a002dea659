"""Checkpoints: one safetensors file with everything that resuming needs, and the best weights so far.

```
checkpoints/last.safetensors          weights, their average if there is one, and optimizer; counters and gradient
                                      scaler as JSON in the file's metadata
checkpoints/best_<epoch>.safetensors  weights of the best validation pass, with the counters as they were then
```

Each file carries the sha256 of its tensors and metadata; files of earlier versions without one are read unchecked. When
the last checkpoint is damaged, training goes on from the best weights, with a fresh optimizer.

There is no random state to keep: order, views and dropout are functions of the seed and of the counters. Files are
written under another name and renamed, so a kill at any moment leaves the old checkpoint or the new one.
No pickle is involved.
"""

import hashlib
import json
import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, Self

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from clearsight.errors import ClearsightError, TrainingError
from clearsight.runs.run_folder import LAST_CHECKPOINT

__all__ = ["Checkpoints", "Counters", "save_weights"]

log = logging.getLogger(__name__)

_MODEL, _OPTIMIZER, _AVERAGE = "model.", "optimizer.", "average."
_CHECKSUM: Final = "sha256"


@dataclass(slots=True)
class Counters:
    """Progress of a training run. The sums are over the images of the current epoch, of all processes."""

    epoch: int = 0
    batch: int = 0
    """Number of finished batches of the epoch."""
    step: int = 0
    """Optimizer steps since the start."""
    num_images: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    """Sums over the images, by `Objective.sum_names`."""
    best_epoch: int | None = None
    best_metric: float | None = None
    best_loss: float | None = None
    """Validation loss of that pass, where it is measured."""
    num_passes: int = 0
    num_stale: int = 0
    num_processes: int = 1
    """Number of processes that train together; a batch or step of all of them counts as one."""

    def start_epoch(self, epoch: int) -> None:
        """Begin an epoch: set sums and batches to zero."""
        self.epoch, self.batch, self.num_images, self.sums = epoch, 0, 0, {}

    def means(self) -> dict[str, float]:
        """The sums as means over the images."""
        return {name: value / self.num_images for name, value in self.sums.items()}

    @classmethod
    def from_json(cls, text: str) -> Self:
        return cls(**json.loads(text))


class Checkpoints:
    """The checkpoint folder of one run. `warn` gets a sentence when a damaged file is replaced by another one."""

    def __init__(self, folder: Path, warn: Callable[[str], None] = log.warning) -> None:
        self._folder = folder
        self._warn = warn

    @property
    def last_file(self) -> Path:
        return self._folder / LAST_CHECKPOINT

    def best_file(self, epoch: int) -> Path:
        return self._folder / f"best_{epoch:04}.safetensors"

    def save_best(self, network: nn.Module, counters: Counters) -> None:
        """Keep the weights of the validation pass that `counters` has just counted.

        Older ones stay until `save_last` no longer refers to them.
        """
        metadata = {"counters": json.dumps(asdict(counters))}
        _save(self.best_file(counters.epoch), _plain(network.state_dict()), metadata)

    def save_last(
        self,
        network: nn.Module,
        optimizer: torch.optim.Optimizer,
        scaler: torch.amp.GradScaler,
        counters: Counters,
        average: nn.Module | None = None,
    ) -> None:
        """Write everything that resuming needs. To be called between two optimizer steps."""
        tensors = {f"{_MODEL}{name}": tensor for name, tensor in _plain(network.state_dict()).items()}
        if average is not None:
            tensors |= {f"{_AVERAGE}{name}": tensor for name, tensor in _plain(average.state_dict()).items()}
        for index, state in optimizer.state_dict()["state"].items():
            for key, value in state.items():
                if isinstance(value, torch.Tensor):
                    tensors[f"{_OPTIMIZER}{index}.{key}"] = value.detach().cpu().contiguous()
        metadata = {"counters": json.dumps(asdict(counters)), "scaler": json.dumps(scaler.state_dict())}
        _save(self.last_file, tensors, metadata)
        for file in self._folder.glob("best_*.safetensors"):
            if counters.best_epoch is None or file != self.best_file(counters.best_epoch):
                file.unlink(missing_ok=True)

    def load_last(
        self,
        network: nn.Module,
        optimizer: torch.optim.Optimizer,
        scaler: torch.amp.GradScaler,
        average: nn.Module | None = None,
    ) -> Counters | None:
        """Restore network, optimizer, scaler and the average of weights; None when there is no checkpoint.

        When the checkpoint is damaged, network and average get the best weights, and the counters are those of the
        start of the epoch after them. Raises `TrainingError` when there are none.
        """
        if not self.last_file.exists():
            return None
        try:
            tensors, metadata = _load(self.last_file)
            scaler_state, counters = json.loads(metadata["scaler"]), Counters.from_json(metadata["counters"])
        except (_Damaged, KeyError, TypeError, ValueError) as error:
            damage = (
                str(error) if isinstance(error, _Damaged) else _message(self.last_file, f"{error!r} in its metadata")
            )
            return self._load_newest_best(network, average, damage)
        network.load_state_dict(_below(tensors, _MODEL))
        if average is not None:
            average.load_state_dict(_below(tensors, _AVERAGE))
        document = optimizer.state_dict()
        state: dict[int, dict[str, torch.Tensor]] = {}
        for name, tensor in _below(tensors, _OPTIMIZER).items():
            index, _, key = name.partition(".")
            state.setdefault(int(index), {})[key] = tensor
        optimizer.load_state_dict({**document, "state": state})
        _lay_out_like_parameters(optimizer)
        if scaler_state:
            scaler.load_state_dict(scaler_state)
        return counters

    def load_best(self, network: nn.Module, epoch: int) -> None:
        """Load the weights of the best pass into the network. Raises `TrainingError` when they are damaged."""
        file = self.best_file(epoch)
        if not file.exists():
            raise ClearsightError(f"the best checkpoint must be there, but {file} is not")
        try:
            network.load_state_dict(_load(file)[0])
        except _Damaged as damage:
            raise TrainingError("bad_checkpoint", f"{damage}; {self._way_out()}") from None

    def _load_newest_best(self, network: nn.Module, average: nn.Module | None, damage: str) -> Counters:
        for file in sorted(self._folder.glob("best_*.safetensors"), reverse=True):
            try:
                tensors, metadata = _load(file)
            except _Damaged as other:
                damage += f"; {other}"
                continue
            if "counters" not in metadata:
                continue  # an earlier version wrote weights alone
            counters = Counters.from_json(metadata["counters"])
            for module in (network, average):
                if module is not None:
                    module.load_state_dict(tensors)
            self._warn(
                f"{damage}; training goes on after epoch {counters.epoch + 1} from {file.name}, the weights of the "
                "best validation pass, with a fresh optimizer, so it will not end as it would have without the damage"
            )
            counters.start_epoch(counters.epoch + 1)
            return counters
        raise TrainingError("bad_checkpoint", f"{damage}; no weights beside it can be used; {self._way_out()}")

    def _way_out(self) -> str:
        return (
            f"copy the file back from a backup, or delete {self._folder}: the run then starts anew when it is resumed"
        )


def save_weights(file: Path, network: nn.Module) -> None:
    """Write weights alone, for `checkpoint_frequency`."""
    _save(file, _plain(network.state_dict()), {})


def _lay_out_like_parameters(optimizer: torch.optim.Optimizer) -> None:
    """Give each optimizer state the memory order of its parameter.

    Files know no channels-last order, and fused steps walk the memory of both side by side: with momenta in another
    order, every step after a resume would mix up the elements (seen with torch 2.13).
    """
    for parameter, state in optimizer.state.items():
        for key, value in state.items():
            if isinstance(value, torch.Tensor) and value.shape == parameter.shape:
                state[key] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def _plain(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}


def _below(tensors: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


class _Damaged(Exception):
    """A file is no checkpoint any more; the message names it and says why."""


def _load(file: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Tensors and metadata of a file. Raises `_Damaged`."""
    try:
        tensors = load_file(file)
        with safe_open(file, framework="pt") as opened:
            metadata = dict(opened.metadata() or {})
    except SafetensorError as error:
        raise _Damaged(_message(file, str(error))) from error
    checksum = metadata.pop(_CHECKSUM, None)
    if checksum not in (None, _checksum(tensors, metadata)):
        raise _Damaged(_message(file, "its content does not have the sha256 that it names"))
    return tensors, metadata


def _message(file: Path, reason: str) -> str:
    return f"the checkpoint {file} is damaged ({reason})"


def _checksum(tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> str:
    digest = hashlib.sha256(json.dumps(sorted(metadata.items())).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _save(file: Path, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    try:
        save_file(dict(tensors), temporary, {**metadata, _CHECKSUM: _checksum(tensors, metadata)})
        temporary.chmod(0o644)  # safetensors creates it readable by its owner only
        temporary.replace(file)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
