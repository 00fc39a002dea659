"""`clearsight explain`: explain a model's decisions on images, in this process."""

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np
import orjson
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from clearsight.catalogue.algorithms import (
    ALGORITHMS,
    CLASSIFIER_ALGORITHMS,
    DETECTOR_ALGORITHMS,
    PARAMETERS,
    Indices,
    LabelNames,
    ParameterRow,
)
from clearsight.console import AzCommand, emit, stderr
from clearsight.errors import UserError
from clearsight.fields import Integer, Number, OneOf, Truth
from clearsight.files import write_atomically
from clearsight.handlers.backends import BACKENDS
from clearsight.handlers.explain.answering.explainer import Explanation
from clearsight.handlers.explain.answering.scoring import explaining_scorer
from clearsight.handlers.explain.objects.explainer import ExplainedObject
from clearsight.handlers.explain.options import ExplainOptions
from clearsight.handlers.explain.parameters import XaiParameters, parse_xai_parameters
from clearsight.handlers.scoring.scorer import load_scorer
from clearsight.images.files import InputImage, find_images, free_name, read_image
from clearsight.runs.model_registry import ModelRegistry
from clearsight.runs.workspace import Workspace

__all__ = ["explain"]


@dataclass(frozen=True, slots=True)
class _Saved:
    """The two files written for one explained label or box."""

    image: Path
    array: Path


