"""Check that a package still gives the same answers in a precision below float32.

    python -m clearsight.handlers.tuning.precision_gate PACKAGE PICTURES… [--precision bf16] [--record]

Real images are scored in float32 and in the lower precision, each in a process of its own (a precision that the
machine cannot compute may kill its process). The result can be recorded in the package's manifest, where
`load_scorer` looks for it.
"""

import json
import os
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import click
import numpy as np
import numpy.typing as npt
import orjson

from clearsight.errors import BadRequest, UserError
from clearsight.executor import call_module
from clearsight.files import write_atomically
from clearsight.handlers.backends import OpenOptions, Precision, open_backend
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
"""Share of images with the same decision: the top class, or for multi-label the set of classes at 0.5 and above.
Of detectors the F1 of their objects: same class, boxes and masks with an IoU of at least 0.9."""
MAX_MEAN_DIFFERENCE: Final = 0.01
"""Mean absolute difference of the probabilities of the images' decided classes, or of the scores of objects that
both found. An object that only one found does not count up to this far above the score threshold."""
MIN_IMAGES: Final = 16

_TIMEOUT_S: Final = 1800
_MODULE: Final = "clearsight.handlers.tuning.precision_gate"
_BACKEND: Final = "openvino"  # the only backend with a precision below f32


def precision_gate(
    path: Path | str, images: Sequence[Path], precision: Precision = "bf16", num_threads: int | None = None
) -> dict[str, Any]:
    """Compare a lower precision with float32 on real images; return what the manifest records.

    `passed` says whether the agreement reaches `MIN_AGREEMENT` and the difference stays within
    `MAX_MEAN_DIFFERENCE`. A precision that this machine cannot run fails with a `reason`. Raises `UserError` for too
    few or unreadable images.
    """
    if len(images) < MIN_IMAGES:
        raise UserError(f"the accuracy gate needs at least {MIN_IMAGES} pictures, but got {len(images)}")
    package = ModelPackage.open(path)
    threads = num_threads or len(os.sched_getaffinity(0))
    header = {"precision": precision, "backend": _BACKEND, "runtime": f"{_BACKEND} {version(_BACKEND)}"}
    expected = _answers(package.root, images, "f32", threads)
    try:
        found = _answers(package.root, images, precision, threads)
    except UserError as error:
        return {**header, "num_images": len(images), "passed": False, "reason": str(error)}
    settings = package.settings()
    if settings.detection is not None:
        return {
            **header,
            **compare_objects([*map(_objects, expected)], [*map(_objects, found)], settings.detection.box_score_thresh),
        }
    return {**header, **compare(_probs(expected), _probs(found), package.task)}


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
    """The same for answers of detectors; images without a single object prove nothing."""
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
    """Write a result into the package's manifest under `precision_gates`."""
    document = json.loads(package.manifest_file.read_text())
    document.setdefault("precision_gates", {})[str(result["precision"])] = dict(result)
    write_atomically(package.manifest_file, json.dumps(document, indent=2) + "\n")


def _answers(root: Path, images: Sequence[Path], precision: Precision, threads: int) -> list[dict[str, Any]]:
    """Score in a process of its own: an answer's JSON per image. Raises `UserError` with its last line of stderr."""
    job = {"package": str(root), "precision": precision, "threads": threads, "pictures": [str(p) for p in images]}
    result = call_module(_MODULE, str(root), "--child", stdin=orjson.dumps(job), timeout_s=_TIMEOUT_S)
    if result.code < 0:
        raise UserError(f"precision {precision} killed its process with signal {-result.code} on this machine")
    if result.code != 0:
        raise UserError(result.error)
    answers: list[dict[str, Any]] = orjson.loads(result.output)
    return answers


def _probs(documents: Sequence[Mapping[str, Any]]) -> npt.NDArray[np.float64]:
    """(N, K)."""
    return np.array([document["probs"] for document in documents], np.float64)


def _objects(document: Mapping[str, Any]) -> DetectionAnswer:
    """Read back what `wire.to_document` wrote."""
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
    options = OpenOptions("cpu", job["precision"], job["threads"])
    scorer = Scorer(package, open_backend(_BACKEND, package, options), _BACKEND, options)
    answers = []
    for name in job["pictures"]:
        (result,) = scorer.score([Path(name).read_bytes()])
        if isinstance(result, BadRequest):
            raise UserError(f"{name}: {result}")
        answers.append(to_document(result))
    return answers


@click.command()
@click.argument("package", type=click.Path(path_type=Path))
@click.argument("images", nargs=-1, type=click.Path(path_type=Path))
@click.option("--precision", default="bf16", show_default=True, type=click.Choice(["bf16"]))
@click.option("--record", is_flag=True, help="Write the result into the package's manifest.")
@click.option("--child", is_flag=True, hidden=True)
def main(package: Path, images: tuple[Path, ...], precision: Precision, record: bool, child: bool) -> None:
    """Compare a lower precision of PACKAGE with float32 on PICTURES; print JSON. Exit 1 when it does not pass."""
    try:
        if child:
            click.echo(orjson.dumps(_score_child()))
            return
        result = precision_gate(package, images, precision)
        if record:
            record_gate(ModelPackage.open(package, verify=False), result)
    except (UserError, OSError) as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(1)
    click.echo(orjson.dumps(result, option=orjson.OPT_INDENT_2).decode())
    sys.exit(0 if result["passed"] else 1)


if __name__ == "__main__":
    main()
