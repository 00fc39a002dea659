"""The model registry: named, numbered copies of packages in the workspace.

```
models/<name>/<version>/model.json      the record: where it came from, fingerprints, the validated settings
models/<name>/<version>/mlflow-model/   the package
```

A version appears complete or not at all, and is not changed afterwards by any verb.
"""

import json
import re
import shutil
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from clearsight.documents.references import local_reference
from clearsight.documents.settings import to_document
from clearsight.errors import Conflict, InvalidPackage, NotFound, UserError
from clearsight.files import write_atomically, written_by_way_of
from clearsight.runs.asset_names import (
    is_asset_version,
    parse_asset_reference,
    require_asset_name,
    require_asset_version,
    version_number,
)
from clearsight.runs.mlmodel import read_flavors
from clearsight.runs.package import (
    LABELS_FILE,
    ModelPackage,
    publish_package,
    repeated_label,
    require_plain_files,
    sha256_of,
)
from clearsight.runs.workspace import Workspace

__all__ = ["MODEL_TYPE", "ModelRegistry", "RegisteredModel"]

MODEL_TYPE: Final = "mlflow_model"

_RUN_URIS: Final = (
    re.compile(r"azureml://jobs/(?P<run>[^/]+)/outputs/artifacts/(?:paths/)?outputs/mlflow-model/?"),
    re.compile(r"runs:/(?P<run>[^/]+)/outputs/mlflow-model/?"),
)
_NAME_ALONE: Final = re.compile(r"azureml:([^:@/]+)")
_PACKAGE: Final = "mlflow-model"
_RECORD: Final = "model.json"


@dataclass(frozen=True, slots=True)
class RegisteredModel:
    """One version of a model. `to_document` is what `clearsight model show` prints."""

    name: str
    version: str
    folder: Path
    """Folder with the record and the package."""
    source: str
    """Path that the package was copied from, as the user wrote it."""
    created_at: str
    description: str | None
    tags: Mapping[str, str]
    properties: Mapping[str, Any]
    """Properties that the user set; they are shown beside those of Clearsight."""
    task: str
    model_name: str
    labels: tuple[str, ...]
    run_id: str
    settings: Mapping[str, Any]
    """The settings in force, every key written out, as validated when the model was registered."""
    settings_sha256: str | None
    """sha256 of `settings.json` at registration; `None` when the package has none."""
    files_sha256: Mapping[str, str]
    """sha256 of the guarded files, by path inside the package."""

    @property
    def package_path(self) -> Path:
        return self.folder / _PACKAGE

    @property
    def reference(self) -> str:
        return f"azureml:{self.name}:{self.version}"

    def to_document(self) -> dict[str, Any]:
        """Plain data like that of `az ml model show`; additions of Clearsight stand under `properties`.

        `flavors` is what the package's `MLmodel` says. Raises `InvalidPackage` when that cannot be read.
        """
        return {
            "creation_context": {"created_at": self.created_at},
            "description": self.description,
            "flavors": read_flavors(self.package_path / "MLmodel"),
            "id": self.reference,
            "job_name": self.run_id,
            "name": self.name,
            "path": str(self.package_path),
            "properties": {
                **self.properties,
                "files_sha256": dict(self.files_sha256),
                "labels": list(self.labels),
                "model_name": self.model_name,
                "settings": dict(self.settings),
                "settings_sha256": self.settings_sha256,
                "source": self.source,
                "task": self.task,
            },
            "tags": dict(self.tags),
            "type": MODEL_TYPE,
            "version": self.version,
        }


@dataclass(frozen=True, slots=True)
class Verification:
    """Result of checking a registered model that is not damaged; damage raises an error."""

    model: RegisteredModel
    settings_edited: bool
    """Whether `settings.json` differs from what was registered: allowed, but worth knowing."""
    unguarded_files: tuple[str, ...]
    """Files of the package that the manifest does not guard, apart from settings and manifest."""


