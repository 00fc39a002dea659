"""Where a detector starts from: weights of the whole network where they are published, else those of its backbone."""

from pathlib import Path
from typing import Any, Final

import torch
import torchvision  # type: ignore[import-untyped]
from torch import nn

from clearsight.errors import UserError
from clearsight.networks.families.classifiers import spec_for
from clearsight.networks.families.rcnn.detector import Detector
from clearsight.networks.families.rcnn.models import RCNN_MODELS, RcnnModel
from clearsight.networks.library_files import LibraryFile, TorchvisionFile, library_file
from clearsight.networks.weights import (
    PretrainedRecord,
    find_weights,
    find_whole_weights,
    licence_beside,
    read_state_dict,
)
from clearsight.runs.package import sha256_of

__all__ = ["load_pretrained_rcnn"]

_COCO_TAG: Final = "COCO_V1"
_LICENCE: Final = "BSD-3-Clause"
_CLASSIFIER: Final = "fc."


def load_pretrained_rcnn(
    network: Detector, model_name: str, weights_dir: Path | None = None, pretrained: bool = True
) -> PretrainedRecord:
    """Load pretrained weights into a network made by `build_rcnn`, freeze its norms, return what was loaded.

    Searched as by `weights.load_pretrained`. Rows with published COCO weights (those on ResNet-50) take these; the
    others take the classification weights of their backbone, whose last layer is left out. In a folder a file named
    after the model comes first for those too. Whether a file holds a whole detector or a backbone, its content says.
    Layers whose shape follows the number of classes keep their random start when the number differs.

    `pretrained=False` leaves the network as it is, norms included. Raises `WeightsMissing`, `UserError`.
    """
    if not pretrained:
        return PretrainedRecord("none", None, None, None, None, new_head=True)
    row = RCNN_MODELS[model_name]
    published, tag = _published(row)
    names = (model_name,) if row.has_coco_weights else (model_name, row.backbone)
    found = find_whole_weights(model_name, weights_dir) if not row.has_coco_weights else None
    found = found or find_weights(model_name, names, published, weights_dir)
    sha256 = sha256_of(found.file)
    is_published = published.is_published(found.file, sha256)
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
        tag=tag if is_published else None,
        licence=_LICENCE if is_published else licence_beside(found.file, names),
        new_head=new_head,
        backbone_only=not is_whole,
    )


def _published(row: RcnnModel) -> tuple[LibraryFile, str]:
    if row.has_coco_weights:
        weights = torchvision.models.get_model_weights(row.model_name)[_COCO_TAG]
        return TorchvisionFile(str(weights.url)), _COCO_TAG
    spec = spec_for(row.backbone)
    return library_file(spec), spec.weights_tag


def _load_whole(network: Detector, row: RcnnModel, state: dict[str, torch.Tensor], file: Path) -> bool:
    """Return whether layers of the head are new. Published files have older names, which torchvision translates."""
    own = network.state_dict()
    head = {name for name in own if name.startswith(row.head)}
    differing = {name for name in head & state.keys() if own[name].shape != state[name].shape}
    new_head = bool(differing)
    left_out = head if new_head else set()
    _load(network, {name: state[name] for name in state if name not in left_out}, left_out, row, file)
    return new_head


def _load_backbone(network: Detector, row: RcnnModel, state: dict[str, torch.Tensor], file: Path) -> None:
    body: Any = network.backbone.body
    _load(body, {name: state[name] for name in state if not name.startswith(_CLASSIFIER)}, set(), row, file)


def _load(module: nn.Module, state: dict[str, torch.Tensor], left_out: set[str], row: RcnnModel, file: Path) -> None:
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
