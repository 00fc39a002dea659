"""`settings.json`: settings of preprocessing and of answers, as Azure's packages have them and users edit them.

classification, detection (the settings and the rule of each) -> document (the file).
"""

from clearsight.documents.settings.classification import ClassificationSettings, ExifOrientation, Interpolation
from clearsight.documents.settings.detection import (
    DetectorSettings,
    ImageType,
    InputSize,
    ModelSize,
    RcnnSettings,
    SegmentationSettings,
    YoloSettings,
)
from clearsight.documents.settings.document import ALIASES, SETTINGS_TYPES, Settings, parse_settings, to_document

__all__ = [
    "ALIASES",
    "SETTINGS_TYPES",
    "ClassificationSettings",
    "DetectorSettings",
    "ExifOrientation",
    "ImageType",
    "InputSize",
    "Interpolation",
    "ModelSize",
    "RcnnSettings",
    "SegmentationSettings",
    "Settings",
    "YoloSettings",
    "parse_settings",
    "to_document",
]
