"""Check that a package still gives the same answers in a precision below float32.

    python -m clearsight.handlers.tuning.precision_gate PACKAGE PICTURES… [--precision bf16] [--record]

Real images are scored in float32 and in the lower precision, each in a child process (a precision that the machine
cannot compute may kill its process). The result can be recorded in the package's manifest, where `load_scorer` reads
it.
"""

import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import click
import numpy as np
import numpy.typing as npt
import orjson

from clearsight.errors import UserError
from clearsight.executor import call_module
from clearsight.files import write_atomically
from clearsight.handlers.backends import (
    BACKENDS,
    DEVICES,
    PRECISIONS,
    Device,
    OpenOptions,
    Precision,
    able_backends,
    open_backend,
    require_able,
)
from clearsight.handlers.tuning.object_agreement import MIN_IOU, Agreement
from clearsight.runs.package import ModelPackage
from clearsight.tasks import Task
from clearsight.wire.answers import DetectedObject, DetectionAnswer
from clearsight.wire.encoding import to_document

__all__ = [
    "MAX_MEAN_DIFFERENCE",
    "MIN_AGREEMENT",
    "MIN_IMAGES",
    "compare",
    "compare_objects",
    "precision_gate",
    "record_gate",
]

MIN_AGREEMENT: Final = 0.99
"""Least share of images with the same decision: the top class, or for multi-label the set of classes at 0.5 and above.
For detectors the least F1 of objects: same class, boxes and masks with an IoU of at least 0.9."""
MAX_MEAN_DIFFERENCE: Final = 0.01
"""Largest mean absolute difference of the probabilities of the images' decided classes, or of the scores of objects in
both answers. An object in one answer only does not count when its score is at most this far above the threshold."""
MIN_IMAGES: Final = 16
"""Least number of images for a verdict."""

_TIMEOUT_S: Final = 1800
_MODULE: Final = "clearsight.handlers.tuning.precision_gate"
_BELOW_F32: Final = tuple(precision for precision in PRECISIONS if precision != "f32")


def precision_gate(
    path: Path | str,
    images: Sequence[Path],
    precision: Precision = "bf16",
    num_threads: int | None = None,
    *,
    backend: str | None = None,
    device: Device = "cpu",
) -> dict[str, Any]:
    """Compare a lower precision with float32 on real images; return what the manifest records.

    Both are computed by `backend`; None takes the first installed one that has the precision on `device`. `passed`
    says whether the agreement reaches `MIN_AGREEMENT` and the difference stays within `MAX_MEAN_DIFFERENCE`. A
    precision that this machine cannot run fails with a `reason`. Raises `UserError` for too few or unreadable images,
    and where no such backend is installed.
    """
    if len(images) < MIN_IMAGES:
        raise UserError(f"the accuracy gate needs at least {MIN_IMAGES} pictures, but got {len(images)}")
    package = ModelPackage.open(path)
    options = OpenOptions(device, precision, num_threads or len(os.sched_getaffinity(0)))
    name = backend or _first_able(device, precision)
    runtime = require_able(name, options).runtime()
    header = {"precision": precision, "backend": name, "device": device, "runtime": runtime}
    expected = _answers(package.root, images, name, replace(options, precision="f32"))
    try:
        found = _answers(package.root, images, name, options)
    except UserError as error:
        return {**header, "num_images": len(images), "passed": False, "reason": str(error)}
    settings = package.settings()
    if settings.detection is not None:
        return {
            **header,
            **compare_objects([*map(_objects, expected)], [*map(_objects, found)], settings.detection.box_score_thresh),
        }
    return {**header, **compare(_probs(expected), _probs(found), package.task)}


def _first_able(device: Device, precision: Precision) -> str:
    able = able_backends(device, precision)
    if not able:
        raise UserError(f"no installed backend computes in {precision} on {device}; known are {list(BACKENDS)}")
    return able[0].name


def compare(expected_NK: npt.NDArray[np.float64], found_NK: npt.NDArray[np.float64], task: Task) -> dict[str, Any]:
    """Compare probabilities (N >= 1): agreement of decisions and differences, with the verdict."""
    difference_NK = np.abs(expected_NK - found_NK)
    if task is Task.MULTI_LABEL:
        agreement = float(((expected_NK >= 0.5) == (found_NK >= 0.5)).all(axis=1).mean())
        mean_difference = float(difference_NK.mean())
    else:
        top_N = expected_NK.argmax(axis=1)
        agreement = float((top_N == found_NK.argmax(axis=1)).mean())
        mean_difference = float(difference_NK[np.arange(len(top_N)), top_N].mean())
    return {
        "num_images": len(expected_NK),
        "agreement": agreement,
        "min_agreement": MIN_AGREEMENT,
        "mean_abs_diff_probs": mean_difference,
        "max_mean_abs_diff_probs": MAX_MEAN_DIFFERENCE,
        "max_abs_diff_probs": float(difference_NK.max()),
        "passed": agreement >= MIN_AGREEMENT and mean_difference <= MAX_MEAN_DIFFERENCE,
    }


