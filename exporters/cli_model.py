"""`clearsight model`: register packages, look at them, check them, and export their graphs."""

import shutil
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import click

from clearsight.console import AzCommand, LazyGroup, emit, parse_assignments, result_options, stderr
from clearsight.documents.deployment.document import apply_overrides, read_document
from clearsight.documents.model import parse_model
from clearsight.errors import UserError
from clearsight.runs.model_registry import ModelRegistry, RegisteredModel
from clearsight.runs.package import ONNX_FILE, TORCHSCRIPT_FILE, ModelPackage, sha256_of
from clearsight.runs.workspace import Workspace

__all__ = ["model"]


@click.group(cls=LazyGroup)
def model() -> None:
    """Register, check and export packages."""


_POSITIVE: Final = click.IntRange(min=1)
_FRACTION: Final = click.FloatRange(0, 1)


def _say_registry(context: click.Context, parameter: click.Parameter, value: str | None) -> None:
    if value is not None:
        stderr.print(
            f"note: --registry-name {value} means the models of this workspace, the only registry here",
            markup=False,
            soft_wrap=True,
        )


_registry_option = click.option(
    "--registry-name", metavar="NAME", hidden=True, expose_value=False, callback=_say_registry
)
_name_option = click.option("--name", "-n", required=True, help="Name of the model.")
_version_option = click.option("--version", "-v", help="Version; without it the one created last.")


