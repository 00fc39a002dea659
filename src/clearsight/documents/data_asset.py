"""Azure's data file (`clearsight data create --file data.yml`), parsed with every fault at once.

Keys follow https://learn.microsoft.com/azure/machine-learning/reference-yaml-data.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Final, Literal, get_args

from clearsight.documents.sections import AzureSection, AzureText, ConvertedText, FreeMapping
from clearsight.errors import Fault, InvalidDocument
from clearsight.fields import OneOf, Text, read

__all__ = ["DATA_TYPES", "DataAssetDocument", "DataAssetSection", "DataType", "parse_data_asset"]

DataType = Literal["uri_file", "uri_folder", "mltable"]
DATA_TYPES: Final[tuple[DataType, ...]] = get_args(DataType)

_URL: Final = re.compile(r"(azureml:|[a-z][a-z0-9+.-]*://|file:|runs:/)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class DataAssetSection(AzureSection):
    """A data file."""

    ignored_keys: ClassVar[tuple[str, ...]] = ("$schema", "id", "creation_context", "latest_version")

    name: AzureText
    path: Annotated[str, Text()]
    type: Annotated[DataType, OneOf(DATA_TYPES, strict=True)] | None = None
    version: ConvertedText | None = None
    description: AzureText | None = None
    tags: dict[str, ConvertedText] = field(default_factory=dict)
    properties: FreeMapping = field(default_factory=dict)
    datastore: AzureText | None = None
    auto_delete_setting: FreeMapping | None = None


@dataclass(frozen=True, slots=True)
class DataAssetDocument:
    """Data to register. `datastore` and `auto_delete_setting` are accepted without effect."""

    name: str
    path: str
    """An absolute path, or a URL as written."""
    type: DataType
    version: str | None
    description: str | None
    tags: Mapping[str, str]
    properties: Mapping[str, Any]


def parse_data_asset(document: Mapping[str, Any], folder: Path, subject: str = "data") -> DataAssetDocument:
    """Check a data file; a relative `path` is relative to `folder`, must exist, and must be of the type.

    Without a `type`, a local file is a `uri_file`, and everything else a `uri_folder`, as in Azure. Raises
    `InvalidDocument` with every fault.
    """
    faults: list[Fault] = []
    section = read(DataAssetSection, document, "", faults, value_code="BAD_VALUE")
    path, data_type = _located(section, document, folder, faults)
    if section is None or faults:
        raise InvalidDocument(subject, faults)
    return DataAssetDocument(
        name=section.name,
        path=path,
        type=data_type,
        version=section.version,
        description=section.description,
        tags=section.tags,
        properties=section.properties,
    )


def _located(
    section: DataAssetSection | None, document: Mapping[str, Any], folder: Path, faults: list[Fault]
) -> tuple[str, DataType]:
    """The path that is registered and its type; what is wrong with them is also said beside other faults."""
    path = document.get("path") if section is None else section.path
    data_type = None if section is None else section.type
    if not isinstance(path, str) or not path.strip():
        return "", "uri_folder"
    if path.startswith("azureml:") and not path.startswith("azureml://"):
        faults.append(Fault("BAD_VALUE", "path", f"must be a path or URL, not other registered data, but got {path!r}"))
    if _URL.match(path):
        return path, data_type or "uri_folder"
    local = (folder / path).absolute()
    if not local.exists():
        faults.append(Fault("MISSING_FILE", "path", f"must exist, but there is no {local}"))
    elif data_type == "uri_file" and not local.is_file():
        faults.append(Fault("BAD_VALUE", "path", f"File path does not match asset type uri_file: {local} is a folder"))
    elif data_type == "uri_folder" and not local.is_dir():
        faults.append(Fault("BAD_VALUE", "path", f"File path does not match asset type uri_folder: {local} is a file"))
    elif data_type == "mltable" and not (local / "MLTable").is_file():
        faults.append(Fault("BAD_VALUE", "path", f"must be a folder with a file named MLTable, but got {local}"))
    return str(local), data_type or ("uri_file" if local.is_file() else "uri_folder")
