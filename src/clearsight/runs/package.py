"""The model package: one folder that training writes, the registry keeps and every server loads.

```
mlflow-model/
    MLmodel  conda.yaml  python_env.yaml  requirements.txt     what MLflow reads
    artifacts/
        settings.json           preprocessing and thresholds; the user may edit it
        labels.json             class names, index = class id
        weights.safetensors     the trained tensors
        model.onnx              serving graph; its tensors by family: networks/serving.py
        model.torchscript.pt    the same as TorchScript
        manifest.json           how this package was made, and the sha256 of everything that must not change
```

The layout is that of the `mlflow-model` folder of Azure's AutoML for images. Nothing in it is a pickle, and nothing in
it is code: Python files, shared libraries, links and an `MLmodel` that loads anything but Clearsight's own module are
refused. Other files, such as the `registered_model_meta` that MLflow writes when it downloads a model, may lie there
unguarded. The hashes detect damage and accidental edits; they are not a signature: load only packages of people you
trust.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt, ValidationError

from clearsight.documents.settings import ALIASES, Settings, parse_settings
from clearsight.errors import Conflict, Fault, InvalidDocument, InvalidPackage
from clearsight.runs.mlmodel import check_loader
from clearsight.tasks import Task

__all__ = [
    "GUARDED_FILES",
    "LABELS_FILE",
    "MANIFEST_FILE",
    "ONNX_FILE",
    "SCHEMA_VERSION",
    "SETTINGS_FILE",
    "TORCHSCRIPT_FILE",
    "WEIGHTS_FILE",
    "Manifest",
    "ModelPackage",
    "publish_package",
    "repeated_label",
    "require_plain_files",
    "sha256_of",
]

SETTINGS_FILE: Final = "artifacts/settings.json"
LABELS_FILE: Final = "artifacts/labels.json"
WEIGHTS_FILE: Final = "artifacts/weights.safetensors"
ONNX_FILE: Final = "artifacts/model.onnx"
TORCHSCRIPT_FILE: Final = "artifacts/model.torchscript.pt"
MANIFEST_FILE: Final = "artifacts/manifest.json"

_MODEL_FILES: Final = (LABELS_FILE, WEIGHTS_FILE, ONNX_FILE, TORCHSCRIPT_FILE)
_MLFLOW_FILES: Final = ("MLmodel", "conda.yaml", "python_env.yaml", "requirements.txt")

GUARDED_FILES: Final = (*_MODEL_FILES, *_MLFLOW_FILES)
"""Files whose sha256 the manifest holds. `settings.json` is not among them, since users may edit it."""

SCHEMA_VERSION: Final = 2
"""Of manifests. Those of version 1 hold no hashes of `MLmodel` and the environment files."""

_GUARDED_BY_VERSION: Final = MappingProxyType({1: _MODEL_FILES, SCHEMA_VERSION: GUARDED_FILES})
_CODE_SUFFIXES: Final = frozenset((".dll", ".egg", ".py", ".pyc", ".pyd", ".pyw", ".so", ".whl"))

_MAX_JSON_BYTES: Final = 16 * 1024 * 1024  # of settings, labels and manifest each; real ones hold kilobytes


def sha256_of(file: Path) -> str:
    """Hash a file's content; lower-case hexadecimal."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def require_plain_files(root: Path) -> None:
    """Refuse what a package never needs and what could reach beyond it. Raises `InvalidPackage` for links and code."""
    for file in sorted(root.rglob("*")):
        name = file.relative_to(root)
        if file.is_symlink():
            raise InvalidPackage(f"a package must hold plain files, but {file} is a link; replace it by the file")
        if file.suffix.lower() in _CODE_SUFFIXES or name.parts[0] == "code":
            raise InvalidPackage(f"a package must hold no code, but {root} holds {name}; remove it")


def publish_package(complete: Path, target: Path) -> None:
    """Rename a complete folder to `target`, so that a reader sees no package or a complete one.

    An older package at `target` is replaced: it is moved aside first and removed last. Anything else there raises
    `Conflict`. Both must lie on one file system.
    """
    if target.exists() and not (target / "MLmodel").exists() and (not target.is_dir() or any(target.iterdir())):
        raise Conflict(f"{target} must be a new folder or an older package, but it is something else; choose another")
    target.parent.mkdir(parents=True, exist_ok=True)
    if not target.exists():
        complete.rename(target)
        return
    aside = target.with_name(f".{target.name}.{os.getpid()}.old")
    target.rename(aside)
    complete.rename(target)
    shutil.rmtree(aside)


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, protected_namespaces=())


