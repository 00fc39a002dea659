"""Heat maps of detections: by hand, beside a slow plain version, and mapped back to the image."""

import cv2
import numpy as np
import pytest
import torch

from clearsight.handlers.explain.objects.heat import frame_size, heat_of, into_frame
from clearsight.handlers.explain.objects.network import Level
from clearsight.vision.letterbox import letterbox, shorter_side
from clearsight.vision.tiles import Tile


def gaussian() -> np.ndarray:
    weights = np.array([np.exp(-(x**2) / (2 * 1.1**2)) for x in range(-2, 3)])
    return np.outer(weights, weights) / weights.sum() ** 2


def slowly(features_Cuv: np.ndarray, gradients_Cuv: np.ndarray) -> np.ndarray:
    """ReLU of the sum over features, cell by cell."""
    _, rows, columns = features_Cuv.shape
    padded = np.pad(gradients_Cuv, ((0, 0), (2, 2), (2, 2)))
    cells_uv = np.zeros((rows, columns))
    for row in range(rows):
        for column in range(columns):
            weights_C = (padded[:, row : row + 5, column : column + 5] * gaussian()).sum(axis=(1, 2))
            cells_uv[row, column] = max(float(weights_C @ features_Cuv[:, row, column]), 0)
    return cells_uv


def level(stride: int, features_Cuv: np.ndarray) -> Level:
    return Level(stride, torch.from_numpy(features_Cuv.astype(np.float32))[None])


def gradient(gradients_Cuv: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(gradients_Cuv.astype(np.float32))[None]


def test_without_gradients_the_map_is_zero():
    ones = level(8, np.ones((2, 4, 4)))
    assert not heat_of([], [], 8, 16).any()
    assert not heat_of([ones, ones], [None, gradient(np.zeros((2, 4, 4)))], 32, 32).any()


def test_one_gradient_spreads_as_the_gaussian_where_features_speak_for_it():
    features = np.ones((1, 7, 7))
    features[0, 3, 4] = -1  # evidence against the object
    one = np.zeros((1, 7, 7))
    one[0, 3, 3] = 2.0
    expected = np.zeros((7, 7))
    expected[1:6, 1:6] = 2 * gaussian()
    expected[3, 4] = 0
    np.testing.assert_allclose(heat_of([level(1, features)], [gradient(one)], 7, 7), expected, rtol=1e-5)


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 2, 9), (5, 8, 6)])
@pytest.mark.parametrize("share", [0.05, 1.0])
def test_cells_are_those_of_the_slow_version(shape, share):
    random = np.random.default_rng(0)
    features, gradients = random.normal(size=(2, *shape))
    gradients *= random.random(shape) < share
    found = heat_of([level(1, features)], [gradient(gradients)], *shape[1:])
    np.testing.assert_allclose(found, slowly(features, gradients), rtol=1e-4, atol=1e-6)


def test_levels_are_enlarged_and_added_also_those_that_reach_beyond_the_input():
    random = np.random.default_rng(1)
    fine, coarse = random.random((2, 6, 6)), random.random((2, 2, 2))
    found = heat_of([level(8, fine), level(32, coarse)], [gradient(fine), gradient(coarse)], 48, 48)
    expected = cv2.resize(slowly(fine, fine), (48, 48), interpolation=cv2.INTER_LINEAR)
    expected += cv2.resize(slowly(coarse, coarse), (64, 64), interpolation=cv2.INTER_LINEAR)[:48, :48]
    np.testing.assert_allclose(found, expected, rtol=1e-4)


@pytest.mark.parametrize(
    ("placement", "expected"),
    [
        (letterbox(480, 640, 640), (480, 640)),
        (letterbox(240, 320, 640), (240, 320)),  # never enlarged
        (letterbox(1000, 2000, 1280), (320, 640)),
        (shorter_side(480, 640, 600, 1333), (480, 640)),
        (shorter_side(100, 1000, 600, 1333), (64, 640)),
        (shorter_side(30, 40, 60, 80), (60, 80)),
    ],
)
def test_maps_keep_the_images_shape_with_at_most_640_cells_a_side(placement, expected):
    assert frame_size(placement) == expected


def test_padding_is_cut_off():
    placement = letterbox(20, 40, 64)
    heat_HW = np.arange(64 * 64, dtype=np.float32).reshape(64, 64)
    found = into_frame(heat_HW, placement, Tile(0, 0, 40, 20), placement)
    np.testing.assert_array_equal(found, heat_HW[22:42, 12:52])


def test_a_tiles_map_lies_where_the_tile_does():
    whole, tile = letterbox(100, 200, 50), Tile(120, 40, 80, 60)
    placement = letterbox(60, 80, 50)
    found = into_frame(np.ones((50, 50), np.float32), placement, tile, whole)
    assert found.shape == (25, 50)  # a quarter of the image
    expected = np.zeros((25, 50))
    expected[10:25, 30:50] = 1
    np.testing.assert_allclose(found, expected, rtol=1e-6)
