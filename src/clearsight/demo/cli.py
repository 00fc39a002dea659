"""`clearsight data demo`: draw labelled images to try the product with."""

from pathlib import Path

import click

from clearsight.console import TASK, AzCommand, emit, progress
from clearsight.demo.dataset import TASK_FOLDERS, DemoOptions, draw_dataset, write_tables
from clearsight.tasks import Task

__all__ = ["demo"]


@click.command(cls=AzCommand, short_help="Draw labelled fridge scenes.")
@click.option(
    "--output", "output", type=click.Path(file_okay=False, path_type=Path), required=True, help="Folder to write."
)
@click.option("--num-images", type=click.IntRange(10, 100_000), default=240, show_default=True, help="Images per kind.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Same seed, same bytes.")
@click.option("--size", help="Width x height in pixels. Default: 320x240, with --object-size 1600x1200.")
@click.option(
    "--object-size", help="Draw racks from afar with many objects of MIN-MAX pixels; detection and segmentation alone."
)
@click.option("--easy", is_flag=True, help="No clutter, and a colour for each class: learnt in a minute.")
@click.option("--task", "tasks", type=TASK, multiple=True, help="Only these tasks. Default: all that are drawn.")
def demo(
    output: Path,
    num_images: int,
    seed: int,
    size: str | None,
    object_size: str | None,
    easy: bool,
    tasks: tuple[str, ...],
) -> None:
    r"""Draw labelled fridge scenes for all four tasks.

    Cans, cartons, milk bottles and water bottles among clutter; the class shows in the shape, not in the colour.
    Images with one object serve multi-class, images with several the other tasks. With --object-size:
    cans and water bottles of a few pixels in large images, as tiling is made for.

    \b
    Examples:
      clearsight data demo --output fridge
      clearsight data demo --output fridge --num-images 60 --task image_object_detection
      clearsight data demo --output first-steps --num-images 80 --easy
      clearsight data demo --output rack --num-images 40 --object-size 10-16
    """
    object_px = _parse_object_size(object_size) if object_size else None
    drawn = (Task.DETECTION, Task.SEGMENTATION) if object_px else tuple(Task)
    chosen = tuple(Task(task) for task in dict.fromkeys(tasks)) or drawn
    if undrawn := [task.value for task in chosen if task not in drawn]:
        raise click.UsageError(f"--object-size serves {' and '.join(drawn)}, but --task is {', '.join(undrawn)}")
    if easy and object_px:
        raise click.UsageError("--easy and --object-size exclude each other: racks have no clutter to leave out")
    width, height = _parse_size(size or ("1600x1200" if object_px else "320x240"))
    options = DemoOptions(num_images, seed, width, height, chosen, object_px, easy)
    images = list(progress(draw_dataset(output, options), "drawing", options.num_images_in_all))
    written = write_tables(output, options, images)
    emit({task.value: {"folder": str(output / TASK_FOLDERS[task]), **counts} for task, counts in written.items()})


def _parse_size(size: str) -> tuple[int, int]:
    width, x, height = size.lower().partition("x")
    if not x or not width.isdigit() or not height.isdigit():
        raise click.UsageError(f"--size must be WIDTHxHEIGHT like 320x240, but got {size!r}")
    if not all(96 <= int(side) <= 4096 for side in (width, height)):
        raise click.UsageError(f"--size must be between 96x96 and 4096x4096, but got {size!r}")
    return int(width), int(height)


def _parse_object_size(object_size: str) -> tuple[int, int]:
    least, dash, greatest = object_size.partition("-")
    if not dash or not least.isdigit() or not greatest.isdigit() or not 8 <= int(least) <= int(greatest) <= 40:
        raise click.UsageError(f"--object-size must be MIN-MAX like 10-16, from 8 to 40, but got {object_size!r}")
    return int(least), int(greatest)