class FileRecord(_Document):
    """Hash and size of one file that must not change."""

    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    num_bytes: NonNegativeInt


class Manifest(_Document):
    """`manifest.json`: version, origin and architecture of the package, and how closely its graphs agree."""

    schema_version: Literal[1, 2]
    product_version: str
    created_at: str
    """UTC, ISO 8601."""
    run_id: str
    task: str
    """Azure's name of the task, for example `image_classification`."""
    model_name: str
    num_classes: PositiveInt
    architecture: dict[str, Any]
    """`library`, `builder`, `num_parameters`; of detectors also `model_size` or `options`."""
    pretrained: dict[str, Any]
    """Weights from which training started: `source`, `file`, `sha256`, `tag`, `licence`."""
    settings: dict[str, Any]
    """`settings.json` as it was written: keys that the user removes later are read from here."""
    files: dict[str, FileRecord]
    """Hash and size of every guarded file, by path inside the package."""
    graphs: dict[str, dict[str, Any]]
    """Per graph file: exporter and version, input and output names, opset."""
    parity: dict[str, Any]
    """Largest differences to the eager network, per backend."""
    precision_gates: dict[str, Any] = Field(default_factory=dict)
    """Accuracy of precisions below float32 on images of the run, by precision; a further backend or device of the same
    precision has the key `precision/backend/device`. A record: a deployment chooses."""


@dataclass(frozen=True, slots=True)
class ModelPackage:
    """An opened package. `manifest` is the validated content of `manifest.json`."""

    root: Path
    task: Task
    model_name: str
    labels: tuple[str, ...]
    """Class names; the index is the class id."""
    manifest: Mapping[str, Any]

    @classmethod
    def open(cls, path: Path | str, verify: bool = True) -> Self:
        """Read a package folder and, with `verify`, compare every guarded file with the manifest.

        Raises `InvalidPackage`, which names the file: missing, altered, unreadable, a link, code, or from a newer
        version.
        """
        root = Path(path).absolute()
        if not root.is_dir():
            raise InvalidPackage(f"a model package must be a folder, but {root} is {_what_is(root)}")
        manifest = _read_manifest(root)
        require_plain_files(root)
        labels = _read_labels(root / LABELS_FILE)
        if len(labels) != manifest.num_classes:
            raise InvalidPackage(
                f"{root / LABELS_FILE} must name {manifest.num_classes} classes as the manifest says, "
                f"but it names {len(labels)}"
            )
        package = cls(
            root=root,
            task=Task(manifest.task),
            model_name=manifest.model_name,
            labels=labels,
            manifest=MappingProxyType(manifest.model_dump(mode="json")),
        )
        for name, record in manifest.files.items():
            _check_file(root, name, record, read_content=verify)
        check_loader(root / "MLmodel")
        return package

    @property
    def num_classes(self) -> int:
        return len(self.labels)

    @property
    def run_id(self) -> str:
        return str(self.manifest["run_id"])

    @property
    def weights_file(self) -> Path:
        return self.root / WEIGHTS_FILE

    @property
    def onnx_file(self) -> Path:
        return self.root / ONNX_FILE

    @property
    def torchscript_file(self) -> Path:
        return self.root / TORCHSCRIPT_FILE

    @property
    def settings_file(self) -> Path:
        return self.root / SETTINGS_FILE

    @property
    def manifest_file(self) -> Path:
        return self.root / MANIFEST_FILE

    def unguarded_files(self) -> list[str]:
        """Paths inside the package of the files that may change unnoticed, apart from settings and manifest; sorted."""
        guarded = {*self.manifest["files"], SETTINGS_FILE, MANIFEST_FILE}
        found = {file.relative_to(self.root).as_posix() for file in self.root.rglob("*") if file.is_file()}
        return sorted(found - guarded)

    def precision_gates(self, precision: str, device: str) -> list[Mapping[str, Any]]:
        """The recorded gates of a precision on a device, one per backend; a gate that names no device is of the CPU."""
        gates = self.manifest["precision_gates"].items()
        of_precision = (gate for key, gate in gates if key.partition("/")[0] == precision)
        return [gate for gate in of_precision if gate.get("device", "cpu") == device]

    def settings(self) -> Settings:
        """Inference settings: `settings.json` as it is now; what it leaves out is taken from training.

        Raises `InvalidDocument` naming the key of a bad value.
        """
        return self.settings_and_warnings()[0]

    def trained_settings(self) -> Settings:
        """The settings of training and validation, which `settings.json` held when the package was written."""
        return parse_settings(self.manifest["settings"], self.task, self.model_name)[0]

    def settings_and_warnings(self) -> tuple[Settings, list[str]]:
        """Like `settings`, with one sentence for each key that has no effect (usually a misspelt one)."""
        edited = self._edited_settings()
        given = {ALIASES.get(key, key) for key in edited}
        trained = {key: value for key, value in self.manifest["settings"].items() if key not in given}
        settings, warnings = parse_settings({**trained, **edited}, self.task, self.model_name)
        side = self._side_of_graphs()
        if settings.crop_size is not None and side not in (None, settings.crop_size):
            message = f"must be {side}, the only size that the graphs of this {self.model_name} take"
            fault = Fault("BAD_VALUE", "valid_crop_size", f"{message}, but got {settings.crop_size}")
            raise InvalidDocument(str(self.settings_file), [fault])
        return settings, warnings

    def _side_of_graphs(self) -> int | None:
        """Side of the images that the serving graph takes; `None` when it takes any."""
        shape = self.manifest["graphs"].get(ONNX_FILE, {}).get("input", {}).get("shape", [])
        return shape[-1] if shape and isinstance(shape[-1], int) else None

    def _edited_settings(self) -> dict[str, Any]:
        if not self.settings_file.exists():
            return {}
        document = _read_json(self.settings_file)
        if not isinstance(document, dict):
            fault = Fault("BAD_TYPE", SETTINGS_FILE, f"must be a JSON object, but got {type(document).__name__}")
            raise InvalidDocument(str(self.settings_file), [fault])
        return document


