"""Pretrained weights of a detector: of the whole network where they are published, else of its backbone."""

from pathlib import Path
from typing import Any, Final

import torch
from torch import nn

from clearsight.catalogue.models import ModelRow, find_row
from clearsight.errors import UserError
from clearsight.networks.families.rcnn.detector import Detector
from clearsight.networks.weight_search import find_detector_weights
from clearsight.networks.weights import PretrainedRecord, licence_beside, read_state_dict
from clearsight.runs.package import sha256_of

__all__ = ["load_pretrained_rcnn"]

_CLASSIFIER: Final = "fc."


def load_pretrained_rcnn(
    network: Detector, row: ModelRow, weights_dir: Path | None = None, pretrained: bool = True
) -> PretrainedRecord:
    """Load pretrained weights into a network made by `RcnnFamily.build`, freeze its norms, return what was loaded.

    They are searched by `find_detector_weights`. Rows with published COCO weights (those on ResNet-50) take these; the
    others take the classification weights of their backbone, whose last layer is left out. The content of a file
    decides whether it is a detector or a backbone. Layers whose shape follows the number of classes keep their random
    start when the number differs.

    `pretrained=False` leaves the network as it is, norms included. Raises `WeightsMissing`, `UserError`.
    """
    if not pretrained:
        return PretrainedRecord("none", None, None, None, None, new_head=True)
    found = find_detector_weights(row, weights_dir)
    source = row if row.weights_tag is not None else find_row(str(row.backbone))
    sha256 = sha256_of(found.file)
    is_published = found.is_published(sha256)
    state = read_state_dict(found.file)
    is_whole = any(name.startswith("backbone.") for name in state)
    if is_whole:
        new_head = _load_whole(network, row, dict(state), found.file)
        if is_published:
            _take_out_epsilon(network)
    else:
        _load_backbone(network, row, dict(state), found.file)
        new_head = True
    network.freeze_norms()
    return PretrainedRecord(
        source=found.source,
        file=found.file.name,
        sha256=sha256,
        tag=source.weights_tag if is_published else None,
        licence=row.licence if is_published else licence_beside(found.file, (row.model_name, source.model_name)),
        new_head=new_head,
        backbone_only=not is_whole,
    )


def _load_whole(network: Detector, row: ModelRow, state: dict[str, torch.Tensor], file: Path) -> bool:
    """Return whether layers of the head are new. Published files have older names, which torchvision translates."""
    own = network.state_dict()
    head = {name for name in own if name.startswith(tuple(f"{module}." for module in row.head))}
    differing = {name for name in head & state.keys() if own[name].shape != state[name].shape}
    new_head = bool(differing)
    left_out = head if new_head else set()
    _load(network, {name: state[name] for name in state if name not in left_out}, left_out, row, file)
    return new_head


def _load_backbone(network: Detector, row: ModelRow, state: dict[str, torch.Tensor], file: Path) -> None:
    body: Any = network.backbone.body
    _load(body, {name: state[name] for name in state if not name.startswith(_CLASSIFIER)}, set(), row, file)


def _load(module: nn.Module, state: dict[str, torch.Tensor], left_out: set[str], row: ModelRow, file: Path) -> None:
    try:
        missing, unexpected = module.load_state_dict(state, strict=False)
    except RuntimeError as error:  # its first line names the class, the next a tensor of another shape
        reason = str(error).splitlines()[-1].strip()
    else:
        # Batch counters are absent from older files and change no answer.
        absent = [name for name in missing if name not in left_out and not name.endswith(".num_batches_tracked")]
        if not absent and not unexpected:
            return
        first = (absent or unexpected)[0]
        reason = f"{len(absent)} tensors are missing and {len(unexpected)} are unknown, for example {first!r}"
    raise UserError(
        f"{file} must hold weights of {row.model_name} or of its backbone {row.backbone}, but {reason}; "
        "use weights of this architecture or another model_name"
    )


def _take_out_epsilon(network: Detector) -> None:
    """COCO weights of torchvision were trained with norms that add nothing to the variance, ours add 1e-5."""
    for module in network.backbone.modules():
        if isinstance(module, nn.BatchNorm2d) and module.running_var is not None:
            module.running_var -= module.eps
