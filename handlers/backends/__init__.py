"""Runtimes that compute an exported graph: arrays in, arrays out, with one interface for all of them.

`BACKENDS` is the table of runtimes. Scoring, the parity check at export, measuring, the precision gate and the choice
of `auto` all read it, so that a new row makes a new runtime known to all of them.

A runtime is imported when a graph is opened with it and not before, so that a process that scores with OpenVINO or
ONNX Runtime never imports torch (2.7 s and 530 MB).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from pkgutil import resolve_name
from types import MappingProxyType
from typing import Any, Final, Literal, Protocol, get_args

import numpy as np
import numpy.typing as npt

from clearsight.errors import UserError
from clearsight.runs.package import ONNX_FILE, TORCHSCRIPT_FILE, ModelPackage

__all__ = [
    "BACKENDS",
    "DEVICES",
    "PRECISIONS",
    "Array",
    "Backend",
    "BackendSpec",
    "Device",
    "FileKind",
    "Floats",
    "OpenOptions",
    "Precision",
    "able_backends",
    "candidates",
    "device_exists",
    "open_backend",
    "open_graph",
    "require_able",
]


Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float32]
Device = Literal["cpu", "cuda"]
Precision = Literal["f32", "bf16"]
FileKind = Literal["onnx", "torchscript", "package"]
"""What a runtime opens: a graph file, or the folder of a package, whose network it builds and loads with weights."""

DEVICES: Final[tuple[Device, ...]] = get_args(Device)
PRECISIONS: Final[tuple[Precision, ...]] = get_args(Precision)

_FILES: Final[Mapping[FileKind, str]] = {"onnx": ONNX_FILE, "torchscript": TORCHSCRIPT_FILE, "package": "."}
"""Where a package holds each kind of file."""


class Backend(Protocol):
    """An open graph. Not thread-safe: the caller holds a lock.

    It holds its memory until the last reference to it is dropped. The file may be removed after opening.
    """

    def run(self, inputs: Sequence[Array]) -> tuple[Array, ...]:
        """Compute the graph's outputs for its inputs, both in the order of the graph's signature.

        Inputs are C-contiguous and have the dtypes of the graph; images are (N, 3, H, W) with N >= 1. Outputs are new
        arrays.
        """
        ...


@dataclass(frozen=True, slots=True)
class OpenOptions:
    """How a runtime computes."""

    device: Device = "cpu"
    precision: Precision = "f32"
    num_threads: int = 1
    """Compute threads of one call; workers x threads should not exceed the cores."""
    cache_dir: Path | None = None
    """Folder for compiled graphs, which make the next start on this machine faster; None: nothing is cached.

    Its content can be deleted at any time.
    """


@dataclass(frozen=True, slots=True)
class BackendSpec:
    """One row of the table of runtimes."""

    name: str
    needs: str
    """Python package that must be importable."""
    file_kind: FileKind
    opener: str
    """`module:function`, called with the path of the file and `OpenOptions`."""
    devices: tuple[Device, ...]
    precisions: tuple[Precision, ...] = ("f32",)
    is_batch_invariant: bool = False
    """Whether, on the CPU in f32, an image's outputs have the same bits alone and in every batch (measured)."""

    def is_installed(self) -> bool:
        return find_spec(self.needs) is not None

    def is_able(self, device: Device, precision: Precision) -> bool:
        """Whether the runtime is installed and computes in this precision on this device."""
        return device in self.devices and precision in self.precisions and self.is_installed()

    def runtime(self) -> str:
        """The runtime's Python package and its version, for example `openvino 2026.4.0`."""
        try:
            return f"{self.needs} {version(self.needs)}"
        except PackageNotFoundError:  # a distribution of another name, such as onnxruntime-gpu
            return f"{self.needs} {import_module(self.needs).__version__}"

    def file_in(self, package_root: Path) -> Path:
        """The file of a package that this runtime opens."""
        return package_root / _FILES[self.file_kind]

    def open(self, file: Path, options: OpenOptions) -> Backend:
        opener: Callable[[Path, OpenOptions], Backend] = resolve_name(self.opener)
        return opener(file, options)


_HERE: Final = "clearsight.handlers.backends"

_ROWS: Final = (
    BackendSpec("openvino", "openvino", "onnx", f"{_HERE}.openvino:open_openvino", ("cpu",), ("f32", "bf16"), True),
    BackendSpec(
        "onnxruntime",
        "onnxruntime",
        "onnx",
        f"{_HERE}.onnxruntime:open_onnxruntime",
        ("cpu", "cuda"),
        is_batch_invariant=True,
    ),
    BackendSpec("torchscript", "torch", "torchscript", f"{_HERE}.torch:open_torchscript", ("cpu", "cuda")),
    BackendSpec("eager", "torch", "package", f"{_HERE}.torch:open_eager", ("cpu", "cuda")),
)

_TABLE: Final[dict[str, BackendSpec]] = {spec.name: spec for spec in _ROWS}

BACKENDS: Final[Mapping[str, BackendSpec]] = MappingProxyType(_TABLE)
"""In the order in which `auto` prefers them: fastest first on ResNet-50 (39, 41, 67 and 72 ms per image)."""


def able_backends(device: Device, precision: Precision) -> list[BackendSpec]:
    """Installed runtimes that compute in this precision on this device, the preferred first."""
    return [spec for spec in BACKENDS.values() if spec.is_able(device, precision)]


def candidates(package: ModelPackage, device: Device, precision: Precision) -> list[str]:
    """Backends that may serve a package here, best first: able, and equal to the network when it was exported."""
    compared = package.manifest["parity"].get("backends", {})
    return [
        spec.name
        for spec in able_backends(device, precision)
        if spec.file_kind == "package" or spec.name in compared  # built from the package: it is the network itself
    ]


def device_exists(device: Device) -> bool:
    """Whether this machine has the device; a GPU counts where the NVIDIA driver shows one."""
    return device == "cpu" or Path("/dev/nvidia0").exists()


def open_graph(name: str, file: Path, options: OpenOptions) -> Backend:
    """Open a file with one runtime; `file` is of the kind that the runtime's row names.

    Raises `UserError` when the runtime is unknown, not installed, or cannot compute as `options` say, and
    `InvalidPackage` when it cannot read the file.
    """
    return require_able(name, options).open(file, options)


def open_backend(name: str, package: ModelPackage, options: OpenOptions) -> Backend:
    """Open a package's serving graph with one runtime; raises as `open_graph` does."""
    spec = require_able(name, options)
    return spec.open(spec.file_in(package.root), options)


def require_able(name: str, options: OpenOptions) -> BackendSpec:
    """Look up a runtime and check, without importing it, that it can compute as `options` say."""
    spec = BACKENDS.get(name)
    if spec is None:
        raise UserError(f"backend must be one of {['auto', *BACKENDS]}, but got {name!r}")
    if not spec.is_installed():
        raise UserError(
            f"the backend {name} needs {spec.needs}, which is not installed: pip install 'clearsight[score]'"
        )
    if options.device not in spec.devices:
        raise UserError(f"the backend {name} runs on {' and '.join(spec.devices)}, but got device {options.device!r}")
    if options.precision not in spec.precisions:
        able = [other.name for other in BACKENDS.values() if options.precision in other.precisions]
        raise UserError(
            f"the backend {name} computes in {' or '.join(spec.precisions)}, but got precision {options.precision!r}; "
            f"{', '.join(able) or 'no backend'} can"
        )
    return spec
