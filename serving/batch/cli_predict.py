"""`clearsight predict`: score images with a package, in this process or, into a file, by a batch job."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal

import click
import orjson
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from clearsight.catalogue.algorithms import ALGORITHMS
from clearsight.console import AzCommand, emit, stderr
from clearsight.errors import UserError
from clearsight.files import write_atomically
from clearsight.handlers.backends import BACKENDS
from clearsight.handlers.drawing.mask_image import encode_numbers, file_type, instance_numbers
from clearsight.handlers.drawing.overlay import draw_overlay, to_jpeg
from clearsight.handlers.scoring.scorer import MAX_BATCH_SIZE, Scorer, load_scorer
from clearsight.images.decode import decode_image
from clearsight.images.files import InputImage, find_images, free_name, read_image
from clearsight.runs.model_registry import ModelRegistry
from clearsight.runs.run_folder import now
from clearsight.runs.stop_requests import graceful_shutdown
from clearsight.runs.workspace import Workspace
from clearsight.serving.batch.direct import run as run_batch
from clearsight.serving.batch.progress import BatchProgress
from clearsight.serving.batch.results.write import FAILED_FILES
from clearsight.serving.batch.row_outputs import parse_parameters
from clearsight.tasks import Task
from clearsight.wire.answers import Answer, DetectionAnswer
from clearsight.wire.encoding import to_document

__all__ = ["predict", "table_row"]


_OF_STDOUT: Final = ("output", "threshold", "save_overlay", "save_masks", "batch_size")
_OF_RESULTS: Final = (
    "recursive",
    "workers",
    "mini_batch_size",
    "max_retries",
    "timeout",
    "error_threshold",
    "overlays",
    "masks",
    "explain",
    "xai_parameters",
    "explanations",
)


@dataclass(frozen=True, slots=True)
class Scored:
    image: InputImage
    result: Answer | UserError


@click.command(cls=AzCommand)
@click.argument("images", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="IMAGE|FOLDER...")
@click.option(
    "--package", required=True, metavar="FOLDER", help="A package folder, or azureml:NAME:VERSION, azureml:NAME@latest."
)
@click.option("--output", "-o", default="json", show_default=True, type=click.Choice(["json", "jsonl", "table"]))
@click.option(
    "--threshold", type=click.FloatRange(0, 1), help="Detection and segmentation: leave out objects of lower scores."
)
@click.option("--save-overlay", metavar="FOLDER", type=click.Path(path_type=Path), help="Write images with scores.")
@click.option(
    "--save-masks",
    metavar="FOLDER",
    type=click.Path(path_type=Path),
    help="Segmentation: write masks as one-channel images of instance numbers; settings.json says which file type.",
)
@click.option("--backend", default="auto", show_default=True, type=click.Choice(["auto", *BACKENDS]))
@click.option("--batch-size", default=MAX_BATCH_SIZE, show_default=True, type=click.IntRange(1, 256))
@click.option(
    "--results",
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Score a folder of any size into this file, in processes of its own: .csv (Azure's), .jsonl or .parquet.",
)
@click.option("--recursive", is_flag=True, help="With --results: the folders below the input, too.")
@click.option("--workers", default=1, show_default=True, type=click.IntRange(1), help="With --results: processes.")
@click.option(
    "--mini-batch-size", default=10, show_default=True, type=click.IntRange(1), help="With --results: images of a part."
)
@click.option("--max-retries", default=3, show_default=True, type=click.IntRange(0), help="With --results.")
@click.option(
    "--timeout",
    default=30.0,
    show_default=True,
    type=click.FloatRange(0, min_open=True),
    help="With --results: seconds for one attempt at a part, or at an explanation.",
)
@click.option(
    "--error-threshold",
    default=-1,
    show_default=True,
    type=click.IntRange(-1),
    help="With --results: images that may fail; -1: any number.",
)
@click.option("--overlays", is_flag=True, help="With --results: draw each answer on its image, in overlays/ beside it.")
@click.option(
    "--masks", is_flag=True, help="With --results, segmentation: images of instance numbers, in masks/ beside it."
)
@click.option(
    "--explain",
    type=click.Choice(tuple(ALGORITHMS)),
    help="With --results: explain each image with this algorithm (those of `clearsight explain`).",
)
@click.option(
    "--xai-parameters",
    metavar="JSON",
    help="With --results: explain with these keys of a scoring request, for example '{\"attributions\": true}'.",
)
@click.option(
    "--explanations",
    default="files",
    show_default=True,
    type=click.Choice(["files", "inline"]),
    help="With --results: explanations as files in explanations/ beside it, or in the results themselves.",
)
@click.pass_context
def predict(
    ctx: click.Context,
    images: tuple[Path, ...],
    package: str,
    output: str,
    threshold: float | None,
    save_overlay: Path | None,
    save_masks: Path | None,
    backend: str,
    batch_size: int,
    results: Path | None,
    recursive: bool,
    workers: int,
    mini_batch_size: int,
    max_retries: int,
    timeout: float,
    error_threshold: int,
    overlays: bool,
    masks: bool,
    explain: str | None,
    xai_parameters: str | None,
    explanations: Literal["files", "inline"],
) -> None:
    r"""Score images with a model package.

    Results go to stdout in the order of the files, one per file that could be read. A file that cannot be read is
    named on stderr; the others are still scored, and the exit code is 1.

    With --results, one folder, file, pattern, list, table or archive is scored into a file by a batch job: every image
    once, in bounded memory, whatever happens to a process. An interrupted job goes on when the same command is typed
    again. Images that cannot be scored are listed in failed_files.jsonl beside the results.

    \b
    Examples:
      clearsight predict --package outputs/mlflow-model kitchen.jpg
      clearsight predict --package azureml:fridge@latest photos/ -o table
      clearsight predict --package azureml:fridge:3 photos/ -o jsonl --save-overlay looked-at/
      clearsight predict --package azureml:boxes:1 photos/ -o jsonl --threshold 0.5 --save-overlay looked-at/
      clearsight predict --package azureml:nuclei:1 slides/ -o jsonl --save-masks masks/
      clearsight predict --package azureml:fridge@latest photos/ --recursive --results predictions.jsonl
      clearsight predict --package azureml:fridge@latest photos/ --results out/predictions.jsonl --explain xrai
    """
    if results is not None:
        _refuse_other_options(ctx, images)
        _run_batch(
            package=package,
            inputs=str(images[0]),
            output=results,
            recursive=recursive,
            workers=workers,
            mini_batch_size=mini_batch_size,
            max_retries=max_retries,
            timeout_s=timeout,
            error_threshold=error_threshold,
            backend=backend,
            overlays=overlays,
            masks=masks,
            explain=_xai_parameters(explain, xai_parameters),
            explanations=explanations,
        )
        return
    _refuse_options(ctx, _OF_RESULTS, "need --results FILE")
    found = find_images(images)
    workspace = Workspace.default()
    scorer = load_scorer(
        ModelRegistry(workspace).resolve(package),
        backend=backend,
        max_batch_size=batch_size,
        cache_dir=workspace.cache,
    )
    if save_masks is not None:
        _require_masks(scorer)
    _require_threshold(scorer, threshold)
    documents, failed = [], 0
    used_overlays: set[Path] = set()
    used_masks: set[Path] = set()
    columns = (TextColumn("scoring"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=stderr, transient=True, disable=not stderr.is_terminal) as progress:
        for scored in progress.track(_score_all(scorer, found), total=len(found)):
            result, file = scored.result, scored.image.file
            if isinstance(result, UserError):
                failed += 1
                stderr.print(f"{file}: {result}", markup=False, soft_wrap=True)
                continue
            if threshold is not None and isinstance(result, DetectionAnswer):
                result = replace(result, boxes=tuple(box for box in result.boxes if box.score >= threshold))
            if save_overlay is not None:
                name = free_name(scored.image, "overlay.jpg", used_overlays)
                _save_overlay(save_overlay / name, scorer, scored.image, result, threshold)
            if save_masks is not None:
                _save_masks(save_masks, used_masks, scorer, scored.image, result)
            document = {"file": str(file), **to_document(result)}
            if output == "jsonl":
                click.echo(orjson.dumps(document).decode())
            else:
                documents.append(document if output == "json" else table_row(file, result, scorer.task))
    if output != "jsonl":
        emit(documents, output)
    if failed:
        raise UserError(f"{failed} of {len(found)} files could not be scored; the lines above name them")


def _refuse_other_options(ctx: click.Context, images: tuple[Path, ...]) -> None:
    _refuse_options(ctx, _OF_STDOUT, "cannot be used with --results")
    if len(images) != 1:
        raise click.UsageError(f"--results needs one input, a folder or a list, but got {len(images)}")


def _refuse_options(ctx: click.Context, names: tuple[str, ...], why: str) -> None:
    given = [name for name in names if ctx.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE]
    if given:
        raise click.UsageError(f"{', '.join('--' + name.replace('_', '-') for name in given)} {why}")


def _xai_parameters(algorithm: str | None, text: str | None) -> dict[str, Any] | None:
    """The parameters of explanations; None without any."""
    if algorithm is None and text is None:
        return None
    parameters = parse_parameters(text, "--xai-parameters")
    return parameters if algorithm is None else {**parameters, "xai_algorithm": algorithm}


def _run_batch(**options: Any) -> None:
    """Run a batch job with a progress bar; print its summary."""
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=20), TextColumn("{task.fields[rest]}"))
    shown = BatchProgress()
    with (
        graceful_shutdown() as stop,
        Progress(*columns, console=stderr, transient=True, disable=not stderr.is_terminal) as progress,
    ):
        bar = progress.add_task("starting", total=None, rest="")

        def on_event(kind: str, **fields: Any) -> None:
            lines, line = shown.show({"kind": kind, "time": now(), **fields})
            for each in lines:
                stderr.print(each, markup=False, soft_wrap=True)
            if kind == "warning":
                stderr.print(f"warning: {fields['message']}", markup=False, soft_wrap=True)
            if line is not None:
                progress.update(
                    bar, description=line.description, total=line.total, completed=line.completed, rest=line.rest
                )

        summary = run_batch(**options, on_event=on_event, stop=stop)
    emit(asdict(summary))
    if summary.num_failed:
        raise UserError(f"{summary.num_failed} of {summary.num_rows} images could not be scored; see {FAILED_FILES}")


def _score_all(scorer: Scorer, images: Sequence[InputImage]) -> Iterator[Scored]:
    """Score in batches, in order; one result per image."""
    for start in range(0, len(images), scorer.max_batch_size):
        group = images[start : start + scorer.max_batch_size]
        contents = [read_image(image.file) for image in group]
        answers = iter(scorer.score([content for content in contents if isinstance(content, bytes)]))
        for image, content in zip(group, contents, strict=True):
            yield Scored(image, next(answers) if isinstance(content, bytes) else content)


def table_row(file: Path, answer: Answer, task: Task) -> dict[str, Any]:
    """Top class for multi-class; for multi-label every class at 0.5 and above; of boxes the best of each class."""
    if isinstance(answer, DetectionAnswer):
        counts = Counter(found.label for found in answer.boxes)
        best = {found.label: found.score for found in reversed(answer.boxes)}
        shown = [(best[label], label if counts[label] == 1 else f"{counts[label]} x {label}") for label in counts]
    else:
        ranked = sorted(zip(answer.probs, answer.labels, strict=True), key=lambda pair: -pair[0])
        shown = [pair for pair in ranked if pair[0] >= 0.5] if task is Task.MULTI_LABEL else ranked[:1]
    return {
        "file": str(file),
        "label": ", ".join(label for _, label in shown) or "(none)",
        "score": ", ".join(f"{prob:.4f}" for prob, _ in shown),
    }


def _require_threshold(scorer: Scorer, threshold: float | None) -> None:
    if threshold is None:
        return
    if (detection := scorer.settings.detection) is None:
        raise UserError(f"--threshold is for scores of objects, but {scorer.package.root} answers {scorer.task.value}")
    if threshold < detection.box_score_thresh:
        raise UserError(
            f"--threshold must be at least box_score_thresh of the package's settings.json, "
            f"{detection.box_score_thresh:g}, below which nothing is answered, but got {threshold:g}"
        )


def _save_overlay(target: Path, scorer: Scorer, image: InputImage, answer: Answer, threshold: float | None) -> None:
    image_HWC = decode_image(image.file.read_bytes(), exif_orientation=scorer.settings.exif_orientation)
    if threshold is None and (detection := scorer.settings.detection) is not None:
        threshold = detection.box_score_thresh
    write_atomically(target, to_jpeg(draw_overlay(image_HWC, answer, scorer.labels, threshold)))


def _require_masks(scorer: Scorer) -> None:
    if (settings := scorer.settings.masks) is None:
        raise UserError(
            f"--save-masks needs a package of instance segmentation, but {scorer.package.root} is one of "
            f"{scorer.task.value}; leave it out"
        )
    if file_type(settings) != settings.image_type:
        stderr.print("masks are written as PNG: JPG would change their numbers (see mask_image_allow_lossy)")


def _save_masks(folder: Path, used: set[Path], scorer: Scorer, image: InputImage, answer: Answer) -> None:
    settings = scorer.settings.masks
    assert settings is not None  # noqa: S101  checked before the first image
    assert isinstance(answer, DetectionAnswer)  # noqa: S101  what packages of segmentation answer
    kind = file_type(settings)
    height, width = decode_image(image.file.read_bytes(), exif_orientation=settings.exif_orientation).shape[:2]
    target = folder / free_name(image, f"masks.{kind.lower()}", used)
    write_atomically(target, encode_numbers(instance_numbers(answer, height, width), kind))
