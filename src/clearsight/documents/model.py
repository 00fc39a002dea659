"""Azure's model file (`clearsight model create --file model.yml`), parsed with every fault at once.

Keys follow https://learn.microsoft.com/azure/machine-learning/reference-yaml-model.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from clearsight.documents.deployment.schema import SchemaSection, validate

__all__ = ["ModelDocument", "parse_model"]


def _text(value: object) -> object:
    """YAML reads `version: 3` as a number and `tags: {stable: true}` as a truth value; both are texts in Azure."""
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) if isinstance(value, (int, float)) else value


def _mlflow_only(value: str) -> str:
    if value != "mlflow_model":
        raise ValueError(f"must be mlflow_model, the only type that Clearsight serves, but got {value!r}")
    return value


Text = Annotated[str, BeforeValidator(_text)]


class _ModelSection(SchemaSection):
    schema_: str | None = Field(None, alias="$schema")
    name: str
    path: str
    type: Annotated[Literal["mlflow_model", "custom_model", "triton_model"], AfterValidator(_mlflow_only)] = (
        "mlflow_model"
    )
    version: Text | None = None
    description: str | None = None
    tags: dict[str, Text] = Field(default_factory=dict)
    properties: dict[str, Any] = Field(default_factory=dict)
    flavors: dict[str, Any] = Field(default_factory=dict)
    stage: str | None = None
    datastore: str | None = None


@dataclass(frozen=True, slots=True)
class ModelDocument:
    """What to register and under which name. `flavors`, `stage` and `datastore` are accepted without effect."""

    name: str
    path: Path | str
    """A folder, absolute; or the URI of a run's `mlflow-model`, as written."""
    version: str | None
    description: str | None
    tags: Mapping[str, str]
    properties: Mapping[str, Any]


def parse_model(document: Mapping[str, Any], folder: Path, subject: str = "model") -> ModelDocument:
    """Check a model file; a relative `path` is relative to `folder`. Raises `InvalidDocument` with every fault."""
    section = validate(_ModelSection, document, subject)
    is_uri = section.path.startswith(("azureml:", "runs:"))
    return ModelDocument(
        name=section.name,
        path=section.path if is_uri else (folder / section.path).absolute(),
        version=section.version,
        description=section.description,
        tags=section.tags,
        properties=section.properties,
    )
