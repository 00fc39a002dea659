"""How an image becomes the input of a detector, and how its candidates become an answer.

Names and defaults are Azure's (https://learn.microsoft.com/azure/machine-learning/reference-automl-images-hyperparameters
and, for tiling, `how-to-use-automl-small-object-detect`); what is ours is marked so.
"""

import re
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Final, Literal, Self, get_args

from clearsight.catalogue.models import YOLO_STRIDE
from clearsight.documents.settings.classification import Channels, Exif, PositiveChannels
from clearsight.errors import Fault
from clearsight.fields import Integer, Number, OneOf, Rule, Section, Truth, refused

__all__ = [
    "DetectorSettings",
    "ImageType",
    "InputSize",
    "ModelSize",
    "RcnnSettings",
    "SegmentationSettings",
    "YoloSettings",
]

ModelSize = Literal["nano", "small", "medium", "large", "xlarge"]
ImageType = Literal["JPG", "PNG", "BMP"]

_YOLO_MAX_DETECTIONS: Final = 300
"""Greatest number of boxes that yolov5 gives for an image, as in Azure's ONNX sample client."""

_MAX_SIDE: Final = 10_000  # detectors take one image at a time: the side of the largest square that is decoded
_MAX_COUNT: Final = 100_000
_MAX_TILES: Final = 64  # each costs as much as the whole image

_SIDE: Final = r"\s*([1-9]\d{0,5})\s*"
_GRIDS: Final = re.compile(rf"{_SIDE}[xX]{_SIDE}"), re.compile(rf"\s*\({_SIDE},{_SIDE}\)\s*")


@dataclass(frozen=True, slots=True)
class _TileGrid(Rule):
    """`'3x2'` is three tiles across, two down; so are the older `'(3, 2)'` and `[3, 2]`. Nothing, or 1x1: no tiles."""

    def read(self, value: Any) -> tuple[int, int] | None:
        if value is None or value == "":
            return None
        text = "x".join(map(str, value)) if isinstance(value, (list, tuple)) else value
        match = next((found for form in _GRIDS if isinstance(text, str) and (found := form.fullmatch(text))), None)
        if match is None:
            raise refused("BAD_TYPE", "must be tiles across x tiles down as text, like '3x2', or null for none")
        across, down = int(match[1]), int(match[2])
        if across * down > _MAX_TILES:
            raise refused("OUT_OF_RANGE", f"must have at most {_MAX_TILES} tiles")
        return (across, down) if across * down > 1 else None

    def json_schema(self) -> dict[str, Any]:
        text = {"type": "string", "pattern": f"^({'|'.join(form.pattern for form in _GRIDS)})?$"}
        return {"anyOf": [text, {"type": "array", "items": {"type": "integer"}}, {"type": "null"}]}


def _whole(low: int, high: int, unit: str = "") -> Integer:
    return Integer(low, high, f"must be a whole number{unit} in [{low}, {high}]", strict=True)


_Fraction = Annotated[float, Number(0, 1, strict=True)]
_Side = Annotated[int, _whole(1, _MAX_SIDE, " of pixels")]
_Switch = Annotated[bool, Truth("must be true or false", strict=True)]
_Overlap = Number(0, 1, high_open=True, must="must be a number in [0, 1), below 1", strict=True)
_Margin = Number(0, must="must be a number of pixels, at least 0, or null", strict=True)
_LARGEST: Final = {"extra_large": "xlarge", "ExtraLarge": "xlarge"}