def compare_objects(
    expected: Sequence[DetectionAnswer], found: Sequence[DetectionAnswer], score_threshold: float
) -> dict[str, Any]:
    """Compare answers of detectors, with the verdict; images without any object do not pass."""
    agreement = Agreement(score_threshold, MAX_MEAN_DIFFERENCE)
    for one, other in zip(expected, found, strict=True):
        agreement.add(one, other)
    f1, differences = agreement.f1, agreement.score_differences
    if f1 is None or not differences:
        reason = "no object was found by both precisions" if f1 is not None else "the pictures show no object"
        return {"num_images": len(expected), "num_objects": 0, "agreement": f1, "passed": False, "reason": reason}
    mean_difference = float(np.mean(differences))
    return {
        "num_images": len(expected),
        "num_objects": agreement.num_matched,
        "min_iou": MIN_IOU,
        "agreement": f1,
        "min_agreement": MIN_AGREEMENT,
        "mean_abs_diff_probs": mean_difference,
        "max_mean_abs_diff_probs": MAX_MEAN_DIFFERENCE,
        "max_abs_diff_probs": max(differences),
        "passed": f1 >= MIN_AGREEMENT and mean_difference <= MAX_MEAN_DIFFERENCE,
    }


def record_gate(package: ModelPackage, result: Mapping[str, Any]) -> None:
    """Write a result into the package's manifest under `precision_gates`, in place of an older one like it."""
    document = json.loads(package.manifest_file.read_text())
    gates = document.setdefault("precision_gates", {})
    key, backend, device = str(result["precision"]), result.get("backend"), result.get("device", "cpu")
    first = {"backend": backend, "device": "cpu", **gates.get(key, {"device": device})}
    if (first["backend"], first["device"]) != (backend, device):
        key = f"{key}/{backend}/{device}"
    gates[key] = dict(result)
    write_atomically(package.manifest_file, json.dumps(document, indent=2) + "\n")


def _answers(root: Path, images: Sequence[Path], backend: str, options: OpenOptions) -> list[dict[str, Any]]:
    """Score in a child process: an answer's JSON per image. Raises `UserError` with its last line of standard error."""
    job = {
        "package": str(root),
        "backend": backend,
        "device": options.device,
        "precision": options.precision,
        "num_threads": options.num_threads,
        "images": [str(image) for image in images],
    }
    result = call_module(_MODULE, str(root), "--child", stdin=orjson.dumps(job), timeout_s=_TIMEOUT_S)
    if result.code < 0:
        raise UserError(f"precision {options.precision} killed its process with signal {-result.code} on this machine")
    if result.code != 0:
        raise UserError(result.error)
    answers: list[dict[str, Any]] = orjson.loads(result.output)
    return answers


def _probs(documents: Sequence[Mapping[str, Any]]) -> npt.NDArray[np.float64]:
    """Probabilities of all answers, (N, K)."""
    return np.array([document["probs"] for document in documents], np.float64)


def _objects(document: Mapping[str, Any]) -> DetectionAnswer:
    """Parse a document that `wire.encoding.to_document` wrote."""
    return DetectionAnswer(
        tuple(
            DetectedObject(tuple(row["box"].values()), row["label"], row["score"], row.get("polygon"))
            for row in document["boxes"]
        )
    )


def _score_child() -> list[dict[str, Any]]:
    from clearsight.handlers.scoring.scorer import Scorer

    job = orjson.loads(sys.stdin.buffer.read())
    package = ModelPackage.open(job["package"], verify=False)  # the parent verified it
    options = OpenOptions(job["device"], job["precision"], job["num_threads"])
    scorer = Scorer(package, open_backend(job["backend"], package, options), job["backend"], options)
    answers = []
    for name in job["images"]:
        (result,) = scorer.score([Path(name).read_bytes()])
        if isinstance(result, UserError):
            raise UserError(f"{name}: {result}")
        answers.append(to_document(result))
    return answers


@click.command()
@click.argument("package", type=click.Path(path_type=Path))
@click.argument("images", nargs=-1, type=click.Path(path_type=Path))
@click.option("--precision", default="bf16", show_default=True, type=click.Choice(_BELOW_F32))
@click.option("--backend", type=click.Choice(list(BACKENDS)), help="Without it the first that has the precision.")
@click.option("--device", default="cpu", show_default=True, type=click.Choice(DEVICES))
@click.option("--record", is_flag=True, help="Write the result into the package's manifest.")
@click.option("--child", is_flag=True, hidden=True)
def main(
    package: Path,
    images: tuple[Path, ...],
    precision: Precision,
    backend: str | None,
    device: Device,
    record: bool,
    child: bool,
) -> None:
    """Compare a lower precision of PACKAGE with float32 on PICTURES; print JSON. Exit 1 when it does not pass."""
    try:
        if child:
            click.echo(orjson.dumps(_score_child()))
            return
        result = precision_gate(package, images, precision, backend=backend, device=device)
        if record:
            record_gate(ModelPackage.open(package, verify=False), result)
    except (UserError, OSError) as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(1)
    click.echo(orjson.dumps(result, option=orjson.OPT_INDENT_2).decode())
    sys.exit(0 if result["passed"] else 1)


if __name__ == "__main__":
    main()
