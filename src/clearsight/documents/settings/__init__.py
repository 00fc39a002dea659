"""`settings.json`: the numbers before and after the network, as Azure's packages carry them and users edit them.

classification, detection (the settings and the rule of each) -> document (the file).
"""

from clearsight.documents.settings.classification import ClassificationSettings, ExifOrientation, Interpolation
from clearsight.documents.settings.detection import (
    DetectorSettings,
    ImageType,
    ModelSize,
    RcnnSettings,
    SegmentationSettings,
    YoloSettings,
)
from clearsight.documents.settings.document import ALIASES, Settings, parse_settings, to_document

__all__ = [
    "ALIASES",
    "ClassificationSettings",
    "DetectorSettings",
    "ExifOrientation",
    "ImageType",
    "Interpolation",
    "ModelSize",
    "RcnnSettings",
    "SegmentationSettings",
    "Settings",
    "YoloSettings",
    "parse_settings",
    "to_document",
]
