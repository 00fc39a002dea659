"""Explanations as files: the results then name them, instead of holding megabytes of text per row."""

import io
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt
import pybase64

from clearsight.files import write_atomically
from clearsight.serving.batch.results.names import derived_path, legible
from clearsight.serving.batch.row_outputs import EXPLANATIONS

__all__ = ["store_explanations"]


def store_explanations(name: str, row: int | None, answer: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Write the explanations of an answer below `folder`, and return the answer with their paths in their place.

    A visualization becomes a PNG, attributions an array (`.npy`, float32), each named by a path relative to `folder`,
    for example `explanations/shelf/a.jpg.png`. Of several labels or boxes the position stands before the ending:
    `a.jpg.0.png`. `row` is the number of a table's row, None for a file of its own. Details stay. Raises `OSError`.
    """
    files = _Files(name, row, folder)
    stored = dict(answer)
    if (images := answer.get("visualizations")) is not None:
        if isinstance(images, list):
            stored["visualizations"] = [files.image(image, f"{n}.") for n, image in enumerate(images)]
        else:
            stored["visualizations"] = files.image(images)
    if (arrays := answer.get("attributions")) is not None:
        if _is_list_of_arrays(arrays):
            stored["attributions"] = [files.array(array, f"{n}.") for n, array in enumerate(arrays)]
        else:
            stored["attributions"] = files.array(arrays)
    if "explanations" in answer:
        stored["explanations"] = [files.explanation(explanation) for explanation in answer["explanations"]]
    return stored


class _Files:
    """The files of one entry."""

    def __init__(self, name: str, row: int | None, folder: Path) -> None:
        self._name, self._row, self._folder = name, row, folder

    def explanation(self, document: dict[str, Any]) -> dict[str, Any]:
        """The explanation of one box, with paths."""
        place = f"{document['index']}."
        stored = dict(document)
        if "visualizations" in document:
            stored["visualizations"] = self.image(document["visualizations"], place)
        if "attributions" in document:
            stored["attributions"] = self.array(document["attributions"], place)
        return stored

    def image(self, base64_text: str, place: str = "") -> str:
        return self._write(f"{place}png", pybase64.b64decode(base64_text))

    def array(self, value: Any, place: str = "") -> str:
        stream = io.BytesIO()
        np.save(stream, _to_array(value), allow_pickle=False)
        return self._write(f"{place}npy", stream.getvalue())

    def _write(self, ending: str, content: bytes) -> str:
        path = PurePosixPath(EXPLANATIONS) / derived_path(self._name, self._row, ending)
        write_atomically(self._folder / path, content)
        return legible(str(path))


def _is_list_of_arrays(value: Any) -> bool:
    """Whether the attributions are those of several labels: a list of objects, or of arrays (3, P, P)."""
    if isinstance(value, dict):
        return False
    depth, first = 0, value
    while isinstance(first, list):
        if not first:
            return depth == 0
        depth, first = depth + 1, first[0]
    return isinstance(first, dict) or depth > 3


def _to_array(value: Any) -> npt.NDArray[np.float32]:
    """An array as nested lists, or in one of the base64 forms of `attributions_format`."""
    if not isinstance(value, dict):
        return np.asarray(value, np.float32)
    dtype = {"float32": "<f4", "float16": "<f2"}[value["dtype"]]
    numbers = np.frombuffer(pybase64.b64decode(value["data"]), dtype).astype(np.float32)
    return (numbers * np.float32(value.get("scale", 1.0))).reshape(value["shape"])