def _what_is(path: Path) -> str:
    return "a file" if path.exists() else "not there"


def _read_json(file: Path) -> Any:
    if not file.is_file():
        raise InvalidPackage(f"a model package must hold {file.name}, but {file} is {_what_is(file)}")
    if file.stat().st_size > _MAX_JSON_BYTES:
        raise InvalidPackage(f"{file} must hold at most {_MAX_JSON_BYTES} bytes, but it holds {file.stat().st_size}")
    try:
        return json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise InvalidPackage(f"{file} must be JSON, but it cannot be parsed: {error}") from error


def _read_manifest(root: Path) -> Manifest:
    file = root / MANIFEST_FILE
    if not file.exists() and (root / "MLmodel").exists():
        raise InvalidPackage(
            f"{root} must hold {MANIFEST_FILE}, but it does not: it is an MLflow model of another program, "
            "which Clearsight does not load (it may run code when opened)"
        )
    document = _read_json(file)
    version = document.get("schema_version") if isinstance(document, dict) else None
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise InvalidPackage(
            f"{file} has schema_version {version}, but this version of Clearsight reads up to {SCHEMA_VERSION}; "
            "upgrade Clearsight"
        )
    try:
        manifest = Manifest.model_validate(document)
        Task(manifest.task)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "manifest"
        raise InvalidPackage(f"{file} is not a manifest of this product: {place}: {first['msg']}") from error
    except ValueError as error:
        raise InvalidPackage(f"{file}: task must be one of {[task.value for task in Task]}: {error}") from error
    guarded = _GUARDED_BY_VERSION[manifest.schema_version]
    if set(manifest.files) != set(guarded):
        raise InvalidPackage(f"{file} must list the files {list(guarded)}, but it lists {sorted(manifest.files)}")
    return manifest


def repeated_label(labels: Sequence[str]) -> str | None:
    """A class name that stands twice among the labels of a model: answers could not tell its classes apart."""
    return next((label for index, label in enumerate(labels) if label in labels[:index]), None)


def _read_labels(file: Path) -> tuple[str, ...]:
    labels = _read_json(file)
    if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
        raise InvalidPackage(f"{file} must be a JSON list of class names")
    return tuple(labels)


def _check_file(root: Path, name: str, record: FileRecord, read_content: bool) -> None:
    file = root / name
    if not file.is_file():
        raise InvalidPackage(f"the package {root} must hold {name}, but it is {_what_is(file)}")
    num_bytes = file.stat().st_size
    if num_bytes != record.num_bytes:
        raise InvalidPackage(
            f"{name} of {root} was altered or damaged: the manifest says {record.num_bytes} bytes, "
            f"but it holds {num_bytes}; export or download the package again"
        )
    if read_content and (found := sha256_of(file)) != record.sha256:
        raise InvalidPackage(
            f"{name} of {root} was altered or damaged: the manifest says sha256 {record.sha256[:12]}…, "
            f"but it has {found[:12]}…; export or download the package again"
        )
