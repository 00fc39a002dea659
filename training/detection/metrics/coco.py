"""COCO's twelve metrics, computed by faster-coco-eval, which agrees with pycocotools.

https://cocodataset.org/#detection-eval.
"""

from collections.abc import Sequence
from typing import Any, Final

from faster_coco_eval import COCO, COCOeval_faster  # type: ignore[import-untyped]

from clearsight.training.detection.metrics.objects import GroundTruth, Predictions
from clearsight.training.detection.metrics.regions import Shape, areas_of, regions_of

__all__ = ["NAMES", "coco_metrics"]

NAMES: Final = (
    "AP",
    "AP50",
    "AP75",
    "AP_small",
    "AP_medium",
    "AP_large",
    "AR_max_1",
    "AR_max_10",
    "AR_max_100",
    "AR_small",
    "AR_medium",
    "AR_large",
)
"""In COCO's order: average precision over ten IoU thresholds, at two of them and by size of the object (areas below
32², up to and above 96² pixels), then average recall by predictions per image and class, and by size."""


def coco_metrics(
    predictions: Sequence[Predictions], truths: Sequence[GroundTruth], num_classes: int, shape: Shape
) -> dict[str, float]:
    """Values in [0, 1] by `NAMES`; one without objects (of its size) is left out.

    The size of an object is the area of its box or of its mask, whichever is compared.
    """
    if all(truth.is_crowd_N.all() for truth in truths):
        return {}
    is_crowd = [truth.is_crowd_N.astype(int).tolist() for truth in truths]
    scores = [detections.scores_N.tolist() for detections in predictions]
    evaluation = COCOeval_faster(
        _dataset(_annotations(truths, shape, "iscrowd", is_crowd), len(truths), num_classes),
        _dataset(_annotations(predictions, shape, "score", scores), len(truths), num_classes),
        "segm" if shape == "mask" else "bbox",
        print_function=_silent,
    )
    evaluation.run()
    return {name: float(value) for name, value in zip(NAMES, evaluation.stats, strict=True) if value >= 0}


def _annotations(
    images: Sequence[Predictions | GroundTruth], shape: Shape, key: str, values: Sequence[list[float]]
) -> list[dict[str, Any]]:
    """COCO's `annotations`; `key` holds what only predictions or only true objects have, `values` by image."""
    annotations: list[dict[str, Any]] = []
    for image_id, (objects, of_image) in enumerate(zip(images, values, strict=True), start=1):
        regions = regions_of(objects, shape)
        areas = areas_of(regions).tolist()
        for class_id, region, area, value in zip(objects.class_ids_N.tolist(), regions, areas, of_image, strict=True):
            annotation = {
                "id": len(annotations) + 1,  # 0 would mean "no match" to COCO's matching
                "image_id": image_id,
                "category_id": class_id + 1,
                "area": area,
                "segmentation" if shape == "mask" else "bbox": region,
                key: value,
            }
            annotations.append(annotation)
    return annotations


def _dataset(annotations: list[dict[str, Any]], num_images: int, num_classes: int) -> COCO:
    document = {
        # Sizes are asked for and used only with polygons; run lengths bring their own.
        "images": [{"id": image_id, "height": 0, "width": 0} for image_id in range(1, num_images + 1)],
        "categories": [{"id": category_id} for category_id in range(1, num_classes + 1)],
        "annotations": annotations,
    }
    return COCO(document, print_function=_silent)


def _silent(*_: object) -> None:
    """Print nothing: the library's report, a page for every pass, would hide the job's own log."""
