"""How an image becomes the input of a detector, and how its candidates become an answer.

Names and defaults are Azure's (https://learn.microsoft.com/azure/machine-learning/reference-automl-images-hyperparameters
and, for tiling, `how-to-use-automl-small-object-detect`); what is ours is marked so.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Final, Literal

from clearsight.documents.settings.classification import ExifOrientation

__all__ = ["DetectorSettings", "ImageType", "ModelSize", "RcnnSettings", "SegmentationSettings", "YoloSettings"]

ModelSize = Literal["nano", "small", "medium", "large", "xlarge"]
ImageType = Literal["JPG", "PNG", "BMP"]

_YOLO_MAX_DETECTIONS: Final = 300
"""Boxes that yolov5 gives for an image at most, as in Azure's ONNX sample client."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectorSettings(ABC):
    """What all detectors share. Fractions are in [0, 1]."""

    box_score_thresh: float
    """Only boxes with a greater score are returned."""
    nms_iou_thresh: float = 0.5
    """Of two boxes of one class whose IoU is greater, the one with the lower score goes."""
    tile_grid_size: tuple[int, int] | None = None
    """Tiles along the width and along the height; None scores images whole only."""
    tile_overlap_ratio: float = 0.25
    """How much of a tile its neighbour shares, in [0, 1)."""
    tile_predictions_nms_thresh: float = 0.25
    """As `nms_iou_thresh`, between tiles and whole image; by the IoU of masks where there are masks."""
    tile_border_margin: float | None = None
    """Ours. Rests of objects within these pixels of a tile's border are dropped; None keeps them, as Azure does."""
    exif_orientation: ExifOrientation = "apply"
    """Ours. Whether images are turned upright as their EXIF tag says; must equal what training did."""
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    """Ours. Per channel, of values in [0, 1]; the default is ImageNet's, of which the R-CNN family's weights are."""
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    """Ours. What is left of a channel after `mean` is divided by this."""

    @property
    @abstractmethod
    def max_detections(self) -> int:
        """Boxes of an answer at most, all classes together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RcnnSettings(DetectorSettings):
    """Faster R-CNN and RetinaNet."""

    box_score_thresh: float = 0.3
    box_detections_per_img: int = 100
    min_size: int = 600
    """The shorter side is scaled to this, pixels, …"""
    max_size: int = 1333
    """… unless the longer side would exceed this."""

    @property
    def max_detections(self) -> int:
        return self.box_detections_per_img


@dataclass(frozen=True, slots=True, kw_only=True)
class YoloSettings(DetectorSettings):
    """yolov5. Its score is objectness times class probability."""

    box_score_thresh: float = 0.1
    img_size: int = 640
    """Side of the square input, pixels; a multiple of 32."""
    model_size: ModelSize = "medium"
    """Which of the networks this is. A description: another value does not change the network. `nano` is ours."""
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)

    @property
    def max_detections(self) -> int:
        return _YOLO_MAX_DETECTIONS


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentationSettings(RcnnSettings):
    """Mask R-CNN."""

    mask_pixel_score_threshold: float = 0.5
    """Pixels with a greater probability belong to the mask."""
    max_number_of_polygon_points: int = 100
    """Of each part of a mask, at least 3."""
    export_as_image: bool = False
    """Batch jobs also write one image of instance numbers per input. Answers are polygons in any case."""
    image_type: ImageType = "JPG"
    """File type of those images."""
    mask_image_allow_lossy: bool = False
    """Ours. JPG destroys instance numbers, so that PNG is written instead unless this is set."""
    mask_rle: bool = False
    """Ours. Answers also carry each mask as COCO's compressed run-length encoding (`rle`), exact and with its holes."""
