"""An image and the objects in it, which are transformed together.

Pixel k reaches from k to k + 1, so a box around the pixels a to b runs from a to b + 1. No function here changes its
arguments, and a scene's image may be a view of another one: it is read only.

Shapes in names: N objects, 4 sides of a box (left, top, right, bottom in pixels), H height, W width, C colour channel.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from clearsight.training.data.records import Record
from clearsight.vision.boxes import box_areas, clip_boxes, to_pixel_boxes
from clearsight.vision.clipping import Points, bounds, cut_polygon
from clearsight.vision.masks import CroppedMask
from clearsight.vision.polygons import polygons_to_mask

__all__ = ["Objects", "Scene", "make_scene", "read_objects"]

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]
Booleans = npt.NDArray[np.bool_]

_SMALLEST_SIDE_PX: Final = 1 - 1e-6  # a side of one pixel, computed from fractions of an image, may lack the last digit
_SMALLEST_SHARE: Final = 0.1


@dataclass(frozen=True, slots=True)
class Objects:
    """The objects of an image."""

    boxes_xyxy_N4: Floats
    class_ids_N: Indices
    is_crowd_N: Booleans
    polygons_N: tuple[tuple[Points, ...], ...]
    """Outlines (K, 2) of each object in pixels, filled as a union; none for an object that is labelled by a box."""

    def __len__(self) -> int:
        return len(self.boxes_xyxy_N4)

    @property
    def num_wanted(self) -> int:
        """Number of objects that are no crowd: those that training uses as targets."""
        return int(np.count_nonzero(~self.is_crowd_N))

    def take(self, kept: Indices) -> "Objects":
        """The objects with these indices, in their order."""
        polygons = tuple(self.polygons_N[index] for index in kept)
        return Objects(self.boxes_xyxy_N4[kept], self.class_ids_N[kept], self.is_crowd_N[kept], polygons)

    def moved(self, left: float, top: float, scale_x: float = 1.0, scale_y: float = 1.0) -> "Objects":
        """The objects scaled about the upper left corner of the image, then moved right and down by pixels."""
        scale, offset = np.array([scale_x, scale_y]), np.array([left, top], np.float64)
        boxes_N4 = self.boxes_xyxy_N4 * np.tile(scale, 2) + np.tile(offset, 2)
        polygons = tuple(tuple(polygon_K2 * scale + offset for polygon_K2 in polygons) for polygons in self.polygons_N)
        return Objects(boxes_N4, self.class_ids_N, self.is_crowd_N, polygons)

    def mirrored(self, width: int) -> "Objects":
        """The objects in a mirrored image of this width: left and right are exchanged."""
        left, top, right, bottom = self.boxes_xyxy_N4.T
        boxes_N4 = np.stack([width - right, top, width - left, bottom], axis=1)
        polygons = tuple(
            tuple(polygon_K2 * (-1, 1) + (width, 0) for polygon_K2 in polygons) for polygons in self.polygons_N
        )
        return Objects(boxes_N4, self.class_ids_N, self.is_crowd_N, polygons)

    def cut(self, height: int, width: int) -> "Objects":
        """The objects cut to an image of this size; the box of an object with polygons is the box around what is left.

        Objects below one pixel in width or height, or with less than a tenth of their box's area left, are dropped.
        """
        boxes_N4 = clip_boxes(self.boxes_xyxy_N4, height, width).astype(np.float64)
        polygons_N = list(self.polygons_N)
        for index in np.flatnonzero((boxes_N4 != self.boxes_xyxy_N4).any(axis=1)):
            if polygons_N[index]:
                parts = (cut_polygon(polygon_K2, height, width) for polygon_K2 in polygons_N[index])
                polygons_N[index] = tuple(part_K2 for part_K2 in parts if len(part_K2))
                boxes_N4[index] = bounds(polygons_N[index])
        sides_N2 = boxes_N4[:, 2:] - boxes_N4[:, :2]
        stays_N = (sides_N2 >= _SMALLEST_SIDE_PX).all(axis=1)
        stays_N &= box_areas(boxes_N4) >= _SMALLEST_SHARE * box_areas(self.boxes_xyxy_N4)
        return Objects(boxes_N4, self.class_ids_N, self.is_crowd_N, tuple(polygons_N)).take(np.flatnonzero(stays_N))

    def masks(self, height: int, width: int) -> list[CroppedMask]:
        """The pixels of each object in an image of this size; none for an object without polygons."""
        return [
            polygons_to_mask(
                [(polygon_K2 / (width, height)).ravel().tolist() for polygon_K2 in polygons], height, width
            )
            for polygons in self.polygons_N
        ]

    @staticmethod
    def joined(parts: Sequence["Objects"]) -> "Objects":
        """The objects of several images on one canvas, one after the other. `parts` holds at least one."""
        return Objects(
            np.concatenate([part.boxes_xyxy_N4 for part in parts]),
            np.concatenate([part.class_ids_N for part in parts]),
            np.concatenate([part.is_crowd_N for part in parts]),
            tuple(polygons for part in parts for polygons in part.polygons_N),
        )


@dataclass(frozen=True, slots=True)
class Scene:
    """An image uint8 (H, W, 3), RGB, and its objects."""

    image_HWC: Bytes
    objects: Objects

    @property
    def height(self) -> int:
        return int(self.image_HWC.shape[0])

    @property
    def width(self) -> int:
        return int(self.image_HWC.shape[1])


def read_objects(record: Record, class_ids: Mapping[str, int], height: int, width: int) -> Objects:
    """The objects of a record, in an image of this size: crowds too, instances with their polygons."""
    labelled = record.instances or record.boxes
    boxes_unit_N4 = np.array([one.xyxy_unit for one in labelled], np.float64).reshape(-1, 4)
    size_wh = np.array([width, height], np.float64)
    polygons = [
        tuple(np.reshape(polygon, (-1, 2)) * size_wh for polygon in one.polygons_unit) for one in record.instances
    ]
    objects = Objects(
        to_pixel_boxes(boxes_unit_N4, height, width).astype(np.float64),
        np.array([class_ids[one.label] for one in labelled], np.int64),
        np.array([one.is_crowd for one in labelled], np.bool_),
        tuple(polygons) if polygons else ((),) * len(labelled),
    )
    return objects.cut(height, width)


def make_scene(image_HWC: Bytes, record: Record, class_ids: Mapping[str, int]) -> Scene:
    """A record with its image, which may be reduced: the record's coordinates are fractions."""
    height, width, _ = image_HWC.shape
    return Scene(image_HWC, read_objects(record, class_ids, height, width))
