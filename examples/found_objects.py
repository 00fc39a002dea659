"""Compares the objects that `clearsight predict` found with the labels of a data folder; used by examples/demo.sh.

    python examples/found_objects.py images FOLDER                the images of the folder, one per line
    python examples/found_objects.py compare FOLDER ANSWERS.json  objects found with the right class at IoU 0.5 or more

`compare` exits with 1 when no object was found.
"""

import json
import sys
from pathlib import Path
from typing import Any

import click
import numpy as np
import numpy.typing as npt

from clearsight.vision.boxes import iou_matrix

CORNERS = ("topX", "topY", "bottomX", "bottomY")
Box = tuple[float, float, float, float]


def main() -> None:
    command, folder, *answers = sys.argv[1:]
    truths = read_labels(Path(folder))
    if command == "images":
        click.echo("\n".join(map(str, truths)))
        return
    documents = json.loads(Path(answers[0]).read_text())
    found = {Path(document["file"]).resolve(): document["boxes"] for document in documents}
    correct = {file: count_right(objects, found[file]) for file, objects in truths.items()}
    num_objects, num_found = sum(map(len, truths.values())), sum(map(len, found.values()))
    click.echo(
        f"{sum(correct.values())} of {num_objects} objects found with the right class, among {num_found} answers"
    )
    best = max(correct, key=lambda file: correct[file])
    if not correct[best]:
        sys.exit("error: at least one object must be found, but there is none")
    labels = ", ".join(f"{answer['label']} {answer['score']:.2f}" for answer in found[best])
    click.echo(f"most in {best.name}: {labels}")


def read_labels(folder: Path) -> dict[Path, list[tuple[str, Box]]]:
    """The labelled objects of each image file."""
    [file] = folder.glob("*.jsonl")
    records = [json.loads(line) for line in file.read_text().splitlines()]
    return {
        (folder / record["image_url"]).resolve(): [(item["label"], box_of(item)) for item in record["label"]]
        for record in records
    }


def box_of(item: dict[str, Any]) -> Box:
    """The box, or the bounding box of the polygons: left, top, right, bottom as fractions of the image."""
    if "polygon" in item:
        xs = [x for polygon in item["polygon"] for x in polygon[0::2]]
        ys = [y for polygon in item["polygon"] for y in polygon[1::2]]
        return min(xs), min(ys), max(xs), max(ys)
    left, top, right, bottom = (item[corner] for corner in CORNERS)
    return left, top, right, bottom


def count_right(objects: list[tuple[str, Box]], answers: list[dict[str, Any]]) -> int:
    """Number of objects with an answer of their class at IoU 0.5 or more."""
    found = [(answer["label"], box_of(answer["box"])) for answer in answers]
    iou_NM = iou_matrix(to_array([box for _, box in objects]), to_array([box for _, box in found]))
    return sum(
        any(label == name and iou >= 0.5 for (name, _), iou in zip(found, iou_M, strict=True))
        for (label, _), iou_M in zip(objects, iou_NM, strict=True)
    )


def to_array(boxes: list[Box]) -> npt.NDArray[np.float64]:
    """(N, 4), even if N is 0."""
    return np.array(boxes, np.float64).reshape(-1, 4)


if __name__ == "__main__":
    main()
