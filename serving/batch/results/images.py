"""Images beside the results: masks of segmentation (Azure's `export_as_image`) and answers drawn on the images.

Their names and bytes are functions of the entry and its answer, so that a mini-batch that is scored twice writes the
same files.
"""

from pathlib import Path

from clearsight.documents.settings import SegmentationSettings
from clearsight.files import write_atomically
from clearsight.handlers.drawing.mask_image import encode_numbers, file_type, instance_numbers
from clearsight.handlers.drawing.overlay import draw_overlay, to_jpeg
from clearsight.handlers.scoring.scorer import Scorer
from clearsight.images.decode import decode_image
from clearsight.serving.batch.results.names import derived_path
from clearsight.serving.batch.row_outputs import MASKS, OVERLAYS, RowOutputs
from clearsight.wire.answers import Answer, DetectionAnswer

__all__ = ["write_images"]


def write_images(
    name: str,
    row: int | None,
    answer: Answer,
    content: bytes,
    outputs: RowOutputs,
    scorer: Scorer,
    folder: Path,
) -> None:
    """Write the images of one answer below `folder`: `overlays/<name>.overlay.jpg`, `masks/<name>.masks.png`.

    `row` is the number of a table's row and None for an entry that is a file of its own; `content` the bytes of the
    image file that was scored. Raises `OSError`.
    """
    if not (outputs.overlays or outputs.masks):
        return
    settings = scorer.settings
    image_HWC = decode_image(content, exif_orientation=settings.exif_orientation)
    if outputs.overlays:
        threshold = None if settings.detection is None else settings.detection.box_score_thresh
        target = folder / OVERLAYS / derived_path(name, row, "overlay.jpg")
        write_atomically(target, to_jpeg(draw_overlay(image_HWC, answer, scorer.labels, threshold)))
    if outputs.masks and settings.masks is not None and isinstance(answer, DetectionAnswer):
        _write_masks(folder / MASKS, name, row, answer, settings.masks, image_HWC.shape[:2])


def _write_masks(
    folder: Path,
    name: str,
    row: int | None,
    answer: DetectionAnswer,
    settings: SegmentationSettings,
    size: tuple[int, ...],
) -> None:
    kind = file_type(settings)
    height, width = size
    target = folder / derived_path(name, row, f"masks.{kind.lower()}")
    write_atomically(target, encode_numbers(instance_numbers(answer, height, width), kind))