class ModelRegistry:
    """The models of one workspace."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace

    def create(
        self,
        path: Path | str,
        name: str,
        version: str | None = None,
        *,
        description: str | None = None,
        tags: Mapping[str, str] | None = None,
        properties: Mapping[str, Any] | None = None,
    ) -> RegisteredModel:
        """Copy a package into the registry, under the next free whole number or under `version`.

        `path` is a folder, `azureml://jobs/<run>/outputs/artifacts/outputs/mlflow-model/` or
        `runs:/<run>/outputs/mlflow-model`. The copy is verified and its settings are validated before it appears.
        Raises `InvalidPackage`, `InvalidDocument` (bad settings, by key), `Conflict` when the version exists.
        """
        require_asset_name("a model", name)
        if version is not None:
            require_asset_version("a model", version)
            if (self._workspace.models / name / version).exists():
                raise Conflict(f"the model {name} has a version {version} already; choose another or leave it out")
        source = self.locate(path)
        folder = self._workspace.models / name / f".{uuid.uuid4().hex}.tmp"
        try:
            with written_by_way_of(folder, folder.parent):
                _copy(source, folder / _PACKAGE)
                record = replace(
                    _verified(folder / _PACKAGE, source, name),
                    source=str(path),
                    description=description,
                    tags=dict(tags or {}),
                    properties=dict(properties or {}),
                )
                return self._publish(folder, record, version)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def get(self, name: str, version: str | None = None) -> RegisteredModel:
        """Look up a version; without one the version created last. Raises `NotFound`, which lists what exists."""
        if version is None:
            return self.versions(name)[0]
        file = self._workspace.models / require_asset_name("a model", name) / version / _RECORD
        if not is_asset_version(version) or not file.is_file():
            known = [model.version for model in self.versions(name)]
            raise NotFound(f"the model {name} has no version {version!r}; it has {', '.join(known)}")
        return _read(file)

    def versions(self, name: str) -> list[RegisteredModel]:
        """List all versions of a model, the one created last first. Raises `NotFound`."""
        models = [
            _read(file) for file in (self._workspace.models / require_asset_name("a model", name)).glob(f"*/{_RECORD}")
        ]
        if not models:
            known = self.names()
            hint = f"the workspace has {', '.join(known)}" if known else "the workspace has no models yet"
            raise NotFound(f"there is no model {name!r}; {hint}")
        return sorted(models, key=lambda model: (model.created_at, version_number(model.version)), reverse=True)

    def names(self) -> list[str]:
        """List the names of all models, sorted."""
        return sorted({file.parent.parent.name for file in self._workspace.models.glob(f"*/*/{_RECORD}")})

    def list(self) -> list[RegisteredModel]:
        """List the latest version of every model, by name."""
        return [self.get(name) for name in self.names()]

    def resolve(self, reference: Path | str) -> Path:
        """Find the package folder of `azureml:name:version`, `azureml:name@latest`, or of what `locate` knows.

        Azure's long forms, such as `azureml://registries/r/models/name/versions/version`, mean the same model here.
        """
        asset = parse_asset_reference(local_reference(str(reference)) or str(reference), "a model")
        if asset is None:
            return self.locate(reference)
        return self.get(asset.name, asset.version).package_path

    def locate(self, path: Path | str) -> Path:
        """Find the folder of a path or of a run's `mlflow-model` URI. Raises `NotFound`."""
        text = str(path)
        for pattern in _RUN_URIS:
            if (match := pattern.fullmatch(text)) is not None:
                return self._of_run(match["run"])
        if local_reference(text) is not None or parse_asset_reference(text, "a model") is not None:
            return self.resolve(text)
        if (name := _NAME_ALONE.fullmatch(text)) is not None:
            raise UserError(
                f"a model must be named with its version, as azureml:{name[1]}:1 or azureml:{name[1]}@latest, "
                f"but got {text!r}"
            )
        if text.startswith(("azureml:", "runs:")):
            raise UserError(
                "a model path must be a folder, azureml://jobs/<run>/outputs/artifacts/outputs/mlflow-model/ or "
                f"runs:/<run>/outputs/mlflow-model, but got {text!r}"
            )
        if not Path(path).is_dir():
            raise NotFound(f"the model path must be a package folder, but {path} does not exist or is a file")
        return Path(path)

    def download(self, name: str, version: str | None, target: Path) -> Path:
        """Copy a package out of the registry to `target`/`name`/mlflow-model, as Azure does; return that folder.

        An older download there is replaced.
        """
        model = self.get(name, version)
        destination = target / name / _PACKAGE
        temporary = destination.with_name(f".{_PACKAGE}.{uuid.uuid4().hex}.tmp")
        try:
            with written_by_way_of(temporary, destination):
                _copy(model.package_path, temporary)
                _verified(temporary, model.package_path, name)
                publish_package(temporary, destination)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        return destination

    def verify(self, name: str, version: str | None = None) -> Verification:
        """Compare a registered package with its record and its manifest; edited settings are allowed if valid.

        Raises `InvalidPackage` naming an altered file, `InvalidDocument` naming a bad key of the settings.
        """
        model = self.get(name, version)
        package = ModelPackage.open(model.package_path)
        found = _files_sha256(package)
        for name in sorted({*found, *model.files_sha256}):
            then, now = model.files_sha256.get(name), found.get(name)
            if then != now:
                raise InvalidPackage(
                    f"{name} of {package.root} was altered together with the manifest: it was registered with "
                    f"{_hash(then)}, but it has {_hash(now)}; register the package again"
                )
        package.settings()
        is_edited = _settings_sha256(package) != model.settings_sha256
        return Verification(model, settings_edited=is_edited, unguarded_files=tuple(package.unguarded_files()))

    def _of_run(self, run: str) -> Path:
        folder = self._workspace.runs / run / "outputs" / _PACKAGE
        if run in (".", "..") or not folder.is_dir():
            reason = "has no model (yet)" if folder.parent.parent.is_dir() else "does not exist in this workspace"
            raise NotFound(f"the run {run!r} {reason}: {folder} is not there")
        return folder

    def _publish(self, folder: Path, record: RegisteredModel, wanted: str | None) -> RegisteredModel:
        while True:
            version = wanted or self._next_version(record.name)
            final = replace(record, version=version, folder=folder.with_name(version))
            document = {key: value for key, value in asdict(final).items() if key != "folder"}
            write_atomically(folder / _RECORD, json.dumps(document, indent=2, ensure_ascii=False))
            try:
                folder.rename(final.folder)
            except OSError:
                if not final.folder.exists():
                    raise
                if wanted is not None:
                    raise Conflict(f"the model {record.name} has a version {version} already") from None
                continue  # another process took the number meanwhile
            return final

    def _next_version(self, name: str) -> str:
        taken = [version_number(folder.name) for folder in (self._workspace.models / name).iterdir()]
        return str(max(taken, default=0) + 1)


