"""Tiles of training scenes, for objects that are small in their images."""

from dataclasses import dataclass

from clearsight.training.detection.data.scene import Objects, Scene
from clearsight.vision.tiles import Tile, boxes_in_tile, tile_grid

__all__ = ["TileGrid", "cut_tile", "objects_in", "tiles_with_objects"]


@dataclass(frozen=True, slots=True)
class TileGrid:
    """Azure's `tile_grid_size` and `tile_overlap_ratio`."""

    columns: int
    rows: int
    overlap_ratio: float = 0.25
    """Overlap of neighbouring tiles, as a share of a tile's side, in [0, 1)."""

    def tiles(self, height: int, width: int) -> tuple[Tile, ...]:
        return tile_grid(height, width, self.columns, self.rows, self.overlap_ratio)

    @property
    def zoom(self) -> float:
        """Side of the image over the side of a tile, on the axis where this ratio is larger."""
        count = max(self.columns, self.rows)
        return count - (count - 1) * self.overlap_ratio


def tiles_with_objects(objects: Objects, height: int, width: int, grid: TileGrid) -> tuple[Tile, ...]:
    """The tiles of an image of this size that show at least half of an object that is no crowd."""
    return tuple(tile for tile in grid.tiles(height, width) if objects_in(objects, tile).num_wanted)


def cut_tile(scene: Scene, tile: Tile) -> Scene:
    """The scene of a tile, with the objects of which at least half the box is inside, cut to it."""
    return Scene(tile.cut(scene.image_HWC), objects_in(scene.objects, tile))


def objects_in(objects: Objects, tile: Tile) -> Objects:
    """The objects of an image of which at least half the box is in a tile, in pixels of the tile."""
    belonging, _ = boxes_in_tile(objects.boxes_xyxy_N4, tile)
    return objects.take(belonging).moved(-tile.left, -tile.top).cut(tile.height, tile.width)
