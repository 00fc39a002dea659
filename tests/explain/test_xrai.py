"""XRAI compared with PAIR-code's `saliency`, on the colour images of scikit-image."""

from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
import pytest
import skimage.data
from PIL import Image
from saliency.core import xrai as reference
from skimage.segmentation import felzenszwalb

from clearsight.handlers.explain.algorithms.xrai import Regions, segment, xrai_map
from clearsight.handlers.explain.algorithms.xrai.ranking import MIN_NEW_PIXELS
from clearsight.handlers.explain.algorithms.xrai.regions import DISK_HALF_WIDTHS
from clearsight.handlers.explain.algorithms.xrai.segmentation import SCALES

IMAGES = ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg", "retina.jpg", "hubble_deep_field.jpg")


def network_input(name: str, side: int = 224) -> np.ndarray:
    """Shorter side 256, centre crop, ImageNet's normalisation: float32 (3, side, side)."""
    image = Image.open(Path(skimage.data.__file__).parent / name).convert("RGB")
    scale = 256 / min(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BILINEAR)
    left, top = round((image.width - side) / 2), round((image.height - side) / 2)
    crop = np.asarray(image.crop((left, top, left + side, top + side)), np.float32) / 255
    return normalised(crop)


@lru_cache(maxsize=8)
def regions_of(name: str, side: int) -> Regions:
    return Regions.of(segment(network_input(name, side)))


def normalised(crop: np.ndarray) -> np.ndarray:
    mean, std = np.array([0.485, 0.456, 0.406], np.float32), np.array([0.229, 0.224, 0.225], np.float32)
    return np.ascontiguousarray(((crop - mean) / std).transpose(2, 0, 1))


def base_map(side: int, seed: int = 0) -> np.ndarray:
    """Noise in patches, as attributions are."""
    random = np.random.default_rng(seed)
    patches = cv2.GaussianBlur(random.normal(size=(side, side)), (0, 0), 4)
    return 1e-2 * patches + 1e-3 * random.normal(size=(side, side))


def rows_of_one(*regions: set[int]) -> Regions:
    """Regions of an image of one row of eight pixels; not grown."""
    members = [sorted(region) for region in regions]
    starts = np.cumsum([0, *map(len, members[:-1])])
    return Regions(len(regions), 8, np.concatenate(members).astype(np.int32), starts)


def masks_of(regions: Regions, side: int) -> list[np.ndarray]:
    masks = []
    for region in range(len(regions.starts_R)):
        mask = np.zeros(side * side, bool)
        mask[regions.members_of(region)] = True
        masks.append(mask.reshape(side, side))
    return masks


class TestSegments:
    @pytest.mark.parametrize("level", [0.0, 1.0, 0.3])
    @pytest.mark.parametrize("side", [224, 96])
    def test_a_image_of_one_colour_is_one_segment_at_every_scale(self, level, side):
        maps = segment(np.full((3, side, side), level, np.float32))
        assert maps.shape == (6, side, side)
        assert not maps.any()

    @pytest.mark.parametrize("name", ["chelsea.png", "coffee.png"])
    def test_counts_are_those_of_scikit_image_on_the_rescaled_image(self, name):
        x = network_input(name)
        unit = (x - x.min()) / (x.max() - x.min()) * 2.0 - 1.0
        expected = [
            len(np.unique(felzenszwalb(unit.transpose(1, 2, 0), scale=scale, sigma=0.8, min_size=150)))
            for scale in (50, 100, 150, 250, 500, 1200)
        ]
        assert [len(np.unique(labels)) for labels in segment(x)] == expected
        if skimage.__version__.startswith("0.26."):  # other versions may segment otherwise
            golden = {"chelsea.png": [88, 88, 62, 41, 20, 10], "coffee.png": [64, 58, 56, 38, 27, 15]}
            assert expected == golden[name]

    def test_threads_change_nothing(self):
        x = network_input("coffee.png", 96)
        assert np.array_equal(segment(x, num_threads=1), segment(x, num_threads=3))

    def test_the_finest_scale_comes_first(self):
        assert list(SCALES) == sorted(SCALES)


