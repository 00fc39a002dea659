"""The runtimes that carry a network: arrays in, arrays out, whatever is underneath.

Each runtime is imported when it is opened and only then, so that a process that scores with OpenVINO or ONNX Runtime
never imports torch (2.7 s and 530 MB).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from types import MappingProxyType
from typing import Any, Final, Literal, Protocol

import numpy as np
import numpy.typing as npt

from clearsight.errors import UserError
from clearsight.runs.package import ModelPackage

__all__ = [
    "BACKENDS",
    "Array",
    "Backend",
    "BackendSpec",
    "Device",
    "Floats",
    "OpenOptions",
    "Precision",
    "candidates",
    "open_backend",
    "require_able",
]


Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float32]
Device = Literal["cpu", "cuda"]
Precision = Literal["f32", "bf16"]


class Backend(Protocol):
    """A loaded network. Not safe in threads: the caller holds a lock."""

    def run(self, inputs: Sequence[Array]) -> tuple[Array, ...]:
        """Compute the graph's outputs, new arrays, in the order of `Family.signature`, as the inputs are.

        Inputs are C-contiguous and have the types of the graph; images are (N, 3, H, W) with N >= 1.
        """
        ...


@dataclass(frozen=True, slots=True)
class OpenOptions:
    """How a runtime is to run."""

    device: Device = "cpu"
    precision: Precision = "f32"
    num_threads: int = 1
    """Of one call; workers x threads should not exceed the cores."""


@dataclass(frozen=True, slots=True)
class BackendSpec:
    """One row of the table of runtimes."""

    name: str
    needs: str
    """Distribution package that must be importable."""
    opener: str
    """`module:function`, called with the package and `OpenOptions`."""
    devices: tuple[Device, ...]
    precisions: tuple[Precision, ...] = ("f32",)

    def is_installed(self) -> bool:
        return find_spec(self.needs) is not None

    def open(self, package: ModelPackage, options: OpenOptions) -> Backend:
        module, _, function = self.opener.partition(":")
        opener: Callable[[ModelPackage, OpenOptions], Backend] = getattr(import_module(module), function)
        return opener(package, options)


_HERE: Final = "clearsight.handlers.backends"

_ROWS: Final = (
    BackendSpec("openvino", "openvino", f"{_HERE}.openvino:open_openvino", ("cpu",), ("f32", "bf16")),
    BackendSpec("onnxruntime", "onnxruntime", f"{_HERE}.onnxruntime:open_onnxruntime", ("cpu", "cuda")),
    BackendSpec("torchscript", "torch", f"{_HERE}.torch:open_torchscript", ("cpu", "cuda")),
    BackendSpec("eager", "torch", f"{_HERE}.torch:open_eager", ("cpu", "cuda")),
)

BACKENDS: Final[Mapping[str, BackendSpec]] = MappingProxyType({spec.name: spec for spec in _ROWS})
"""In the order in which `auto` prefers them: fastest first on ResNet-50 (39, 41, 67 and 72 ms per image)."""


def candidates(package: ModelPackage, device: Device, precision: Precision) -> list[str]:
    """Backends that may serve a package here, best first: installed, able, and equal to the network at export."""
    agreed = package.manifest["parity"].get("backends", {})
    return [
        spec.name
        for spec in BACKENDS.values()
        if device in spec.devices
        and precision in spec.precisions
        and spec.is_installed()
        and (spec.name == "eager" or spec.name in agreed)
    ]


def open_backend(name: str, package: ModelPackage, options: OpenOptions) -> Backend:
    """Load a package on one runtime. Raises `UserError` when the runtime is unknown, absent or not able to."""
    return require_able(name, options).open(package, options)


def require_able(name: str, options: OpenOptions) -> BackendSpec:
    """Look up a runtime and check, without importing it, that it can run as `options` say."""
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