@dataclass(frozen=True, slots=True)
class InputSize:
    """How large an image is in the network's input, pixels."""

    shorter: int
    """The shorter side is scaled to this …"""
    longer: int
    """… unless the longer side would exceed this."""
    is_square: bool
    """Whether the image lies in the middle of a square canvas of the longer side; else there is nothing around it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectorSettings(Section, ABC):
    """What all detectors share. Fractions are in [0, 1]."""

    null_is_absent: ClassVar[bool] = False

    box_score_thresh: _Fraction
    """Only boxes with a greater score are returned."""
    nms_iou_thresh: _Fraction = 0.5
    """Of two boxes of one class with a greater IoU, the one with the lower score is removed."""
    tile_grid_size: Annotated[tuple[int, int] | None, _TileGrid()] = None
    """Tiles along the width and along the height; None scores images whole only."""
    tile_overlap_ratio: Annotated[float, _Overlap] = 0.25
    """Share of a tile that its neighbour covers too, in [0, 1)."""
    tile_predictions_nms_thresh: _Fraction = 0.25
    """Like `nms_iou_thresh`, between the boxes of tiles and of the whole image; with masks, the IoU of the masks."""
    tile_border_margin: Annotated[float, _Margin] | None = 2.0
    """Ours. Boxes that end within this many pixels of a tile's border are dropped where another view shows more of the
    object; None keeps them, as Azure does."""
    exif_orientation: Exif = "apply"
    """Ours. Whether images are turned upright as their EXIF tag says; must equal what training did."""
    mean: Channels = (0.485, 0.456, 0.406)
    """Ours. Mean of each colour channel, of values in [0, 1]; the default is ImageNet's, as the R-CNN weights need."""
    std: PositiveChannels = (0.229, 0.224, 0.225)
    """Ours. Standard deviation of each colour channel, of values in [0, 1]."""

    @property
    @abstractmethod
    def max_detections(self) -> int:
        """Greatest number of boxes in an answer, all classes together."""

    @property
    @abstractmethod
    def input_size(self) -> InputSize:
        """How an image is placed in the network's input."""

    classification: ClassVar[None] = None
    crop_size: ClassVar[None] = None

    @property
    def detection(self) -> Self:
        """These settings, as those of a detector; None of a classifier's."""
        return self

    @property
    def masks(self) -> "SegmentationSettings | None":
        """These settings, where the model finds masks; else None."""
        return None

    def faults(self) -> list[Fault]:
        """What is wrong with values that are each right by themselves."""
        return []

    def rounded(self) -> tuple[Self, list[str]]:
        """These settings with values that the network can run with, and one sentence for each that was changed."""
        return self, []


@dataclass(frozen=True, slots=True, kw_only=True)
class RcnnSettings(DetectorSettings):
    """Faster R-CNN and RetinaNet."""

    box_score_thresh: _Fraction = 0.3
    box_detections_per_img: Annotated[int, _whole(1, _MAX_COUNT)] = 100
    min_size: _Side = 600
    """The shorter side is scaled to this length, pixels, unless the longer side would exceed `max_size`."""
    max_size: _Side = 1333
    """Greatest length of the longer side after scaling, pixels."""

    @property
    def max_detections(self) -> int:
        return self.box_detections_per_img

    @property
    def input_size(self) -> InputSize:
        return InputSize(self.min_size, self.max_size, is_square=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class YoloSettings(DetectorSettings):
    """yolov5. Its score is objectness times class probability."""

    box_score_thresh: _Fraction = 0.1
    img_size: _Side = 640
    """Side of the square input, pixels; a multiple of 32."""
    model_size: Annotated[ModelSize, OneOf(get_args(ModelSize), _LARGEST, strict=True)] = "medium"
    """Which of the networks this is. A description: another value does not change the network. `nano` is ours."""
    mean: Channels = (0.0, 0.0, 0.0)
    std: PositiveChannels = (1.0, 1.0, 1.0)

    @property
    def max_detections(self) -> int:
        return _YOLO_MAX_DETECTIONS

    @property
    def input_size(self) -> InputSize:
        return InputSize(self.img_size, self.img_size, is_square=True)

    def rounded(self) -> tuple[Self, list[str]]:
        side = -(-self.img_size // YOLO_STRIDE) * YOLO_STRIDE
        if side == self.img_size:
            return self, []
        warning = f"img_size {self.img_size} is rounded up to {side}, a multiple of {YOLO_STRIDE}"
        return replace(self, img_size=side), [f"settings.json: {warning}"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentationSettings(RcnnSettings):
    """Mask R-CNN."""

    mask_pixel_score_threshold: _Fraction = 0.5
    """Pixels with a greater probability belong to the mask."""
    max_number_of_polygon_points: Annotated[int, _whole(3, _MAX_COUNT)] = 100
    """Most points of the polygon around each region of a mask, at least 3."""
    export_as_image: _Switch = False
    """Batch jobs also write one image of instance numbers per input. Answers are polygons in any case."""
    image_type: Annotated[ImageType, OneOf(get_args(ImageType))] = "JPG"
    """File type of those images."""
    mask_image_allow_lossy: _Switch = False
    """Ours. JPG destroys instance numbers, so that PNG is written instead unless this is set."""
    mask_rle: _Switch = False
    """Ours. Answers also carry each mask as COCO's compressed run-length encoding (`rle`), exact and with its holes."""

    @property
    def masks(self) -> "SegmentationSettings":
        return self
