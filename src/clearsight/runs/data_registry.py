"""The data registry: named, numbered references to files and folders, in the workspace.

`data-assets/<name>/<version>.json` is the record of one version, which no verb changes afterwards. The data itself
stays where it is.
"""

import json
import os
import re
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from clearsight.documents.data_asset import DataAssetDocument, DataType
from clearsight.documents.references import local_reference
from clearsight.errors import Conflict, NotFound, UserError
from clearsight.files import write_atomically, written_by_way_of
from clearsight.runs.asset_names import (
    is_asset_version,
    parse_asset_reference,
    require_asset_name,
    require_asset_version,
    version_number,
)
from clearsight.runs.workspace import Workspace

__all__ = ["DataAsset", "DataRegistry"]

_NAME_ALONE: Final = re.compile(r"azureml:([^:@/]+)")


@dataclass(frozen=True, slots=True)
class DataAsset:
    """One version of registered data."""

    name: str
    version: str
    type: DataType
    path: str
    """An absolute path, or a URL such as `azureml://datastores/<name>/paths/<path>`."""
    created_at: str
    description: str | None
    tags: Mapping[str, str]
    properties: Mapping[str, Any]

    def to_document(self) -> dict[str, Any]:
        """Plain data like that of `az ml data show`."""
        return {
            "creation_context": {"created_at": self.created_at},
            "description": self.description,
            "id": f"azureml:{self.name}:{self.version}",
            "name": self.name,
            "path": self.path,
            "properties": dict(self.properties),
            "tags": dict(self.tags),
            "type": self.type,
            "version": self.version,
        }


class DataRegistry:
    """The registered data of one workspace."""

    def __init__(self, workspace: Workspace) -> None:
        self._root = workspace.data_assets

    def create(self, document: DataAssetDocument) -> DataAsset:
        """Register data under its version, or the next free whole number. Raises `Conflict` when the version exists."""
        folder = self._root / require_asset_name("a data", document.name)
        if document.version is not None:
            require_asset_version("a data", document.version)
        while True:
            version = document.version or self._next_version(folder)
            asset = DataAsset(
                name=document.name,
                version=version,
                type=document.type,
                path=document.path,
                created_at=datetime.now(UTC).isoformat(),
                description=document.description,
                tags=document.tags,
                properties=document.properties,
            )
            if _publish(folder / f"{version}.json", asset):
                return asset
            if document.version is not None:
                raise Conflict(f"the data {asset.name} has a version {version} already; choose another or leave it out")

    def get(self, name: str, version: str | None = None) -> DataAsset:
        """Look up a version; without one the version created last. Raises `NotFound`, which lists what exists."""
        if version is None:
            return self.versions(name)[0]
        file = self._root / require_asset_name("a data", name) / f"{version}.json"
        if not is_asset_version(version) or not file.is_file():
            known = ", ".join(asset.version for asset in self.versions(name))
            raise NotFound(f"the data {name} has no version {version!r}; it has {known}")
        return _read(file)

    def versions(self, name: str) -> list[DataAsset]:
        """List all versions of a name, the one created last first. Raises `NotFound`."""
        assets = [_read(file) for file in (self._root / require_asset_name("a data", name)).glob("[!.]*.json")]
        if not assets:
            known = self.names()
            hint = f"the workspace has {', '.join(known)}" if known else "the workspace has no data yet"
            raise NotFound(f"there is no data {name!r}; {hint}")
        return sorted(assets, key=lambda asset: (asset.created_at, version_number(asset.version)), reverse=True)

    def names(self) -> list[str]:
        """List the names of all data, sorted."""
        return sorted({file.parent.name for file in self._root.glob("*/[!.]*.json")})

    def list(self) -> list[DataAsset]:
        """List the latest version of all data, by name."""
        return [self.get(name) for name in self.names()]

    def find(self, reference: str) -> DataAsset | None:
        """Look up `azureml:<name>:<version>`, `azureml:<name>@latest` or a long form; None for any other text.

        Raises `NotFound`, and `UserError` for a name without a version.
        """
        text = local_reference(reference, "data") or reference
        if (name := _NAME_ALONE.fullmatch(text)) is not None:
            raise UserError(
                f"data must be named with its version, as azureml:{name[1]}:1 or azureml:{name[1]}@latest, "
                f"but got {text!r}"
            )
        asset = parse_asset_reference(text, "data")
        return None if asset is None else self.get(asset.name, asset.version)

    @staticmethod
    def _next_version(folder: Path) -> str:
        return str(max((version_number(file.stem) for file in folder.glob("[!.]*.json")), default=0) + 1)


def _publish(target: Path, asset: DataAsset) -> bool:
    """Write the record of a version; False when the version exists, also when another process was faster."""
    temporary = target.with_name(f".{uuid.uuid4().hex}.tmp")
    try:
        with written_by_way_of(temporary, target):
            write_atomically(temporary, json.dumps(asdict(asset), indent=2, ensure_ascii=False))
            os.link(temporary, target)
    except FileExistsError:
        return False
    finally:
        temporary.unlink(missing_ok=True)
    return True


def _read(file: Path) -> DataAsset:
    try:
        return DataAsset(**json.loads(file.read_bytes()))
    except (ValueError, TypeError) as error:
        raise UserError(f"{file} must be a record of registered data, but it is not: {error}") from error
