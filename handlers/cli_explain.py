"""`clearsight explain`: show what a model's decisions on images hang on, in this process."""

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, get_args

import click
import numpy as np
import orjson
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from clearsight.console import AzCommand, emit, stderr
from clearsight.errors import UserError
from clearsight.files import write_atomically
from clearsight.handlers.backends import BACKENDS
from clearsight.handlers.explain.algorithms.table import ALGORITHMS
from clearsight.handlers.explain.answering.explainer import Explanation
from clearsight.handlers.explain.answering.scoring import load_explaining_scorer
from clearsight.handlers.explain.objects.explainer import OBJECT_ALGORITHMS, ExplainedObject
from clearsight.handlers.explain.options import ExplainOptions
from clearsight.handlers.explain.parameters import (
    BaselineName,
    MaskTarget,
    Method,
    VisualizationFormat,
    XaiParameters,
    parse_xai_parameters,
)
from clearsight.images.files import InputImage, find_images, free_name, read_image
from clearsight.runs.model_registry import ModelRegistry
from clearsight.runs.workspace import Workspace

__all__ = ["explain"]


@dataclass(frozen=True, slots=True)
class _Saved:
    """Files of one explained label or box."""

    image: Path
    array: Path


@click.command(cls=AzCommand)
@click.argument("images", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="IMAGE|FOLDER...")
@click.option(
    "--package", required=True, metavar="FOLDER", help="A package folder, or azureml:NAME:VERSION, azureml:NAME@latest."
)
@click.option(
    "--algorithm",
    type=click.Choice([*ALGORITHMS, *OBJECT_ALGORITHMS]),
    help="odam and d_rise explain detectors, the others explain classifiers.  [default: xrai; of a detector odam]",
)
@click.option(
    "--save",
    metavar="FOLDER",
    type=click.Path(path_type=Path),
    help="Write an image (PNG) and an array (.npy, float32 of 3 x P x P; of a detector H x W) for each label or box.",
)
@click.option(
    "--target-label",
    "target_labels",
    multiple=True,
    metavar="LABEL",
    help="Explain these labels instead of the predicted ones.",
)
@click.option("--contrast-label", metavar="LABEL", help="Explain what speaks for the label rather than for this one.")
@click.option("--threshold", type=float, help="Multi-label: explain labels from this probability on.  [default: 0.5]")
@click.option("--n-steps", type=int, help="Gradients along the path, per baseline.  [default: 50]")
@click.option("--approximation-method", type=click.Choice(get_args(Method)))
@click.option("--baseline", type=click.Choice(get_args(BaselineName)), help="Where the path starts.")
@click.option("--full", is_flag=True, help="XRAI: rank the regions anew after each one.")
@click.option("--detections", metavar="0,2|all", help="Detectors: which boxes, by descending score.  [default: 0,1,2]")
@click.option("--target", type=click.Choice(get_args(MaskTarget)), help="Detectors: what of a box.  [default: score]")
@click.option("--masks", type=int, help="rise, d_rise: covered images, at most 5000.  [default: 500]")
@click.option("--max-seconds", type=float, help="For each image; then less is computed.")
@click.option("--details", is_flag=True, help="Tell how each explanation came about, and how faithful it is.")
@click.option("--format", "visualization_format", type=click.Choice(get_args(VisualizationFormat)), default="grid")
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
        find_parameters(algorithm)  # told before anything is loaded
    found = find_images(images)
    if save is not None:
        _require_folder(save)
    scorer = load_explaining_scorer(
        ModelRegistry(Workspace.default()).resolve(package), backend, options=ExplainOptions(max_labels=1000)
    )
    able = tuple(ALGORITHMS) if scorer.task.is_classification else OBJECT_ALGORITHMS
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
    """The flags as the keys of a request, which checks them and has the defaults."""
    is_of_objects = algorithm in OBJECT_ALGORITHMS
    document = {
        "xai_algorithm": algorithm,
        "visualizations": draws,
        "xrai_fast": not choices["full"],
        "target_labels": list(choices["target_labels"]) or None,
        "confidence_score_threshold_multilabel": choices["threshold"],
        "faithfulness": choices["details"] and not is_of_objects,
        "detections": _indices(choices["detections"]),
        **{
            key: choices[key]
            for key in (
                "contrast_label",
                "n_steps",
                "approximation_method",
                "baseline",
                "masks",
                "max_seconds",
                "details",
                "visualization_format",
                "target",
            )
        },
    }
    return parse_xai_parameters(document, algorithms=(algorithm,))


def _indices(text: str | None) -> list[int] | str | None:
    """`0,2` as numbers; anything else as it is, for the check of parameters to judge."""
    parts = [part.strip() for part in (text or "").split(",")]
    return [int(part) for part in parts] if all(map(str.isdecimal, parts)) else text


def _documents(
    image: InputImage,
    explanations: Sequence[Explanation | ExplainedObject],
    parameters: XaiParameters,
    save: Path | None,
    used: set[Path],
) -> Iterator[dict[str, Any]]:
    """What is told of each label or box, after its files are written."""
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
