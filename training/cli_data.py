"""`clearsight data`: draw, convert, check and register images."""

import sys
from pathlib import Path
from typing import Any, Final

import click

from clearsight.console import TASK, AzCommand, LazyCommand, LazyGroup, emit, progress, stderr
from clearsight.runs.workspace import Workspace
from clearsight.tasks import Task
from clearsight.training.data.converters import (
    CHANGES,
    DEFAULT_VALIDATION_FRACTION,
    LAYOUTS,
    ConversionRequest,
    OnFault,
    copy_images,
    read_source,
    split_as_given,
    split_by_fraction,
    split_by_lists,
    split_every,
    warnings_of_split,
    write_changes,
    write_folders,
)

__all__ = ["data"]

OUTPUT = click.Path(file_okay=False, path_type=Path)
_MAX_SHOWN_CHANGES: Final = 10
LIST = click.Path(exists=True, dir_okay=False, path_type=Path)


_LAZY: Final = {
    "demo": LazyCommand("clearsight.demo.cli:demo", "Draw labelled fridge scenes.", "train"),
    "create": LazyCommand("clearsight.runs.cli_data:create", "Give data a name and a version.", "train"),
    "list": LazyCommand("clearsight.runs.cli_data:list_", "List registered data.", "train"),
    "show": LazyCommand("clearsight.runs.cli_data:show", "Print the record of registered data.", "train"),
}


@click.group(cls=LazyGroup, lazy=_LAZY)
def data() -> None:
    """Draw, convert, check and register images."""


@data.command(cls=AzCommand, short_help="Write data folders from other layouts.")
@click.argument("source", type=click.Path(exists=True, path_type=Path))
@click.option("--from", "layout_name", type=click.Choice(list(LAYOUTS)), required=True, help="Layout of SOURCE.")
@click.option("--output", "output", type=OUTPUT, required=True, help="Folder to write both data folders to.")
@click.option("--task", type=TASK, help="Default: what SOURCE says, for example polygons for COCO with segmentations.")
@click.option("--label", help="masks: class of every object.")
@click.option("--label-separator", help="csv: what separates the labels of a picture, such as `,`. Default: spaces.")
@click.option("--validation-every", type=click.IntRange(2), help="Every n-th record validates.")
@click.option(
    "--validation-fraction",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    help="A drawn share, of each class for multi-class. "
    f"Default: {DEFAULT_VALIDATION_FRACTION}, and at least one picture of each class with two.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of the drawn share.")
