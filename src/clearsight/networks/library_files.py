"""Files of published weights: their names, the caches of their libraries, and their downloads.

torchvision keeps `resnet18-f37072fd.pth`, the digits being the start of the sha256, in torch.hub's folder. timm keeps
`model.safetensors` in one repository per set of weights on the Hugging Face hub, and that in the hub's own cache.
Libraries are imported when something is downloaded: `job validate` looks for weights too, and starts without torch.
"""

import socket
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, Final, Protocol

from clearsight import environment
from clearsight.catalogue.models import ModelRow

__all__ = ["DownloadFailed", "LibraryFile", "TimmFile", "TorchvisionFile", "library_file"]

_ADDRESS: Final = "https://download.pytorch.org/models"
_CONNECT_TIMEOUT_S: Final = 20.0
_PROBE_TIMEOUT_S: Final = 10.0
_HUB_FILE: Final = "model.safetensors"


class DownloadFailed(Exception):
    """A download failed; the message is one line."""


class LibraryFile(Protocol):
    """The file of a network's published weights."""

    names: tuple[str, ...]
    """Paths inside a folder of the user's that hold this file, the first to be named in messages."""
    location: str
    """Address or name of the download."""

    def cached(self) -> Path | None:
        """The file in the library's cache, if there is one; without network access."""
        ...

    def download(self) -> Path:
        """Download the file into the library's cache. Raises `DownloadFailed`."""
        ...

    def probe(self) -> None:
        """Ask the server for the file without downloading it. Raises `DownloadFailed`."""
        ...

    def is_published(self, file: Path, sha256: str) -> bool:
        """Whether a file is the library's own, and not another file with its name."""
        ...


def library_file(row: ModelRow) -> LibraryFile:
    """The file of a row's published weights."""
    if row.library == "timm":
        return TimmFile(f"{row.builder}.{row.weights_tag}")
    return TorchvisionFile(f"{_ADDRESS}/{row.weights_file}")


class TorchvisionFile:
    """Weights that torchvision publishes at an address."""

    def __init__(self, url: str) -> None:
        self.location = url
        self.names: tuple[str, ...] = (url.rpartition("/")[2],)
        self._digits = Path(self.names[0]).stem.rpartition("-")[2]

    def cached(self) -> Path | None:
        return file if (file := self._file()).is_file() else None

    def download(self) -> Path:
        """Download by torch.hub, which checks the digits of the name and renames the complete file."""
        hub: Any = import_module("torch.hub")
        target = self._file()
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            with _connect_timeout(_CONNECT_TIMEOUT_S):
                hub.download_url_to_file(self.location, str(target), hash_prefix=self._digits, progress=False)
        except (OSError, RuntimeError) as error:  # no network, refused, a full disk; or the wrong hash
            raise DownloadFailed(_one_line(getattr(error, "reason", error))) from error
        return target

    def probe(self) -> None:
        request = urllib.request.Request(self.location, method="HEAD")  # noqa: S310  the address is ours
        try:
            with urllib.request.urlopen(request, timeout=_PROBE_TIMEOUT_S):  # noqa: S310
                pass
        except OSError as error:
            raise DownloadFailed(_one_line(getattr(error, "reason", error))) from error

    def is_published(self, file: Path, sha256: str) -> bool:
        return sha256.startswith(self._digits)

    def _file(self) -> Path:
        return environment.torch_home() / "hub" / "checkpoints" / self.names[0]


class TimmFile:
    """Weights that timm publishes under a name, `resnest50d.in1k`."""

    def __init__(self, name: str) -> None:
        self.location = f"timm/{name}"
        # As one file, or as the folder that the hub's own command line downloads a repository into.
        self.names: tuple[str, ...] = (f"{name}.safetensors", f"{name}/{_HUB_FILE}")

    def cached(self) -> Path | None:
        found = import_module("huggingface_hub").try_to_load_from_cache(self.location, _HUB_FILE)
        return Path(found) if isinstance(found, str) else None  # else None, or a mark that the hub has no such file

    def download(self) -> Path:
        """Download by the hub's own client, which checks the hash and renames the complete file."""
        with _hub_client() as hub:
            return Path(hub.hf_hub_download(self.location, _HUB_FILE, etag_timeout=_CONNECT_TIMEOUT_S))

    def probe(self) -> None:
        with _hub_client() as hub:
            hub.get_hf_file_metadata(hub.hf_hub_url(self.location, _HUB_FILE), timeout=_PROBE_TIMEOUT_S)

    def is_published(self, file: Path, sha256: str) -> bool:
        """The hub's cache links a file's name to its content, which lies under its sha256."""
        return file.is_symlink() and file.resolve().name == sha256


@contextmanager
def _hub_client() -> Iterator[Any]:
    """The client of the Hugging Face hub. Raises `DownloadFailed` for its errors."""
    hub: Any = import_module("huggingface_hub")
    constants: Any = import_module("huggingface_hub.constants")
    constants.HF_HUB_DISABLE_TELEMETRY = True  # else it sends the versions of installed packages to the hub
    try:
        yield hub
    except Exception as error:  # its versions raise errors of different HTTP libraries, with no common root
        raise DownloadFailed(_one_line(error)) from error


@contextmanager
def _connect_timeout(seconds: float) -> Iterator[None]:
    """torch.hub opens the address without a time limit; only the process-wide default reaches it."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _one_line(error: object) -> str:
    return " ".join(str(error).split()) or type(error).__name__