def parameter_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add an option for each key of `xai_parameters` whose row names one; the argument is named like the key."""
    for row in reversed(tuple(PARAMETERS.values())):
        if row.option:
            command = click.option(f"--{row.option}", row.key, **_option(row))(command)
    return command


def _option(row: ParameterRow) -> dict[str, Any]:
    """Arguments of `click.option` for a row; None, or no value of a list, leaves the key out of the request.

    A flag turns its key to the opposite of the default.
    """
    readers = ", ".join(row.algorithms)
    is_for_all = set(row.algorithms) in ({*CLASSIFIER_ALGORITHMS}, {*DETECTOR_ALGORITHMS}, {*ALGORITHMS})
    text = row.option_help if is_for_all else f"{readers}: {row.option_help}"
    if row.default is not None and not isinstance(row.rule, Truth):
        text += f"  [default: {row.shown_default.replace('`', '')}]"
    match row.rule:
        case Truth():
            return {"help": text, "is_flag": True, "flag_value": not row.default, "default": None}
        case OneOf(members):
            return {"help": text, "type": click.Choice(members)}
        case Integer():
            return {"help": text, "type": int}
        case Number():
            return {"help": text, "type": float}
        case LabelNames():
            return {"help": text, "multiple": True, "metavar": "LABEL"}
        case _:
            return {"help": text, "metavar": "0,2|all" if isinstance(row.rule, Indices) else "LABEL"}


@click.command(cls=AzCommand)
@click.argument("images", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="IMAGE|FOLDER...")
@click.option(
    "--package", required=True, metavar="FOLDER", help="A package folder, or azureml:NAME:VERSION, azureml:NAME@latest."
)
@click.option(
    "--algorithm",
    type=click.Choice(tuple(ALGORITHMS)),
    help=f"{' and '.join(DETECTOR_ALGORITHMS)} explain detectors, the others explain classifiers.  "
    f"[default: {CLASSIFIER_ALGORITHMS[0]}; of a detector {DETECTOR_ALGORITHMS[0]}]",
)
@click.option(
    "--save",
    metavar="FOLDER",
    type=click.Path(path_type=Path),
    help="Write an image (PNG) and an array (.npy, float32 of 3 x P x P; of a detector H x W) for each label or box.",
)
@parameter_options
@click.option("--output", "-o", default="json", show_default=True, type=click.Choice(["json", "jsonl", "table"]))
@click.option("--backend", default="auto", show_default=True, type=click.Choice(["auto", *BACKENDS]))
def explain(
    images: tuple[Path, ...],
    package: str,
    algorithm: str | None,
    save: Path | None,
    output: str,
    backend: str,
    **choices: Any,
) -> None:
    r"""Explain what a classifier or a detector sees in images, in this process.

    One result per image and explained label goes to stdout: file, label, probability, and the files that were
    written; of a detector one per explained box, with its index in the answer. An image that cannot be explained is
    named on stderr; the others are still explained, and the exit code is 1. Files are written as soon as they are
    there, so that Ctrl-C loses none.

    \b
    Examples:
      clearsight explain --package outputs/mlflow-model kitchen.jpg --save explained/
      clearsight explain --package azureml:fridge@latest photos/ --algorithm guided_gradcam -o table
      clearsight explain --package azureml:fridge:3 a.jpg --target-label can carton --save explained/
      clearsight explain --package azureml:fridge:3 a.jpg --target-label can --contrast-label carton --details
      clearsight explain --package azureml:fridge:3 a.jpg --full --n-steps 200 --format overlay --save explained/
      clearsight explain --package azureml:cells@latest smear.jpg --algorithm odam --detections 0,2 --save explained/
    """
    find_parameters = partial(_parameters, choices=choices, draws=save is not None)
    if algorithm is not None:
        find_parameters(algorithm)  # faults are reported before anything is loaded
    found = find_images(images)
    if save is not None:
        _require_folder(save)
    workspace = Workspace.default()
    plain = load_scorer(ModelRegistry(workspace).resolve(package), backend, cache_dir=workspace.cache)
    scorer = explaining_scorer(plain, ExplainOptions(max_labels=1000))
    able = CLASSIFIER_ALGORITHMS if scorer.task.is_classification else DETECTOR_ALGORITHMS
    if algorithm is not None and algorithm not in able:
        raise UserError(f"--algorithm must be one of {', '.join(able)} for {scorer.task.value}, but got {algorithm}")
    parameters = find_parameters(algorithm or able[0])
    documents, failed = [], 0
    used: set[Path] = set()
    columns = (TextColumn("explaining"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=stderr, transient=True, disable=not stderr.is_terminal) as progress:
        for image in progress.track(found):
            try:
                content = read_image(image.file)
                if isinstance(content, UserError):
                    raise content
                explain_image = scorer.explain if scorer.task.is_classification else scorer.explain_objects
                _, explanations = explain_image(content, parameters)
                for document in _documents(image, explanations, parameters, save, used):
                    if output == "jsonl":
                        click.echo(orjson.dumps(document).decode())
                    documents.append(document)
            except UserError as error:
                failed += 1
                stderr.print(f"{image.file}: {error}", markup=False, soft_wrap=True)
    if output != "jsonl":
        emit(documents, output)
    if failed:
        raise UserError(f"{failed} of {len(found)} pictures could not be explained; the lines above name them")


def _require_folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--save must name a folder that can be written to, but {path} is not: {error}") from error


def _parameters(algorithm: str, choices: Mapping[str, Any], draws: bool) -> XaiParameters:
    """Write the options as the keys of a request, so that its checks and defaults apply."""
    document = {
        **{row.key: choices[row.key] for row in PARAMETERS.values() if row.option},
        "xai_algorithm": algorithm,
        "visualizations": draws,
        "target_labels": list(choices["target_labels"]) or None,
        "detections": _indices(choices["detections"]),
        "faithfulness": choices["details"] and "faithfulness" in ALGORITHMS[algorithm].parameters,
    }
    return parse_xai_parameters(document, algorithms=(algorithm,))


def _indices(text: str | None) -> list[int] | str | None:
    """Read `0,2` as numbers; other text stays as it is, for the check of the parameters."""
    words = [word.strip() for word in (text or "").split(",")]
    return [int(word) for word in words] if all(map(str.isdecimal, words)) else text


def _documents(
    image: InputImage,
    explanations: Sequence[Explanation | ExplainedObject],
    parameters: XaiParameters,
    save: Path | None,
    used: set[Path],
) -> Iterator[dict[str, Any]]:
    """Write the files of each label or box, then give the object that describes it."""
    for found in explanations:
        document: dict[str, Any] = {"file": str(image.file)}
        algorithm = parameters.algorithm
        if isinstance(found, ExplainedObject):
            document["index"] = found.index
        else:
            algorithm = found.details.algorithm
        document |= {
            "label": found.details.label,
            "probability": found.details.probability,
            "algorithm": algorithm,
        }
        if save is not None:
            saved = _save(save, image, found, algorithm, used)
            document |= {"picture": str(saved.image), "array": str(saved.array)}
        if parameters.details:
            document["details"] = found.details.to_document()
        yield document


def _save(
    folder: Path, image: InputImage, found: Explanation | ExplainedObject, algorithm: str, used: set[Path]
) -> _Saved:
    label = "".join(c if c.isalnum() or c in "-_" else "_" for c in found.details.label)[:60] or "_"
    if isinstance(found, ExplainedObject):
        label = f"{found.index}.{label}"
    name = free_name(image, f"{label}.{algorithm}.png", used)
    saved = _Saved(folder / name, (folder / name).with_suffix(".npy"))
    stream = io.BytesIO()
    np.save(stream, np.ascontiguousarray(found.numbers), allow_pickle=False)
    write_atomically(saved.image, found.image or b"")
    write_atomically(saved.array, stream.getvalue())
    return saved
