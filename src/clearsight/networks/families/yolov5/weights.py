"""Loads a user's own weights: no permissively licensed ones are published for this network."""

from pathlib import Path
from typing import Final

from clearsight.catalogue.models import find_row
from clearsight.networks.families.yolov5.network import Yolov5, name_of_size
from clearsight.networks.weight_search import find_yolov5_weights, yolov5_file_names
from clearsight.networks.weights import PretrainedRecord, licence_beside, load_state, read_state_dict
from clearsight.runs.package import sha256_of

__all__ = ["load_own_yolov5"]

_HEAD: Final = "model.24.m."
_NOTICE: Final = (
    "yolov5 starts from random weights: no permissively licensed ones are published. To start from a state dict of "
    "your own, put {names} into a folder and name it in x_weights_dir or CLEARSIGHT_WEIGHTS"
)


def load_own_yolov5(network: Yolov5, weights_dir: Path | None = None, pretrained: bool = True) -> PretrainedRecord:
    """Load a state dict from `weights_dir`, or without one from the folder of `CLEARSIGHT_WEIGHTS`.

    Files whose names begin with the network's size as others write it come first, then those with the model's name
    (`yolov5s*.safetensors`, `yolov5*.safetensors`; `.pt` and `.pth` too). Names of tensors are the public ones. The
    last layer keeps its random start when its number of classes differs; everything else must fit exactly.

    Without a file, the network stays as it is and the record says so in `notice`. Raises `WeightsMissing` when the
    folder does not exist, `UserError` when the file is not a state dict of this size.
    """
    if not pretrained:
        return PretrainedRecord("none", None, None, None, None, new_head=True)
    size = name_of_size(network.size)
    names = yolov5_file_names(size)
    found = find_yolov5_weights(find_row("yolov5"), weights_dir, size)
    if found is None:
        notice = _NOTICE.format(names=" or ".join(f"{name}*.safetensors" for name in names))
        return PretrainedRecord("none", None, None, None, None, new_head=True, notice=notice)
    state = read_state_dict(found.file)
    new_head = load_state(network, state, (_HEAD,), f"yolov5 {size}", "this model_size", found.file)
    return PretrainedRecord(
        source=found.source,
        file=found.file.name,
        sha256=sha256_of(found.file),
        tag=None,
        licence=licence_beside(found.file, names),
        new_head=new_head,
    )
