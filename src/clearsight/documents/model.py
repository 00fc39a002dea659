"""Azure's model file (`clearsight model create --file model.yml`), parsed with every fault at once.

Keys follow https://learn.microsoft.com/azure/machine-learning/reference-yaml-model.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Final

from clearsight.documents.sections import AzureSection, AzureText, ConvertedText, FreeMapping
from clearsight.errors import Fault, InvalidDocument
from clearsight.fields import OneOf, Rule, read, refused

__all__ = ["ModelDocument", "ModelSection", "parse_model"]

_TYPES: Final = ("mlflow_model", "custom_model", "triton_model")


@dataclass(frozen=True, slots=True)
class _ModelType(Rule):
    """Azure's types of models, of which one can be served."""

    def read(self, value: Any) -> str:
        name = OneOf(_TYPES, strict=True).read(value)
        if name != "mlflow_model":
            raise refused("BAD_TYPE", "must be mlflow_model, the only type that Clearsight serves")
        return name

    def json_schema(self) -> dict[str, Any]:
        return {"const": "mlflow_model"}


@dataclass(frozen=True, slots=True)
class ModelSection(AzureSection):
    """A model file."""

    ignored_keys: ClassVar[tuple[str, ...]] = ("$schema",)

    name: AzureText
    path: AzureText
    type: Annotated[str, _ModelType()] = "mlflow_model"
    version: ConvertedText | None = None
    description: AzureText | None = None
    tags: dict[str, ConvertedText] = field(default_factory=dict)
    properties: FreeMapping = field(default_factory=dict)
    flavors: FreeMapping = field(default_factory=dict)
    stage: AzureText | None = None
    datastore: AzureText | None = None


@dataclass(frozen=True, slots=True)
class ModelDocument:
    """A model to register, and its name. `flavors`, `stage` and `datastore` are accepted without effect."""

    name: str
    path: Path | str
    """A folder, absolute; or the URI of a run's `mlflow-model`, as written."""
    version: str | None
    description: str | None
    tags: Mapping[str, str]
    properties: Mapping[str, Any]


def parse_model(document: Mapping[str, Any], folder: Path, subject: str = "model") -> ModelDocument:
    """Check a model file; a relative `path` is relative to `folder`. Raises `InvalidDocument` with every fault."""
    faults: list[Fault] = []
    section = read(ModelSection, document, "", faults, value_code="BAD_VALUE")
    if section is None or faults:
        raise InvalidDocument(subject, faults)
    is_uri = section.path.startswith(("azureml:", "runs:"))
    return ModelDocument(
        name=section.name,
        path=section.path if is_uri else (folder / section.path).absolute(),
        version=section.version,
        description=section.description,
        tags=section.tags,
        properties=section.properties,
    )
