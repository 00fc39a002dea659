"""Finds pretrained weights: in a local folder, the library's cache, or by its download. Without torch.

Searched in order: the weights folder (`weights_dir`; without one, that of `CLEARSIGHT_WEIGHTS`), the library's cache,
its download (unless `CLEARSIGHT_OFFLINE`). Every family has a function here, which takes a row of the catalogue, the
weights folder, the value of `model_size`, and `probes_only`: then the file that would have to be downloaded is asked
for and not downloaded, which `job validate` does. They raise `WeightsMissing`, which names every way out.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from clearsight import environment
from clearsight.catalogue.models import ModelRow, find_row
from clearsight.errors import WeightsMissing
from clearsight.networks.library_files import DownloadFailed, LibraryFile, library_file

__all__ = [
    "FoundWeights",
    "find_classifier_weights",
    "find_detector_weights",
    "find_yolov5_weights",
    "yolov5_file_names",
]

_SUFFIXES: Final = (".pth", ".pt", ".safetensors")
_YOLOV5: Final = "yolov5"


@dataclass(frozen=True, slots=True)
class FoundWeights:
    """A file of weights, and where it was found."""

    file: Path
    """Where the search only probes, the name of a file that is still to be downloaded."""
    source: Literal["folder", "cache", "download"]
    published: LibraryFile | None
    """The library's own file of these weights; None where nothing is published."""

    def is_published(self, sha256: str) -> bool:
        """Whether the file, whose sha256 is given, is the library's own."""
        return self.published is not None and self.published.is_published(self.file, sha256)


def find_classifier_weights(
    row: ModelRow, weights_dir: Path | None = None, model_size: str | None = None, *, probes_only: bool = False
) -> FoundWeights:
    """Find weights of a classifier.

    In a folder these names count, in this order: the library's own (`resnet18-f37072fd.pth`;
    `resnest50d.in1k.safetensors`, `resnest50d.in1k/model.safetensors`), the model name as a prefix
    (`mobilenetv2*.pth|.pt|.safetensors`), the builder's name as a prefix (`mobilenet_v2*`); among several the first by
    name.
    """
    return _find(row.model_name, (row.model_name, row.builder), library_file(row), weights_dir, probes_only)


def find_detector_weights(
    row: ModelRow, weights_dir: Path | None = None, model_size: str | None = None, *, probes_only: bool = False
) -> FoundWeights:
    """Find weights of a detector on a published backbone: of the whole network, else of the backbone.

    In a folder a file that is named after the model comes first for those without published weights too.
    """
    if row.weights_tag is not None:
        return _find(row.model_name, (row.model_name,), library_file(row), weights_dir, probes_only)
    backbone = library_file(find_row(str(row.backbone)))
    names = (row.model_name, str(row.backbone))
    whole = _find_whole(row.model_name, weights_dir, backbone)
    return whole or _find(row.model_name, names, backbone, weights_dir, probes_only)


def find_yolov5_weights(
    row: ModelRow, weights_dir: Path | None = None, model_size: str | None = None, *, probes_only: bool = False
) -> FoundWeights | None:
    """Find a state dict of the user's own in the weights folder; None where there is none: nothing is published."""
    found = (_find_whole(name, weights_dir, None) for name in yolov5_file_names(model_size or "medium"))
    return next((one for one in found if one is not None), None)


def yolov5_file_names(model_size: str) -> tuple[str, str]:
    """Beginnings of file names: the size as others write it (`yolov5s` for `small`), and the model name."""
    letter = "x" if model_size == "extra_large" else model_size[0]
    return f"{_YOLOV5}{letter}", _YOLOV5


def _find(
    model_name: str, names: Sequence[str], published: LibraryFile, weights_dir: Path | None, probes_only: bool
) -> FoundWeights:
    """Find the file to load; `names` are prefixes that count in a folder, in this order."""
    folder = _folder(weights_dir)
    tried = []
    if folder is not None:
        own = [file for name in published.names if (file := folder / name).is_file()]
        if files := [*own, *_named(folder, names)]:
            return FoundWeights(files[0], "folder", published)
        tried.append(f"{folder} holds no {', '.join([published.names[0], *(f'{name}*.pth' for name in names)])}")
    else:
        tried.append("no weights folder is set")
    if (cached := published.cached()) is not None:
        return FoundWeights(cached, "cache", published)
    if environment.is_offline():
        tried.append("CLEARSIGHT_OFFLINE forbids the download")
    else:
        try:
            if probes_only:
                published.probe()
                return FoundWeights(Path(published.names[0]), "download", published)
            return FoundWeights(published.download(), "download", published)
        except DownloadFailed as error:
            tried.append(f"the download of {published.location} failed ({error})")
    raise WeightsMissing(
        f"pretrained weights of {model_name} must be loaded, but none were found: {'; '.join(tried)}. "
        f"Put {published.names[0]} into a folder and name it in x_weights_dir or CLEARSIGHT_WEIGHTS, "
        "or start from random weights with x_pretrained: false"
    )


def _find_whole(model_name: str, weights_dir: Path | None, published: LibraryFile | None) -> FoundWeights | None:
    """A file of the weights folder that is named after the model itself, if there is one."""
    folder = _folder(weights_dir)
    files = [] if folder is None else _named(folder, (model_name,))
    return FoundWeights(files[0], "folder", published) if files else None


def _folder(weights_dir: Path | None) -> Path | None:
    folder = weights_dir or environment.weights_dir()
    if folder is not None and not folder.is_dir():
        raise WeightsMissing(
            f"the weights folder must exist, but {folder} does not (x_weights_dir, CLEARSIGHT_WEIGHTS)"
        )
    return folder


def _named(folder: Path, names: Sequence[str]) -> list[Path]:
    """Files of weights whose name starts with one of the words, by word, then by name."""
    files = sorted(file for file in folder.iterdir() if file.is_file() and file.suffix in _SUFFIXES)
    return [file for name in names for file in files if _has_prefix(file, name)]


def _has_prefix(file: Path, prefix: str) -> bool:
    """Whether the name starts with the whole word: `resnet18` must not take `resnet18d.pth`."""
    return file.name.startswith(prefix) and file.name[len(prefix)] in "._-"