@click.option("--validation-list", type=LIST, help="Names of the images that validate, one per line.")
@click.option("--training-list", type=LIST, help="Names of those that train. Default: all others.")
@click.option(
    "--validation-source", type=click.Path(exists=True, path_type=Path), help="Second source, which validates."
)
@click.option(
    "--validation-images",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder of the images of --validation-source. Default: that of --images.",
)
@click.option("--images", type=click.Path(exists=True, file_okay=False, path_type=Path), help="Folder of the images.")
@click.option(
    "--voc-origin",
    type=click.Choice(["auto", "0", "1"]),
    default="auto",
    show_default=True,
    help="voc: number of the first pixel. auto: 0 if any box starts there, else 1, as VOC defines it.",
)
@click.option(
    "--on-fault",
    type=click.Choice([choice.value for choice in OnFault]),
    default=OnFault.STOP.value,
    show_default=True,
    help="stop: write nothing. skip: leave out each image with a fault. clip: cut objects off at the edges of their "
    f"image, stop for other faults. What is left out or cut is listed in OUTPUT/{CHANGES}.",
)
@click.option("--copy", "is_copied", is_flag=True, help="Copy the images to OUTPUT/images.")
def convert(
    source: Path,
    layout_name: str,
    output: Path,
    task: str | None,
    label: str | None,
    label_separator: str | None,
    validation_every: int | None,
    validation_fraction: float | None,
    seed: int,
    validation_list: Path | None,
    training_list: Path | None,
    validation_source: Path | None,
    validation_images: Path | None,
    images: Path | None,
    voc_origin: str,
    on_fault: str,
    is_copied: bool,
) -> None:
    r"""Write the data folders of a job from labelled images in another layout.

    \b
    folders  SOURCE holds one folder per class
    csv      SOURCE is a list: image or filename, and label, labels, a column of 0 and 1 for each class, or boxes
    voc      SOURCE holds Annotations/*.xml and JPEGImages or images, or XML files beside the images
    coco     SOURCE is a JSON file; images beside it, or in images
    yolo     SOURCE holds data.yaml, or images and .txt files with classes.txt; or is data.yaml itself
    masks    SOURCE holds images and masks of the same names, or a folder with both per image
    labelme, vott                    SOURCE holds the JSON files that the tool wrote
    labelstudio, cvat, customvision  SOURCE is the export, or holds it; images beside it, or in images

    A SOURCE of train/ and val/ (valid/, validation/), or with a label file for each, is split as it says.
    Images are not copied unless --copy is given: data folders refer to them. A fault writes nothing (see --on-fault).

    \b
    Examples:
      clearsight data convert --from folders fridge_objects --output data
      clearsight data convert --from csv labels.csv --output data --validation-fraction 0.2 --seed 1
      clearsight data convert --from csv labels.csv --label-separator , --output data
      clearsight data convert --from voc VOC2012 --validation-list VOC2012/ImageSets/Main/val.txt --output data
      clearsight data convert --from coco annotations.json --images photos --task image_object_detection --output data
      clearsight data convert --from coco train.json --validation-source val.json --images photos --output data
      clearsight data convert --from yolo bottles/data.yaml --output data
      clearsight data convert --from labelstudio export.json --images photos --output data
      clearsight data convert --from masks nuclei --label nucleus --output data
    """
    splits = (validation_every, validation_fraction, validation_list, validation_source)
    if sum(option is not None for option in splits) > 1:
        raise click.UsageError(
            "--validation-every, --validation-fraction, --validation-list and --validation-source exclude each other"
        )
    if validation_images is not None and validation_source is None:
        raise click.UsageError("--validation-images needs --validation-source")
    if training_list is not None and validation_list is None:
        raise click.UsageError("--training-list needs --validation-list")
    layout = LAYOUTS[layout_name]
    if task is not None and Task(task) not in layout.tasks:
        raise click.UsageError(f"--from {layout_name} serves {', '.join(layout.tasks)}, but --task is {task}")
    if layout.names_classes == (label is not None):
        raise click.UsageError(
            f"--from {layout_name} {'names classes: leave out' if layout.names_classes else 'needs'} --label"
        )
    if label is not None and not label.strip():
        raise click.UsageError("--label must be a class name, not empty")
    if voc_origin != "auto" and layout_name != "voc":
        raise click.UsageError(f"--voc-origin is for --from voc, but this is --from {layout_name}")
    if label_separator is not None and layout_name != "csv":
        raise click.UsageError("--label-separator is for --from csv")
    if label_separator == "" or (label_separator is not None and task not in (None, Task.MULTI_LABEL)):
        raise click.UsageError(f"--label-separator must be some text, and is for --task {Task.MULTI_LABEL}")
    request = ConversionRequest(
        source,
        Task(task) if task else None,
        images,
        label,
        None if voc_origin == "auto" else int(voc_origin),
        OnFault(on_fault),
        label_separator,
        progress=lambda items: progress(items, "reading"),
    )
    converted = read_source(layout, request, validation_source, validation_images)
    changes = list(converted.changes)
    given = split_as_given(converted.entries)
    if validation_list is not None:
        train, validation = split_by_lists(
            converted.entries, validation_list, training_list, changes if on_fault == OnFault.SKIP else None
        )
    elif validation_every is not None:
        train, validation = split_every(converted.entries, validation_every)
    elif given is not None and validation_fraction is None:
        train, validation = given
        split = f"{source} is split: {len(train)} pictures train, {len(validation)} validate"
        stderr.print(split, markup=False, soft_wrap=True)
    else:
        train, validation = split_by_fraction(converted.entries, validation_fraction, seed, converted.task)
        if (listed := source / "ImageSets" / "Main" / "val.txt").is_file():
            stderr.print(f"{listed} is not used; --validation-list takes it", markup=False, soft_wrap=True)
    if is_copied:
        copies = copy_images([*train, *validation], output / "images", lambda items: progress(items, "copying"))
        train, validation = copies[: len(train)], copies[len(train) :]
    warnings = [*converted.warnings, *warnings_of_split(train, validation)]
    if changes:
        for change in changes[:_MAX_SHOWN_CHANGES]:
            stderr.print(f"--on-fault {on_fault}: {change}", markup=False, soft_wrap=True)
        what = "the pictures of faults left out" if on_fault == OnFault.SKIP else "objects cut off or left out"
        warnings.append(f"{what} by --on-fault {on_fault}: {len(changes)} (all: {output / CHANGES})")
    for warning in warnings:
        stderr.print(f"warning: {warning}", markup=False, soft_wrap=True)
    written = write_folders(output, train, validation)
    write_changes(output, changes)
    emit({"task": converted.task.value, "output": str(output), **written, "warnings": warnings})


@data.command(cls=AzCommand, short_help="List every fault of a data folder.")
@click.argument("folder", type=OUTPUT)
@click.option("--task", type=TASK, required=True, help="Task whose format the labels must have.")
@click.option("--target-column", default="label", show_default=True, help="`target_column_name` of the job.")
@click.option(
    "--validation",
    type=OUTPUT,
    help="The folder of the other part: say which classes only one has, and how many pictures both have.",
)
@click.option("--decode", "is_decoded", is_flag=True, help="Decode whole images, which also finds cut-off files.")
@click.option("--output", "-o", "output_format", type=click.Choice(["text", "json"]), default="text", show_default=True)
def check(
    folder: Path, task: str, target_column: str, validation: Path | None, is_decoded: bool, output_format: str
) -> None:
    r"""List every fault of a data folder, and unreadable images; say what is in it when there is none.

    Exits with 1 when there are faults.

    \b
    Examples:
      clearsight data check data/training-mltable-folder --task image_classification
      clearsight data check data/training-mltable-folder --task image_object_detection --output json
      clearsight data check data/training-mltable-folder --task image_classification \
          --validation data/validation-mltable-folder
    """
    from clearsight.training.data.check import check_folder

    report = check_folder(
        folder,
        Task(task),
        target_column,
        Workspace.default().datastores(),
        progress=lambda images: progress(images, "reading"),
        is_decoded=is_decoded,
        validation=validation,
    )
    if output_format == "json":
        emit(report.to_document())
    else:
        _print_report(folder, report.to_document())
    if report.faults:
        sys.exit(1)


def _print_report(folder: Path, document: dict[str, Any]) -> None:
    for fault in document["faults"]:
        click.echo(f"{fault['target']}: {fault['message']} [{fault['code']}]")
    for warning in document["warnings"]:
        click.echo(f"warning: {warning}")
    if document["faults"]:
        count = len(document["faults"])
        click.echo(f"{folder}: {count} fault{'' if count == 1 else 's'}")
        return
    click.echo(f"{folder}: no faults, {document['num_records']} records")
    for name, count in (document.get("objects_per_class") or document["records_per_class"]).items():
        click.echo(f"  {name}: {count}")
    if "image_sizes" in document:
        click.echo("  sizes: " + ", ".join(f"{name} {size}" for name, size in document["image_sizes"].items()))
