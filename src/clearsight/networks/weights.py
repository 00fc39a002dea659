"""Loads pretrained weights that `networks.weight_search` finds.

The source is returned as a record, and random initialisation happens only on request; missing weights are an error.
"""

import math
import pickle
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from clearsight.catalogue.models import ModelRow
from clearsight.errors import UserError
from clearsight.networks.weight_search import find_classifier_weights
from clearsight.runs.package import sha256_of

__all__ = [
    "PretrainedRecord",
    "licence_beside",
    "load_classifier",
    "load_state",
    "read_state_dict",
]


@dataclass(frozen=True, slots=True)
class PretrainedRecord:
    """The weights that training started from; kept in the run and in the package."""

    source: Literal["folder", "cache", "download", "none"]
    """`none`: random initialisation, requested by `x_pretrained: false` or explained in `notice`."""
    file: str | None
    """File name, without its folder."""
    sha256: str | None
    tag: str | None
    """The library's name of the weights; `None` for a file that is not the library's own."""
    licence: str | None
    """SPDX id of the library's own weights; for other files the first line of the `LICENSE*` file beside them."""
    new_head: bool
    """Whether the last layer starts from random numbers because the number of classes differs."""
    resized_positions: bool = False
    """Whether a ViT's position embeddings were interpolated for another image size."""
    backbone_only: bool = False
    """Whether all but the backbone of a detector starts from random numbers."""
    notice: str | None = None
    """One sentence for the user."""

    def to_document(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)


def load_classifier(
    network: nn.Module, row: ModelRow, weights_dir: Path | None = None, pretrained: bool = True
) -> PretrainedRecord:
    """Load pretrained weights into a classifier made by `ClassifierFamily.build`; return what was loaded.

    They are searched by `find_classifier_weights`. The last layer keeps its random start when its number of classes
    differs, a ViT's position embeddings are interpolated to its image size; everything else must fit exactly.

    `pretrained=False` leaves the network as it is. Raises `WeightsMissing` when nothing is found, `UserError` when a
    file is not a state dict of this architecture. Files are read without running code of theirs.
    """
    if not pretrained:
        return PretrainedRecord("none", None, None, None, None, new_head=True)
    found = find_classifier_weights(row, weights_dir)
    state, resized_positions = _with_resized_positions(network, row, read_state_dict(found.file))
    name = f"{row.model_name} ({row.library} {row.builder})"
    head = tuple(f"{module}." for module in row.head)
    new_head = load_state(network, state, head, name, "this architecture or another model_name", found.file)
    sha256 = sha256_of(found.file)
    tag = row.weights_tag if found.is_published(sha256) else None
    return PretrainedRecord(
        source=found.source,
        file=found.file.name,
        sha256=sha256,
        tag=tag,
        licence=row.licence if tag else licence_beside(found.file, (row.model_name, row.builder)),
        new_head=new_head,
        resized_positions=resized_positions,
    )


def read_state_dict(file: Path) -> Mapping[str, torch.Tensor]:
    """Read a file of tensors by name without running code of it; raises `UserError` for anything else."""
    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        state = torch.load(file, map_location="cpu", weights_only=True)
    except (OSError, EOFError, RuntimeError, ValueError, SafetensorError, pickle.UnpicklingError) as error:
        raise UserError(
            f"{file} must be a state dict that loads without running code, but it is not: {_first_line(error)}"
        ) from error
    if not isinstance(state, Mapping) or not all(isinstance(tensor, torch.Tensor) for tensor in state.values()):
        raise UserError(f"{file} must be a state dict (parameter name -> tensor), but it holds {type(state).__name__}")
    return state


def _first_line(error: Exception) -> str:
    lines = str(error).splitlines()
    return lines[0] if lines else type(error).__name__


def _with_resized_positions(
    network: nn.Module, row: ModelRow, state: Mapping[str, torch.Tensor]
) -> tuple[Mapping[str, torch.Tensor], bool]:
    """Interpolate a ViT's position embeddings, (1, 1 + side * side, D), to the image size of the network.

    Bicubic, as for the published fine-tunings at other sizes (https://arxiv.org/abs/2010.11929, section 3.2).
    """
    own, given = network.state_dict().get("pos_embed"), state.get("pos_embed")
    if not row.fixed_size or own is None or given is None or own.shape == given.shape:
        return state, False
    old_side, new_side = (math.isqrt(tensor.shape[1] - 1) for tensor in (given, own))
    if given.dim() != 3 or given.shape[-1] != own.shape[-1] or given.shape[1] != old_side**2 + 1:
        return state, False  # of another architecture, which `load_state` reports
    resized = import_module("timm.layers").resample_abs_pos_embed(given, [new_side, new_side], [old_side, old_side])
    return {**state, "pos_embed": resized}, True


def load_state(
    network: nn.Module, state: Mapping[str, torch.Tensor], head: tuple[str, ...], name: str, advice: str, file: Path
) -> bool:
    """Load strictly, the head excepted when its number of classes differs; return whether the head is new.

    `head` are the prefixes of its tensors. Raises `UserError` that names `file`, the network's `name` and `advice`.
    """
    own = network.state_dict()
    # Batch counters are absent from state dicts of old PyTorch versions and change no answer.
    missing = sorted(key for key in own.keys() - state.keys() if not key.endswith(".num_batches_tracked"))
    unexpected = sorted(state.keys() - own.keys())
    differing = sorted(key for key in own.keys() & state.keys() if own[key].shape != state[key].shape)
    new_head = bool(differing) and all(key.startswith(head) for key in differing) and _same_width(own, state, differing)
    if missing or unexpected or (differing and not new_head):
        first = (missing or unexpected or differing)[0]
        raise UserError(
            f"{file} must hold weights of {name}, but {len(missing)} tensors are missing, {len(unexpected)} are "
            f"unknown and {len(differing)} have another shape, for example {first!r}; use weights of {advice}"
        )
    network.load_state_dict({**own, **{key: state[key] for key in state if not (new_head and key.startswith(head))}})
    return new_head


def _same_width(own: Mapping[str, torch.Tensor], state: Mapping[str, torch.Tensor], names: list[str]) -> bool:
    """Whether the shapes of these tensors differ in the first axis only: by the number of classes."""
    return all(own[name].shape[1:] == state[name].shape[1:] for name in names)


def licence_beside(file: Path, names: Sequence[str]) -> str | None:
    """The first line of the licence file beside weights: named after the file, after one of `names`, or after none."""
    for name in (f"LICENSE.{file.stem}", *(f"LICENSE.{name}" for name in reversed(names)), "LICENSE"):
        licence = file.with_name(name)
        if licence.is_file():
            lines = (line.strip() for line in licence.read_text(errors="replace").splitlines())
            return f"{next((line for line in lines if line), '')} ({name})".strip()
    return None
