"""Where pretrained weights come from: a local folder, the library's cache, its download, or one clear error.

Never silent: what was loaded is returned as a record, and random initialisation happens only when asked for.
"""

import pickle
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Literal

import torch
import torchvision  # type: ignore[import-untyped]
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from clearsight import environment
from clearsight.errors import UserError, WeightsMissing
from clearsight.networks.registry import NetworkSpec, spec_for
from clearsight.package import sha256_of

__all__ = ["PretrainedRecord", "load_pretrained"]

_SUFFIXES: Final = (".pth", ".pt", ".safetensors")
_CONNECT_TIMEOUT_S: Final = 20.0


@dataclass(frozen=True, slots=True)
class PretrainedRecord:
    """What training started from; kept in the run and in the package."""

    source: Literal["folder", "cache", "download", "none"]
    """`none`: random initialisation, asked for by `x_pretrained: false`."""
    file: str | None
    """File name, without its folder."""
    sha256: str | None
    tag: str | None
    """The library's name of the weights; `None` for a file that is not the library's own."""
    licence: str | None
    """SPDX id of the library's own weights; for other files the first line of the `LICENSE*` file beside them."""
    new_head: bool
    """Whether the last layer starts from random numbers because the number of classes differs."""

    def to_document(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class _Found:
    file: Path
    source: Literal["folder", "cache", "download"]


def load_pretrained(
    network: nn.Module, model_name: str, weights_dir: Path | None = None, pretrained: bool = True
) -> PretrainedRecord:
    """Load pretrained weights into a network made by `build_network`; return what was loaded.

    Searched in order: `weights_dir` (without one, the folder of `CLEARSIGHT_WEIGHTS`), torchvision's cache, its
    download (unless `CLEARSIGHT_OFFLINE`). In a folder these names count, in this order: torchvision's own file name
    (`resnet18-f37072fd.pth`), the model name as a prefix (`mobilenetv2*.pth|.pt|.safetensors`), the builder's name as
    a prefix (`mobilenet_v2*`); among several the first by name. The last layer keeps its random start when its number
    of classes differs; everything else must fit exactly.

    `pretrained=False` leaves the network as it is. Raises `WeightsMissing` when nothing is found, `UserError` when a
    file is not a state dict of this architecture. Files are read without running code of theirs.
    """
    spec = spec_for(model_name)
    if not pretrained:
        return PretrainedRecord("none", None, None, None, None, new_head=True)
    found = _find(spec, weights_dir)
    state = _read(found.file)
    new_head = _load(network, spec, state, found.file)
    sha256 = sha256_of(found.file)
    tag = spec.weights_tag if _is_library_file(spec, found.file, sha256) else None
    return PretrainedRecord(
        source=found.source,
        file=found.file.name,
        sha256=sha256,
        tag=tag,
        licence=spec.licence if tag else _licence_beside(found.file, spec),
        new_head=new_head,
    )


def _find(spec: NetworkSpec, weights_dir: Path | None) -> _Found:
    folder = weights_dir or environment.weights_dir()
    tried = []
    if folder is not None:
        if not folder.is_dir():
            raise WeightsMissing(
                f"the weights folder must exist, but {folder} does not (x_weights_dir, CLEARSIGHT_WEIGHTS)"
            )
        if (file := _in_folder(spec, folder)) is not None:
            return _Found(file, "folder")
        tried.append(f"{folder} holds no {_library_file_name(spec)}, {spec.model_name}*.pth or {spec.builder}*.pth")
    else:
        tried.append("no weights folder is set")
    cached = Path(torch.hub.get_dir()) / "checkpoints" / _library_file_name(spec)
    if cached.is_file():
        return _Found(cached, "cache")
    if environment.is_offline():
        tried.append("CLEARSIGHT_OFFLINE forbids the download")
    else:
        fault = _download(spec, cached)
        if fault is None:
            return _Found(cached, "download")
        tried.append(f"the download of {_library_url(spec)} failed ({fault})")
    raise WeightsMissing(
        f"pretrained weights of {spec.model_name} must be loaded, but none were found: {'; '.join(tried)}. "
        f"Put {_library_file_name(spec)} into a folder and name it in x_weights_dir or CLEARSIGHT_WEIGHTS, "
        "or start from random weights with x_pretrained: false"
    )


def _in_folder(spec: NetworkSpec, folder: Path) -> Path | None:
    files = sorted(file for file in folder.iterdir() if file.is_file() and file.suffix in _SUFFIXES)
    exact = [file for file in files if file.name == _library_file_name(spec)]
    named = [file for prefix in (spec.model_name, spec.builder) for file in files if _has_prefix(file, prefix)]
    return next(iter([*exact, *named]), None)


def _has_prefix(file: Path, prefix: str) -> bool:
    """Whether the name starts with the whole word: `resnet18` must not take `resnet18d.pth`."""
    return file.name.startswith(prefix) and file.name[len(prefix)] in "._-"


def _library_url(spec: NetworkSpec) -> str:
    return str(torchvision.models.get_model_weights(spec.builder)[spec.weights_tag].url)


def _library_file_name(spec: NetworkSpec) -> str:
    return _library_url(spec).rpartition("/")[2]


def _is_library_file(spec: NetworkSpec, file: Path, sha256: str) -> bool:
    """Compare with the first eight digits of the sha256, which torchvision writes into its file names."""
    return sha256.startswith(Path(_library_file_name(spec)).stem.rpartition("-")[2])


def _download(spec: NetworkSpec, target: Path) -> str | None:
    """Download into torchvision's cache, checked and moved into place by torch.hub; return the fault, if any."""
    target.parent.mkdir(parents=True, exist_ok=True)
    digits = target.stem.rpartition("-")[2]
    try:
        with _connect_timeout(_CONNECT_TIMEOUT_S):
            torch.hub.download_url_to_file(_library_url(spec), str(target), hash_prefix=digits, progress=False)
    except (OSError, RuntimeError) as error:  # no network, refused, a full disk; or the wrong hash
        return " ".join(str(getattr(error, "reason", error)).split())
    return None


@contextmanager
def _connect_timeout(seconds: float) -> Iterator[None]:
    """torch.hub opens the address without a time limit; only the process-wide default reaches it."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _read(file: Path) -> Mapping[str, torch.Tensor]:
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


def _load(network: nn.Module, spec: NetworkSpec, state: Mapping[str, torch.Tensor], file: Path) -> bool:
    """Load strictly, the head excepted when its number of classes differs; return whether the head is new."""
    own = network.state_dict()
    head = {name for name in own if name.startswith(f"{spec.head}.")}
    # Batch counters are absent from state dicts of old PyTorch versions and change no answer.
    counters = {name for name in own if name.endswith(".num_batches_tracked")}
    missing = sorted(own.keys() - state.keys() - counters)
    unexpected = sorted(state.keys() - own.keys())
    differing = sorted(name for name in own.keys() & state.keys() if own[name].shape != state[name].shape)
    new_head = bool(differing) and set(differing) <= head and _same_width(own, state, differing)
    if missing or unexpected or (differing and not new_head):
        first = (missing or unexpected or differing)[0]
        raise UserError(
            f"{file} must hold weights of {spec.model_name} ({spec.library} {spec.builder}), but "
            f"{len(missing)} tensors are missing, {len(unexpected)} are unknown and {len(differing)} have another "
            f"shape, for example {first!r}; use weights of this architecture or another model_name"
        )
    network.load_state_dict({**own, **{name: state[name] for name in state if not (new_head and name in head)}})
    return new_head


def _same_width(own: Mapping[str, torch.Tensor], state: Mapping[str, torch.Tensor], names: list[str]) -> bool:
    """Whether only the number of classes, the first axis, differs."""
    return all(own[name].shape[1:] == state[name].shape[1:] for name in names)


def _licence_beside(file: Path, spec: NetworkSpec) -> str | None:
    for name in (f"LICENSE.{file.stem}", f"LICENSE.{spec.builder}", f"LICENSE.{spec.model_name}", "LICENSE"):
        licence = file.with_name(name)
        if licence.is_file():
            lines = (line.strip() for line in licence.read_text(errors="replace").splitlines())
            return f"{next((line for line in lines if line), '')} ({name})".strip()
    return None
