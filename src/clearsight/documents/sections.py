"""Rules and sections that Azure's files of models, endpoints and deployments have in common."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Final

from pydantic import WithJsonSchema
from pydantic_core import PydanticCustomError

from clearsight.documents.deployment.variables import VariableName
from clearsight.fields import AnyMapping, Integer, OneOf, Rule, Section, Text, broken_rule, nearest

__all__ = [
    "AzureSection",
    "AzureText",
    "CodeConfiguration",
    "ConvertedText",
    "Count",
    "Environment",
    "FreeMapping",
    "InlineModel",
    "ResourceName",
    "Variables",
]

_NAME_PATTERN: Final = re.compile(r"[a-zA-Z]([-a-zA-Z0-9]*[a-zA-Z0-9])?")
_CONVERTED: Final = Text(may_be_empty=True, converts=True)


@dataclass(frozen=True, slots=True)
class ResourceName(Rule):
    """Azure's rule for the names of endpoints and deployments."""

    lowers: bool = False
    """Whether the name is read in lower case."""

    def read(self, value: Any) -> str:
        name = str(Text(may_be_empty=True).read(value))
        if not _NAME_PATTERN.fullmatch(name):
            message = "must be a letter, then letters, digits and hyphens, not ending in one"
            raise broken_rule("BAD_VALUE", f"{message}, but got {name!r}")
        if not 3 <= len(name) <= 32:
            raise broken_rule("BAD_VALUE", f"must have 3 to 32 characters, but {name!r} has {len(name)}")
        return name.lower() if self.lowers else name

    def json_schema(self) -> dict[str, Any]:
        return {"type": "string", "pattern": f"^{_NAME_PATTERN.pattern}$", "minLength": 3, "maxLength": 32}


FreeMapping = Annotated[Mapping[str, Any], AnyMapping()]
AzureText = Annotated[str, Text(may_be_empty=True)]
ConvertedText = Annotated[str, _CONVERTED]
"""Text that YAML may read as a number or a truth value: `version: 2.0` is the text `2.0`, as for Azure's client."""
Count = Annotated[int, Integer(1)]


class AzureSection(Section):
    """A section of Azure's files of models, endpoints and deployments, in which null is a value of optional keys."""

    __slots__ = ()
    null_is_absent: ClassVar[bool] = False

    @classmethod
    def unknown_key(cls, key: str) -> PydanticCustomError:
        return broken_rule("UNKNOWN_KEY", f"Unknown field{nearest(key, cls.field_names()) or '.'}")


@dataclass(frozen=True, slots=True)
class InlineModel(AzureSection):
    """A model in the file of its deployment."""

    path: AzureText
    name: AzureText | None = None
    version: ConvertedText | None = None
    type: Annotated[str, OneOf(("custom_model", "mlflow_model", "triton_model"), strict=True)] = "custom_model"
    description: AzureText | None = None
    tags: FreeMapping = field(default_factory=dict)
    properties: FreeMapping = field(default_factory=dict)
    flavors: FreeMapping = field(default_factory=dict)
    stage: AzureText | None = None


@dataclass(frozen=True, slots=True)
class CodeConfiguration(AzureSection):
    """A scoring script and its folder."""

    code: AzureText | None = None
    scoring_script: AzureText | None = None


@dataclass(frozen=True, slots=True)
class _Route(AzureSection):
    port: Count
    path: AzureText


@dataclass(frozen=True, slots=True)
class _InferenceRoutes(AzureSection):
    liveness_route: _Route | None = None
    readiness_route: _Route | None = None
    scoring_route: _Route | None = None


@dataclass(frozen=True, slots=True)
class _Build(AzureSection):
    path: AzureText
    dockerfile_path: AzureText | None = None


@dataclass(frozen=True, slots=True)
class Environment(AzureSection):
    """A container image and the packages in it."""

    name: AzureText | None = None
    version: ConvertedText | None = None
    description: AzureText | None = None
    tags: FreeMapping = field(default_factory=dict)
    properties: FreeMapping = field(default_factory=dict)
    image: AzureText | None = None
    conda_file: Annotated[str | Mapping[str, Any], AnyMapping(or_text=True)] | None = None
    build: _Build | None = None
    os_type: AzureText | None = None
    datastore: AzureText | None = None
    inference_config: _InferenceRoutes | None = None


Variables = Annotated[
    dict[Annotated[str, VariableName()], ConvertedText],
    # Pydantic alone says nothing of names that break the rule.
    WithJsonSchema(
        {
            "type": "object",
            "propertyNames": VariableName().json_schema(),
            "additionalProperties": _CONVERTED.json_schema(),
        }
    ),
]
