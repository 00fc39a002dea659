"""What a batch job gives for each answer beside its scores: images of it, and explanations.

Azure's batch script for image models takes the switches `--model_explainability` and `--xai_parameters`; here they are
`properties` of the deployment.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal

import orjson
from pydantic import BaseModel, ConfigDict
from pydantic_core import PydanticCustomError

from clearsight import environment
from clearsight.catalogue.algorithms import CLASSIFIER_ALGORITHMS, DETECTOR_ALGORITHMS
from clearsight.errors import UserError
from clearsight.fields import OneOf, Rule, Truth, shown
from clearsight.handlers.explain.options import ExplainOptions
from clearsight.handlers.explain.parameters import XaiParameters, parse_xai_parameters
from clearsight.runs.package import ModelPackage
from clearsight.serving.batch.results.new_file import already_exists
from clearsight.tasks import Task

__all__ = ["EXPLANATIONS", "MASKS", "NO_ROW_OUTPUTS", "OVERLAYS", "RowOutputs", "parse_parameters", "read_properties"]

OVERLAYS: Final = "overlays"
MASKS: Final = "masks"
EXPLANATIONS: Final = "explanations"
"""Folders below the output folder of a job."""


class RowOutputs(BaseModel):
    """What is written for each answer, as a part of the plan of a batch job."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    overlays: bool = False
    """Draw each answer on its image."""
    masks: bool = False
    """Instance segmentation: write an image of the instance numbers of the pixels."""
    explain: dict[str, Any] | None = None
    """The `xai_parameters` with which each image is explained; None: no explanations."""
    explanations: Literal["files", "inline"] = "files"
    """Whether the results name files of the explanations or hold them, as the answers of an online endpoint do."""

    def for_package(self, package: ModelPackage, variables: Mapping[str, str]) -> "RowOutputs":
        """These outputs, with masks where the package's settings have `export_as_image`.

        `variables` are the environment variables of the job. Raises `UserError` for what the package cannot give.
        """
        settings = package.settings().masks
        if self.masks and settings is None:
            raise UserError(
                f"masks are written of instance segmentation alone, but {package.root} is a package of "
                f"{package.task.value}; leave them out"
            )
        if self.explain is not None:
            _check_parameters(self.explain, package, _options(variables))
        return self.model_copy(update={"masks": self.masks or (settings is not None and settings.export_as_image)})

    def require_free(self, folder: Path) -> None:
        """Raise `Conflict` when a folder that would be filled holds files already: before a job starts."""
        stores = self.explain is not None and self.explanations == "files"
        for name, is_filled in ((OVERLAYS, self.overlays), (MASKS, self.masks), (EXPLANATIONS, stores)):
            target = folder / name
            if is_filled and target.exists() and not (target.is_dir() and not any(target.iterdir())):
                raise already_exists(target)

    def fingerprint(self, variables: Mapping[str, str]) -> dict[str, str]:
        """What these outputs and the environment variables of the job decide, by the name that its user knows."""
        of_explanations = ("", "", "")
        if self.explain is not None:
            options = {name: getattr(_options(variables), name) for name in _DECISIVE_OPTIONS}
            of_explanations = (json.dumps(self.explain, sort_keys=True), self.explanations, json.dumps(options))
        parameters, place, chosen = of_explanations
        return {
            "overlays": "yes" if self.overlays else "no",
            "masks": "yes" if self.masks else "no",
            "xai_parameters": parameters,
            "explanations": place,
            "the variables CLEARSIGHT_EXPLAIN_…": chosen,
        }

    def answer_keys(self, task: Task) -> tuple[str, ...]:
        """Keys of the answers that the explanations add, in the order of Azure's answers."""
        if self.explain is None:
            return ()
        if not task.is_classification:
            return ("explanations",)
        parameters = parse_xai_parameters(self.explain, algorithms=CLASSIFIER_ALGORITHMS)
        has_details = parameters.details or parameters.faithfulness
        keys = {
            "visualizations": parameters.visualizations,
            "attributions": parameters.attributions,
            "explanation_details": has_details,
        }
        return tuple(key for key, is_there in keys.items() if is_there)


NO_ROW_OUTPUTS: Final = RowOutputs()

_DECISIVE_OPTIONS: Final = tuple(
    name for name in ExplainOptions.field_names() if name not in ("cache_bytes", "warm_up", "max_answer_bytes")
)
"""Explanation options that decide what an explanation is."""


def read_properties(properties: Mapping[str, Any]) -> RowOutputs:
    """The outputs that the `properties` of a batch deployment ask for. Raises `UserError` naming the property."""
    explain = None
    is_explained = _read(properties, "model_explainability", Truth(), None)
    if is_explained is None and (key := next((key for key in _OF_EXPLANATIONS if key in properties), None)):
        raise UserError(
            f"properties.{key} is for jobs that explain, but model_explainability is missing; set it to true, or leave "
            f"{key} out"
        )
    if is_explained:
        explain = parse_parameters(properties.get("xai_parameters"), "properties.xai_parameters")
    return RowOutputs(
        overlays=_read(properties, "save_overlays", Truth(), False),
        masks=_read(properties, "save_masks", Truth(), False),
        explain=explain,
        explanations=_read(properties, "explanations", OneOf(("files", "inline")), "files"),
    )


_OF_EXPLANATIONS: Final = ("xai_parameters", "explanations")


def parse_parameters(value: object, name: str) -> dict[str, Any]:
    """The object `xai_parameters`, given as such or as JSON text; None is the empty one. Raises `UserError`."""
    parsed = {} if value is None else value
    if isinstance(parsed, str):
        try:
            parsed = orjson.loads(parsed)
        except orjson.JSONDecodeError:
            parsed = None
    if not isinstance(parsed, Mapping):
        raise UserError(f"{name} must be a JSON object, for example {_EXAMPLE}, but got {shown(value)}")
    return dict(parsed)


_EXAMPLE: Final = '{"xai_algorithm": "xrai", "visualizations": true}'


def _read(properties: Mapping[str, Any], key: str, rule: Rule, default: Any) -> Any:
    if (value := properties.get(key)) is None:
        return default
    try:
        return rule.read(value)
    except PydanticCustomError as error:
        raise UserError(f"properties.{key} {error.message()}, but got {shown(value)}") from None


def _options(variables: Mapping[str, str]) -> ExplainOptions:
    """The explanation options of a worker of the job. Raises `InvalidDocument`."""
    return ExplainOptions.from_variables({**environment.explain_variables(), **variables})


def _check_parameters(document: Mapping[str, Any], package: ModelPackage, options: ExplainOptions) -> XaiParameters:
    """Check what can be known before any image is seen. Raises `UserError`."""
    able = CLASSIFIER_ALGORITHMS if package.task.is_classification else DETECTOR_ALGORITHMS
    named = document.get("xai_algorithm")
    if not package.task.is_classification and named not in able:
        raise UserError(
            f"the xai_algorithm of a batch job must be {' or '.join(able)} for a package of {package.task.value}, but "
            f"{'none was given' if named is None else f'got {shown(named)}'}"
        )
    parameters = parse_xai_parameters(document, options.limits, able)
    for key in ("target_labels", "contrast_label"):
        value = getattr(parameters, key)
        names = () if value is None else (value,) if isinstance(value, str) else value
        unknown = next((name for name in names if name not in package.labels), None)
        if unknown is not None and package.task.is_classification:
            raise UserError(
                f"{key!r} must name labels of {package.root}, {', '.join(package.labels[:10])}, but got "
                f"{shown(unknown)}"
            )
    return parameters