@model.command(cls=AzCommand)
@_registry_option
@click.option("--file", "-f", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Azure model YAML.")
@click.option("--name", "-n", help="Name of the model.")
@click.option("--path", "-p", help="Package folder, or the URI of a run's mlflow-model.")
@click.option("--type", "-t", "type_", help="mlflow_model, the only type that Clearsight serves.")
@click.option("--version", "-v", help="Version; without it the next free number.")
@click.option("--description", "-d", help="Free text.")
@click.option("--tags", multiple=True, metavar="KEY=VALUE", help="Tags, space-separated.")
@click.option("--set", "assignments", multiple=True, metavar="KEY=VALUE", help="Override a key of the file.")
@result_options
def create(
    file: Path | None, type_: str | None, tags: tuple[str, ...], assignments: tuple[str, ...], **flags: str | None
) -> dict[str, Any]:
    """Copy a package into the registry, verified, with its settings validated.

    Relative paths in the file are relative to the file; flags win over the file.

    \b
    Examples:
      clearsight model create -f model.yml
      clearsight model create --name fridge --path runs:/fridge_HD_0/outputs/mlflow-model --type mlflow_model
      clearsight model create -n fridge -p ./edited/mlflow-model --tags team=store --output table
    """  # noqa: D301 (click reads the backspace)
    document = apply_overrides({} if file is None else read_document(file), parse_assignments(assignments))
    document.update({key: value for key, value in {**flags, "type": type_}.items() if value is not None})
    if tags:
        document["tags"] = {**(document.get("tags") or {}), **parse_assignments(tags)}
    from_file = file is not None and flags["path"] is None
    parsed = parse_model(document, file.parent if file is not None and from_file else Path.cwd(), str(file or "model"))
    registry = ModelRegistry(Workspace.default())
    registered = registry.create(
        parsed.path,
        parsed.name,
        parsed.version,
        description=parsed.description,
        tags=parsed.tags,
        properties=parsed.properties,
    )
    package = ModelPackage.open(registered.package_path, verify=False)
    for warning in package.settings_and_warnings()[1]:
        stderr.print(f"warning: {warning}", markup=False)
    _note_unguarded(package.unguarded_files())
    return registered.to_document()


@model.command("list", cls=AzCommand)
@_registry_option
@click.option("--name", "-n", help="List the versions of this model instead of the latest of every model.")
@result_options
def list_(name: str | None) -> list[dict[str, Any]]:
    """List models with their latest version, or all versions of one model, the newest first.

    \b
    Examples:
      clearsight model list --output table
      clearsight model list --name fridge --query "[].version" --output tsv
    """  # noqa: D301 (click reads the backspace)
    registry = ModelRegistry(Workspace.default())
    return [_row(found) for found in (registry.list() if name is None else registry.versions(name))]


@model.command(cls=AzCommand)
@_registry_option
@_name_option
@_version_option
@click.option("--label", "-l", type=click.Choice(["latest"]), help="The same as no version.")
@result_options
def show(name: str, version: str | None, label: str | None) -> dict[str, Any]:
    """Print the record of a model.

    \b
    Examples:
      clearsight model show --name fridge --version 1
      clearsight model show -n fridge --query properties.settings --output yaml
    """  # noqa: D301 (click reads the backspace)
    if version is not None and label is not None:
        raise click.UsageError("--version and --label exclude each other")
    return ModelRegistry(Workspace.default()).get(name, version).to_document()


@model.command(cls=AzCommand)
@_registry_option
@_name_option
@_version_option
@click.option(
    "--download-path",
    "-p",
    default=".",
    show_default=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="The package goes to DIR/<name>/mlflow-model; an older one there is replaced.",
    metavar="DIR",
)
@result_options
def download(name: str, version: str | None, download_path: Path) -> dict[str, Any]:
    """Copy a package out of the registry, for example to edit its artifacts/settings.json.

    \b
    Examples:
      clearsight model download --name fridge --version 1 --download-path ./downloads
    """  # noqa: D301 (click reads the backspace)
    registry = ModelRegistry(Workspace.default())
    found = registry.get(name, version)
    path = registry.download(name, found.version, download_path.absolute())
    return {"name": name, "version": found.version, "path": str(path)}


@model.command(cls=AzCommand)
@click.option("--name", "-n", help="Name of a registered model.")
@_version_option
@click.option("--path", "-p", help="A package folder instead of a registered model.")
@result_options
def verify(name: str | None, version: str | None, path: str | None) -> dict[str, Any]:
    """Check that a package is as it was written, holds no code and no links, and that the settings are valid.

    Edited settings are allowed and reported, and so are files that the manifest does not guard. An altered file is
    named and the exit code is 1.

    \b
    Examples:
      clearsight model verify --name fridge --version 1
      clearsight model verify --path ./downloads/fridge/mlflow-model --output table
    """  # noqa: D301 (click reads the backspace)
    if (name is None) == (path is None):
        raise click.UsageError("give either --name or --path")
    registry = ModelRegistry(Workspace.default())
    if name is not None:
        result = registry.verify(name, version)
        _note_unguarded(result.unguarded_files)
        return {
            "name": name,
            "version": result.model.version,
            "verified": True,
            "settings": "edited since it was registered" if result.settings_edited else "as registered",
        }
    package = ModelPackage.open(registry.resolve(str(path)))
    settings, warnings = package.settings_and_warnings()
    for warning in warnings:
        stderr.print(f"warning: {warning}", markup=False)
    _note_unguarded(package.unguarded_files())
    as_trained = package.trained_settings() == settings
    return {"path": str(package.root), "verified": True, "settings": "as trained" if as_trained else "edited"}


@model.command(cls=AzCommand)
@click.option("--package", "-p", "reference", required=True, help="Package folder, azureml:name:version, or a run URI.")
@click.option("--format", "-f", "format_", required=True, type=click.Choice(["onnx", "torchscript", "mar"]))
@click.option(
    "--output",
    "-o",
    required=True,
    type=click.Path(dir_okay=False, path_type=Path),
    help="File to write.",
    metavar="FILE",
)
@click.option("--model-name", help="Name inside a .mar; without it the name of FILE.")
@click.option("--batch-size", type=int, metavar="N", help="Detectors: Azure's graph for exactly N images.")
@click.option("--height", "--height-onnx", type=_POSITIVE, help="Of the N images, pixels; 600, yolov5: img_size.")
@click.option("--width", "--width-onnx", type=_POSITIVE, help="800, yolov5: img_size.")
@click.option("--box-score-thresh", type=_FRACTION, help="Inside the graph; without it as in settings.json.")
@click.option("--box-nms-thresh", "--box-iou-thresh", "nms_iou_thresh", type=_FRACTION, help="The same.")
@click.option("--box-detections-per-img", type=_POSITIVE, help="The same; not for yolov5.")
@click.option("--min-size", type=_POSITIVE, help="Accepted as Azure's script does: these graphs do not resize.")
@click.option("--max-size", type=_POSITIVE, help="The same.")
@click.option("--img-size", type=_POSITIVE, help="yolov5: height and width in one.")
@click.option("--model-size", help="yolov5: accepted when it is the package's own.")
def export(
    reference: str, format_: str, output: Path, model_name: str | None, batch_size: int | None, **options: Any
) -> None:
    """Write one file of a verified package: a graph, or an archive for stock TorchServe.

    onnx and torchscript are the serving graph, which takes images normalised as settings.json says. Classifiers:
    images (N, 3, H, W) -> logits (N, K). yolov5: images -> boxes, scores, class_ids of all candidates. The R-CNN
    families: image (1, 3, H, W) and three thresholds -> boxes, scores, class_ids[, masks of 28 x 28].

    With --batch-size, onnx is instead the graph of Azure's contract for detectors (as train_artifacts/model.onnx of a
    run, which takes 1 image): input (N, 3, H, W) -> boxes_0, labels_0, scores_0[, masks_0], boxes_1, … with
    thresholds inside, or yolov5's output (N, C, 5 + K). It takes exactly N images. Without other options a batch of
    1 is what the run has written already: a message says so, and no file is made.

    The file appears complete or not at all; an older one is replaced.

    \b
    Examples:
      clearsight model export --package azureml:fridge:1 --format onnx --output fridge.onnx
      clearsight model export --package ./mlflow-model --format torchscript --output fridge.pt
      clearsight model export --package azureml:fridge@latest --format mar --output fridge.mar
      clearsight model export -p azureml:cells:1 -f onnx -o model_8.onnx --batch-size 8 --height 600 --width 800
      clearsight model export -p azureml:yolo:1 -f onnx -o model_4.onnx --batch-size 4 --img-size 640
    """  # noqa: D301 (click reads the backspace)
    given = {name: value for name, value in options.items() if value is not None}
    if given and batch_size is None:
        raise click.UsageError(f"--{next(iter(given)).replace('_', '-')} needs --batch-size")
    if batch_size is not None and format_ != "onnx":
        raise click.UsageError("--batch-size is for --format onnx")
    package = ModelPackage.open(ModelRegistry(Workspace.default()).resolve(reference))
    output = output.absolute()
    output.parent.mkdir(parents=True, exist_ok=True)
    document: dict[str, Any] = {}
    if batch_size is not None:
        written = _write_batch(package, output, batch_size, given)
        if written is None:
            return
        document = written
    else:
        _WRITERS[format_](package, output, model_name or output.name.partition(".")[0])
    summary = {"format": format_, "path": str(output), "num_bytes": output.stat().st_size, "sha256": sha256_of(output)}
    emit({**summary, **document})


def _write_batch(package: ModelPackage, file: Path, batch_size: int, given: dict[str, Any]) -> dict[str, Any] | None:
    """Return what was written; None when there is nothing to write."""
    from clearsight.exporters.formats.batch_graph import write_batch_graph  # brings torch
    from clearsight.exporters.trained import BatchOptions

    used = {name: value for name, value in given.items() if name not in ("min_size", "max_size")}
    options = BatchOptions(batch_size=batch_size, **used)
    if options.is_the_default_graph and not package.task.is_classification:
        stderr.print(
            f"no file is written: train_artifacts/model.onnx of the run {package.run_id} takes one picture already; "
            "ask for a larger --batch-size, or for another size or threshold",
            markup=False,
        )
        return None
    stderr.print(f"exporting {package.model_name} for {batch_size} pictures and comparing it with the network …")
    temporary = file.with_name(f".{file.name}.{uuid.uuid4().hex}.tmp")
    try:
        document = write_batch_graph(package, temporary, options)
        temporary.replace(file)
    except OSError as error:
        raise UserError(f"{file} cannot be written: {error.strerror}") from error
    finally:
        temporary.unlink(missing_ok=True)
    return document


def _write_onnx(package: ModelPackage, file: Path, model_name: str) -> None:
    _copy(package.root / ONNX_FILE, file)


def _write_torchscript(package: ModelPackage, file: Path, model_name: str) -> None:
    _copy(package.root / TORCHSCRIPT_FILE, file)


def _write_mar(package: ModelPackage, file: Path, model_name: str) -> None:
    from clearsight.exporters.formats.mar import (
        write_mar,  # brings TorchServe's side, which the other formats do without
    )

    write_mar(package, file, model_name)


_WRITERS: Final[dict[str, Callable[[ModelPackage, Path, str], None]]] = {
    "onnx": _write_onnx,
    "torchscript": _write_torchscript,
    "mar": _write_mar,
}


def _copy(source: Path, target: Path) -> None:
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex}.tmp")
    try:
        shutil.copyfile(source, temporary)
        temporary.replace(target)
    except OSError as error:
        raise UserError(f"{target} cannot be written: {error.strerror}") from error
    finally:
        temporary.unlink(missing_ok=True)


def _note_unguarded(files: Sequence[str]) -> None:
    if files:
        stderr.print(f"note: the manifest does not guard {', '.join(files)}: changes there go unnoticed", markup=False)


def _row(found: RegisteredModel) -> dict[str, Any]:
    """The columns of `list`."""
    return {
        "name": found.name,
        "version": found.version,
        "type": "mlflow_model",
        "task": found.task,
        "model_name": found.model_name,
        "created_at": found.created_at,
        "job_name": found.run_id,
        "id": found.reference,
    }
