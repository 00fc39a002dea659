"""Explains the objects that a detector finds in one image, on one sheet: the answer, then the heat of each object.

    python examples/explain_objects.py PACKAGE IMAGE SHEET.png [COUNT]

One row each for the score, the box and, for models with masks, the mask; COUNT objects of the highest scores
(default 3).
The white frame is the object's box.
"""

import io
import sys
from pathlib import Path
from typing import Final

import click
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from clearsight.catalogue.algorithms import DETECTOR_ALGORITHMS
from clearsight.console import run
from clearsight.errors import UserError
from clearsight.handlers.drawing.overlay import draw_overlay
from clearsight.handlers.explain.answering.scoring import explaining_scorer
from clearsight.handlers.explain.objects.explainer import ExplainedObject
from clearsight.handlers.explain.parameters import parse_xai_parameters
from clearsight.handlers.scoring.scorer import load_scorer
from clearsight.images.decode import decode_image
from clearsight.tasks import Task
from clearsight.wire.answers import DetectionAnswer

WIDTH: Final = 256
"""Width of a tile, pixels."""
CAPTION: Final = 22
GAP: Final = 6


@click.command()
@click.argument("package")
@click.argument("file", metavar="IMAGE", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("sheet")
@click.argument("count", type=click.IntRange(1), required=False)
def main(package: str, file: Path, sheet: str, count: int | None) -> None:
    """Explain the objects that the detector of PACKAGE finds in IMAGE, on one SHEET."""
    image = file.read_bytes()
    scorer = explaining_scorer(load_scorer(package))
    if scorer.task.is_classification:
        raise UserError(f"PACKAGE must be a detector's, but {package} is of {scorer.task.value}")
    targets = ("score", "box", "mask") if scorer.task is Task.SEGMENTATION else ("score", "box")
    rows: list[list[Image.Image]] = []
    for target in targets:
        keys = {
            "xai_algorithm": DETECTOR_ALGORITHMS[0],
            "detections": list(range(count)) if count else None,
            "target": target,
            "visualization_format": "overlay",
        }
        parameters = parse_xai_parameters(keys, algorithms=DETECTOR_ALGORITHMS)
        answer, explanations = scorer.explain_objects(image, parameters)
        if not rows:
            overlay = draw_overlay(decode_image(image), answer, scorer.labels)
            first = titled(f"found: {len(answer.boxes)}", overlay)
        else:
            first = Image.new("RGB", rows[0][0].size, "white")
        rows.append([first, *(draw(target, explained, answer) for explained in explanations)])
        for explained in explanations:
            click.echo(f"{target} {explained.index}: {share_inside(explained, answer):.2f} of the heat inside the box")
    width, height = rows[0][0].size
    columns = max(map(len, rows))
    canvas = Image.new("RGB", (columns * (width + GAP) - GAP, len(rows) * (height + GAP) - GAP), "white")
    for row, tiles in enumerate(rows):
        for column, tile in enumerate(tiles):
            canvas.paste(tile, (column * (width + GAP), row * (height + GAP)))
    canvas.save(sheet, optimize=True)


def draw(target: str, explained: ExplainedObject, answer: DetectionAnswer) -> Image.Image:
    heat = Image.open(io.BytesIO(explained.image or b""))
    heat = heat.resize((WIDTH, round(heat.height * WIDTH / heat.width)), Image.Resampling.BICUBIC)
    left, top, right, bottom = answer.boxes[explained.index].box_xyxy_unit
    corners = (left * heat.width, top * heat.height, right * heat.width - 1, bottom * heat.height - 1)
    ImageDraw.Draw(heat).rectangle(corners, outline="white", width=2)
    return titled(f"{target} of {explained.index}: {explained.details.label} {explained.details.probability:.2f}", heat)


def titled(caption: str, image: Image.Image) -> Image.Image:
    image = image.resize((WIDTH, round(image.height * WIDTH / image.width)), Image.Resampling.LANCZOS)
    tile = Image.new("RGB", (WIDTH, CAPTION + image.height), "white")
    ImageDraw.Draw(tile).text((2, 2), caption, "black", ImageFont.load_default(14))
    tile.paste(image, (0, CAPTION))
    return tile


def share_inside(explained: ExplainedObject, answer: DetectionAnswer) -> float:
    height, width = explained.heat_HW.shape
    left, top, right, bottom = np.array(answer.boxes[explained.index].box_xyxy_unit) * (width, height, width, height)
    inside_HW = explained.heat_HW[int(top) : int(np.ceil(bottom)), int(left) : int(np.ceil(right))]
    return float(inside_HW.sum() / max(explained.heat_HW.sum(), 1e-12))


if __name__ == "__main__":
    sys.exit(run(main, prog_name="explain_objects.py"))