class TestRegions:
    def test_one_pixel_grows_to_the_disk_of_radius_5(self):
        labels = np.zeros((1, 21, 21), np.int32)
        labels[0, 10, 10] = 1
        disk = masks_of(Regions.of(labels), 21)[1]
        assert [int(row.sum()) for row in disk[5:16]] == [1, 7, 9, 9, 9, 11, 9, 9, 9, 7, 1]
        assert disk.sum() == 81
        assert [2 * half_width + 1 for half_width in DISK_HALF_WIDTHS] == [1, 7, 9, 9, 9, 11, 9, 9, 9, 7, 1]

    @pytest.mark.parametrize("side", [3, 54, 64, 65, 70, 128])
    @pytest.mark.parametrize("corner", [(0, 0), (0, -1), (-1, 0), (-1, -1)])
    def test_a_disk_is_cut_off_at_the_border_and_at_no_border_of_words(self, side, corner):
        labels = np.zeros((1, side, side), np.int32)
        labels[0][corner] = 1
        rows, columns = np.mgrid[:side, :side]
        centre = (corner[0] % side, corner[1] % side)
        expected = (rows - centre[0]) ** 2 + (columns - centre[1]) ** 2 <= 25
        assert np.array_equal(masks_of(Regions.of(labels), side)[1], expected)

    def test_equal_segments_become_one_region(self):
        halves = np.zeros((8, 8), np.int32)
        halves[:, 4:] = 1
        regions = Regions.of(np.stack([halves, 1 - halves, halves]), grow=False)
        assert len(regions.starts_R) == 2
        assert regions.num_segments == 6

    @pytest.mark.parametrize("name", IMAGES)
    def test_masks_are_the_references(self, name):
        x = network_input(name)
        ours = masks_of(regions_of(name, 224), 224)
        assert_same_masks(ours, reference._get_segments_felzenszwalb(x.transpose(1, 2, 0)))

    @pytest.mark.parametrize("side", [160, 256])
    def test_masks_are_the_references_at_other_sizes(self, side):
        x = network_input("hubble_deep_field.jpg", side)
        ours = masks_of(regions_of("hubble_deep_field.jpg", side), side)
        assert_same_masks(ours, reference._get_segments_felzenszwalb(x.transpose(1, 2, 0)))


def assert_same_masks(ours: list[np.ndarray], theirs: list[np.ndarray]) -> None:
    """Same sets in the same order; the reference keeps repetitions and, after a resize, empty masks."""
    unique = {mask.tobytes(): mask for mask in theirs if mask.any()}
    assert list({mask.tobytes(): None for mask in ours}) == list(unique)


class TestRanking:
    BASE = np.array([[8.0, 8, 1, 1, 4, 4, 4, 0]])
    REGIONS = rows_of_one({0, 1}, {0, 1, 2, 3, 4}, {4, 5, 6})

    @pytest.mark.parametrize(
        ("fast", "min_new_pixels", "expected"),
        [
            (True, 1, [8, 8, 2, 2, 2, 4, 4, 0]),
            (False, 1, [8, 8, 1, 1, 4, 4, 4, 0]),
            (True, 3, [4.4] * 5 + [8 / 3] * 3),
            (False, 3, [4.4] * 5 + [8 / 3] * 3),
            (True, 6, [30 / 8] * 8),
            (False, 6, [30 / 8] * 8),
        ],
    )
    def test_by_hand(self, fast, min_new_pixels, expected):
        ours = xrai_map(self.BASE, self.REGIONS, fast, min_new_pixels)
        np.testing.assert_allclose(ours[0], expected, rtol=1e-6)
        assert ours.dtype == np.float32

    @pytest.mark.parametrize("fast", [True, False])
    def test_the_first_of_tied_regions_wins(self, fast):
        base = np.array([[2.0, 2, 2, 2, 0, 4, 0, 0]])
        ours = xrai_map(base, rows_of_one({0, 1, 4, 5}, {0, 1, 2, 3}, {4, 5, 6, 7}), fast, 1)
        # The means are 1.5, 2 and 1; then {4, 5} and {4, 5, 6, 7} are left.
        np.testing.assert_allclose(ours[0], [2, 2, 2, 2, 2, 2, 0, 0])

    @pytest.mark.parametrize("fast", [True, False])
    def test_one_region_gives_every_pixel_the_mean(self, fast):
        base = base_map(64)
        regions = Regions.of(segment(np.ones((3, 64, 64), np.float32)))
        np.testing.assert_allclose(xrai_map(base, regions, fast), np.full((64, 64), base.mean()), rtol=1e-5)

    def test_a_map_of_another_size_is_refused(self):
        with pytest.raises(ValueError, match="regions of 8 pixels"):
            xrai_map(np.zeros((3, 3)), self.REGIONS)

    @pytest.mark.parametrize("name", IMAGES)
    @pytest.mark.parametrize("fast", [True, False])
    def test_values_are_the_references(self, name, fast):
        base, regions = base_map(224), regions_of(name, 224)
        masks = masks_of(regions, 224)  # equal to the reference's, which is slow to make
        ranked = reference.XRAI._xrai_fast(base, masks) if fast else reference.XRAI._xrai(base, masks)
        assert np.abs(xrai_map(base, regions, fast) - ranked[0]).max() <= 1e-6 * np.abs(base).max()
        assert reference.XRAIParameters().experimental_params["min_pixel_diff"] == MIN_NEW_PIXELS