def _copy(source: Path, target: Path) -> None:
    require_plain_files(source)
    shutil.copytree(source, target)


def _verified(copy: Path, source: Path, name: str) -> RegisteredModel:
    """Verify a copy of `source`; what is wrong with both is said of `source`, for the copy goes away."""
    try:
        return _describe(ModelPackage.open(copy), name)
    except UserError:
        _describe(ModelPackage.open(source), name)
        raise


def _describe(package: ModelPackage, name: str) -> RegisteredModel:
    """The fields that the package itself determines; `create` fills in the others."""
    if (label := repeated_label(package.labels)) is not None:
        raise InvalidPackage(
            f"{package.root / LABELS_FILE} must name different classes, but {label!r} stands there twice; "
            "give them different names in the training data and train again"
        )
    return RegisteredModel(
        name=name,
        version="",
        folder=package.root.parent,
        source=str(package.root),
        created_at=datetime.now(UTC).isoformat(),
        description=None,
        tags={},
        properties={},
        task=package.task.value,
        model_name=package.model_name,
        labels=package.labels,
        run_id=package.run_id,
        settings=to_document(package.settings()),
        settings_sha256=_settings_sha256(package),
        files_sha256=_files_sha256(package),
    )


def _files_sha256(package: ModelPackage) -> dict[str, str]:
    """Hashes from the manifest; `ModelPackage.open` has compared them with the files."""
    return {name: str(record["sha256"]) for name, record in package.manifest["files"].items()}


def _hash(sha256: str | None) -> str:
    return "no sha256" if sha256 is None else f"sha256 {sha256[:12]}…"


def _settings_sha256(package: ModelPackage) -> str | None:
    return sha256_of(package.settings_file) if package.settings_file.exists() else None


def _read(file: Path) -> RegisteredModel:
    try:
        document = json.loads(file.read_bytes())
        return RegisteredModel(**{**document, "labels": tuple(document["labels"])}, folder=file.parent)
    except (ValueError, TypeError, KeyError) as error:
        raise InvalidPackage(f"{file} must be a record of the registry, but it is not: {error}") from error
