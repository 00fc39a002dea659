"""Labelled images in other layouts, turned into the data folders of a job. One layout per module."""

from clearsight.training.data.converters.data_folders import (
    CHANGES,
    DEFAULT_VALIDATION_FRACTION,
    copy_images,
    split_as_given,
    split_by_fraction,
    split_by_lists,
    split_every,
    warnings_of_split,
    write_changes,
    write_folders,
)
from clearsight.training.data.converters.entries import Conversion, ConversionRequest, Entry, OnFault
from clearsight.training.data.converters.layouts import LAYOUTS, LabelLayout
from clearsight.training.data.converters.sources import read_source

__all__ = [
    "CHANGES",
    "DEFAULT_VALIDATION_FRACTION",
    "LAYOUTS",
    "Conversion",
    "ConversionRequest",
    "Entry",
    "LabelLayout",
    "OnFault",
    "copy_images",
    "read_source",
    "split_as_given",
    "split_by_fraction",
    "split_by_lists",
    "split_every",
    "warnings_of_split",
    "write_changes",
    "write_folders",
]
