import io
import subprocess
import sys

import colorcet
import numpy as np
import pytest
from PIL import Image

from clearsight.handlers.drawing.explanation_image import bgyw, explanation_image, heat_map


def pixels(png: bytes) -> np.ndarray:
    image = Image.open(io.BytesIO(png))
    assert (image.format, image.mode) == ("PNG", "RGB")
    return np.asarray(image)


def drawn_crop(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(1).integers(1, 256, (height, width, 3), dtype=np.uint8)


class TestColourScale:
    def test_every_entry_is_within_two_levels_of_colorcets(self):
        theirs = np.rint(np.array(colorcet.linear_bgyw_15_100_c68) * 255)
        assert bgyw().shape == (256, 3)
        assert np.abs(bgyw() - theirs).max() <= 2

    def test_it_ends_with_blue_and_white(self):
        assert bgyw()[0].tolist() == [26, 0, 133]
        assert bgyw()[255].tolist() == [254, 255, 255]

    def test_nobody_can_change_it(self):
        with pytest.raises(ValueError, match="read-only"):
            bgyw()[0] = 0


class TestHeatMap:
    def test_channels_are_added_up_by_their_absolute_values(self):
        attribution = np.array([[[1.0, -2.0]], [[-3.0, 0.0]], [[0.5, 0.5]]], np.float32)
        assert heat_map(attribution).tolist() == [[4.5, 2.5]]

    def test_a_map_stays_signed(self):
        assert heat_map(np.array([[-1.0, 2.0]])).tolist() == [[-1.0, 2.0]]


class TestImage:
    def test_a_ramp_shows_its_strongest_30_percent(self):
        side = 64
        crop, ramp = drawn_crop(side, side), np.arange(side * side, dtype=np.float64).reshape(side, side)
        grid = pixels(explanation_image(ramp, crop))
        assert grid.shape == (2 * side, 2 * side, 3)
        assert np.array_equal(grid[:side, :side], crop)
        strongest = grid[side:, side:]
        shown = strongest.any(axis=2)
        assert abs(shown.mean() - 0.3) <= 0.001
        assert shown[ramp >= 0.7 * side * side].all()
        assert np.array_equal(strongest[shown], crop[shown])

    def test_heat_runs_from_the_lowest_value_to_the_99th_percentile(self):
        ramp = np.arange(101.0).reshape(1, 101)
        heat = pixels(explanation_image(ramp, drawn_crop(1, 101), "heatmap"))[0]
        # v = h / 99, entry = floor(255 v + 1/2): 33 -> 85, 50 -> 129
        assert np.array_equal(heat[[0, 33, 50, 99, 100]], bgyw()[[0, 85, 129, 255, 255]])

    def test_heat_lies_over_the_grey_crop(self):
        crop = np.array([[[10, 20, 31], [255, 255, 255]]], np.uint8)
        overlay = pixels(explanation_image(np.zeros((1, 2)), crop, "overlay"))
        # grey 61/3 and 255 over the coldest colour, (26, 0, 133), rounded at the half
        assert overlay.tolist() == [[[23, 10, 77], [141, 128, 194]]]

    @pytest.mark.parametrize("level", [0.0, -3.5, 1e30])
    @pytest.mark.parametrize("channels", [True, False])
    def test_a_constant_map_is_cold_and_hides_nothing(self, level, channels):
        crop, shape = drawn_crop(8, 8), (3, 8, 8) if channels else (8, 8)
        grid = pixels(explanation_image(np.full(shape, level, np.float32), crop))
        assert (grid[:8, 8:] == (26, 0, 133)).all()
        assert np.array_equal(grid[8:, 8:], crop)

    def test_a_plateau_at_the_threshold_is_shown_whole(self):
        heat = np.zeros((10, 10))
        heat[:5] = 1.0  # half of the image ties above the 70th percentile
        heat[0, 0] = 2.0
        strongest = pixels(explanation_image(heat, drawn_crop(10, 10)))[10:, 10:]
        assert strongest[:5].any(axis=2).all()
        assert not strongest[5:].any()

    def test_a_single_hot_pixel_does_not_decide_about_the_others(self):
        heat = np.zeros((20, 20))
        heat[3, 3] = 1e6
        heat[10:, :] = 1.0
        colours = pixels(explanation_image(heat, drawn_crop(20, 20), "heatmap"))
        assert (colours[10:] == (254, 255, 255)).all()

    def test_detector_maps_need_not_be_square(self):
        assert pixels(explanation_image(np.zeros((6, 9)), drawn_crop(6, 9))).shape == (12, 18, 3)

    def test_a_crop_of_another_size_is_refused(self):
        with pytest.raises(ValueError, match="needs a uint8 crop"):
            explanation_image(np.zeros((3, 8, 8)), drawn_crop(9, 8))

    def test_the_same_map_gives_the_same_bytes(self):
        heat = np.random.default_rng(0).normal(size=(16, 16))
        assert explanation_image(heat, drawn_crop(16, 16)) == explanation_image(heat, drawn_crop(16, 16))


@pytest.mark.slow
def test_no_plotting_library_is_loaded():
    names = ("drawing.explanation_image", "explain.answering.scoring")
    imports = "; ".join(f"import clearsight.handlers.{name}" for name in names)
    code = f"import sys; {imports}; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=120).returncode == 0
