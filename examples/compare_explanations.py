"""Explains one image with every algorithm that its model supports, and draws the results on one sheet.

    python examples/compare_explanations.py PACKAGE IMAGE SHEET.png [LABEL]

Each column shows the heat over the grey crop, and below the strongest 30 % of the crop. The predicted label is
explained, or LABEL.
"""

import io
import sys
from pathlib import Path
from typing import Final

import click
from PIL import Image, ImageDraw, ImageFont

from clearsight.catalogue.algorithms import CLASSIFIER_ALGORITHMS
from clearsight.console import run
from clearsight.errors import BadRequest, UserError
from clearsight.handlers.explain.answering.explainer import Explanation
from clearsight.handlers.explain.answering.scoring import ExplainingScorer, explaining_scorer
from clearsight.handlers.explain.parameters import parse_xai_parameters
from clearsight.handlers.scoring.scorer import load_scorer

SIDE: Final = 176
"""Side of a tile, pixels."""
CAPTION: Final = 24
GAP: Final = 8
COLUMNS: Final = 5


@click.command()
@click.argument("package")
@click.argument("image", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("sheet")
@click.argument("labels", metavar="[LABEL]...", nargs=-1)
def main(package: str, image: Path, sheet: str, labels: tuple[str, ...]) -> None:
    """Explain IMAGE with every algorithm that the model of PACKAGE supports, on one SHEET."""
    scorer = explaining_scorer(load_scorer(package))
    if not scorer.task.is_classification:
        raise UserError(f"PACKAGE must be a classifier's, but {package} is of {scorer.task.value}")
    cells: list[Image.Image] = []
    for algorithm in CLASSIFIER_ALGORITHMS:
        try:
            found = explain(scorer, image.read_bytes(), algorithm, list(labels))
        except BadRequest as error:
            click.echo(f"{algorithm}: {error}", err=True)
            continue
        cells = cells or [draw_crop(found)]
        cells.append(draw(algorithm, found))
        click.echo(f"{algorithm}: {describe(found)}")
    if not cells:
        raise UserError("no algorithm could explain the image; the lines above say why")
    rows = -(-len(cells) // COLUMNS)
    width, height = cells[0].size
    canvas = Image.new("RGB", (COLUMNS * (width + GAP) - GAP, rows * (height + GAP) - GAP), "white")
    for index, cell in enumerate(cells):
        row, column = divmod(index, COLUMNS)
        canvas.paste(cell, (column * (width + GAP), row * (height + GAP)))
    canvas.save(sheet, optimize=True)


def explain(scorer: ExplainingScorer, image: bytes, algorithm: str, labels: list[str]) -> Explanation:
    parameters = {"xai_algorithm": algorithm, "target_labels": labels or None, "details": True, "faithfulness": True}
    _, explanations = scorer.explain(image, parse_xai_parameters(parameters, algorithms=CLASSIFIER_ALGORITHMS))
    return explanations[0]


def describe(found: Explanation) -> str:
    details = found.details
    parts = [f"{details.label} {details.probability:.2f}", f"{sum(details.milliseconds.values()):.0f} ms"]
    if details.delta_over_rise is not None:
        parts.append(f"misses {details.delta_over_rise:.1%} of the rise")
    if (score := details.faithfulness) is not None:
        parts.append(f"deletion {score.deletion_auc:.2f} (random {score.random_deletion_auc:.2f})")
        parts.append(f"insertion {score.insertion_auc:.2f}")
    return ", ".join(parts)


def draw(caption: str, found: Explanation) -> Image.Image:
    tiles = grid_of(found)
    side = tiles.width // 2
    overlay, strongest = tiles.crop((0, side, side, 2 * side)), tiles.crop((side, side, 2 * side, 2 * side))
    return column_of(caption, [overlay, strongest])


def draw_crop(found: Explanation) -> Image.Image:
    tiles = grid_of(found)
    side = tiles.width // 2
    return column_of(f"{found.details.label} {found.details.probability:.2f}", [tiles.crop((0, 0, side, side))])


def grid_of(found: Explanation) -> Image.Image:
    return Image.open(io.BytesIO(found.image or b""))


def column_of(caption: str, tiles: list[Image.Image]) -> Image.Image:
    column = Image.new("RGB", (SIDE, CAPTION + 2 * SIDE), "white")
    ImageDraw.Draw(column).text((2, 3), caption, "black", ImageFont.load_default(14))
    for index, tile in enumerate(tiles):
        column.paste(tile.resize((SIDE, SIDE), Image.Resampling.NEAREST), (0, CAPTION + index * SIDE))
    return column


if __name__ == "__main__":
    sys.exit(run(main, prog_name="compare_explanations.py"))
