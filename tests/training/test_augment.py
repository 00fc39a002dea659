import cv2
import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import functional as tv

from clearsight.training.classification.augmentation import Augmentation, ColorDraw, augment, color_matrix, draw_crop


@pytest.fixture
def rgb() -> np.ndarray:
    """Middle tones only, so that no step of a colour change is clipped: uint8 (40, 56, 3)."""
    random = np.random.default_rng(2)
    return cv2.GaussianBlur(random.integers(90, 166, (40, 56, 3)).astype(np.uint8), (5, 5), 0)


def recolor(image_HWC: np.ndarray, draw: ColorDraw) -> np.ndarray:
    return cv2.transform(image_HWC, color_matrix(draw, np.asarray(cv2.mean(image_HWC)[:3])))


def test_a_draw_that_changes_nothing_changes_nothing(rgb: np.ndarray) -> None:
    assert np.array_equal(recolor(rgb, ColorDraw()), rgb)


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (2, 0, 1, 3), (1, 3, 2, 0)])
def test_one_matrix_is_torchvisions_chain_of_steps(rgb: np.ndarray, order: tuple[int, ...]) -> None:
    draw = ColorDraw(brightness=1.1, contrast=0.8, saturation=1.3, order=order)
    steps = [
        lambda image: tv.adjust_brightness(image, draw.brightness),
        lambda image: tv.adjust_contrast(image, draw.contrast),
        lambda image: tv.adjust_saturation(image, draw.saturation),
        lambda image: image,
    ]
    image_CHW = torch.from_numpy(rgb).permute(2, 0, 1).float() / 255
    for step in order:
        image_CHW = steps[step](image_CHW)
    expected = (image_CHW * 255).permute(1, 2, 0).numpy()
    assert np.abs(recolor(rgb, draw) - expected).max() <= 1.0


def test_turning_the_hue_keeps_grey_grey_and_brightness_as_it_is(rgb: np.ndarray) -> None:
    grey = np.repeat(rgb[..., :1], 3, axis=2)
    assert np.abs(recolor(grey, ColorDraw(hue=0.1)).astype(int) - grey).max() <= 1
    luma = np.array([0.299, 0.587, 0.114])
    before, after = rgb @ luma, recolor(rgb, ColorDraw(hue=0.1)) @ luma
    assert np.abs(before - after).max() < 1.5


def test_a_hue_turned_forth_and_back_is_the_same(rgb: np.ndarray) -> None:
    mean = np.zeros(3)
    there, back = color_matrix(ColorDraw(hue=0.1), mean), color_matrix(ColorDraw(hue=-0.1), mean)
    assert back[:, :3] @ there[:, :3] == pytest.approx(np.eye(3), abs=1e-9)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 500), (300, 2), (40, 56)])
def test_crops_lie_inside_images_of_any_shape(height: int, width: int) -> None:
    random = np.random.default_rng(3)
    for _ in range(100):
        crop = draw_crop(height, width, Augmentation(), random)
        assert crop.height >= 1
        assert crop.width >= 1
        assert 0 <= crop.top <= height - crop.height
        assert 0 <= crop.left <= width - crop.width


def test_crops_cover_the_asked_share_of_the_area_in_the_asked_shape() -> None:
    random = np.random.default_rng(4)
    options = Augmentation(scale=(0.2, 0.5))
    crops = [draw_crop(400, 400, options, random) for _ in range(300)]
    shares = np.array([crop.height * crop.width / 160_000 for crop in crops])
    ratios = np.array([crop.width / crop.height for crop in crops])
    assert 0.19 < shares.min() < 0.22
    assert 0.48 < shares.max() < 0.51
    assert 0.74 < ratios.min() < 0.78
    assert 1.28 < ratios.max() < 1.35


def test_the_same_random_numbers_give_the_same_view(rgb: np.ndarray) -> None:
    views = [augment(rgb, Augmentation(32), np.random.default_rng(9)) for _ in range(2)]
    assert views[0].shape == (32, 32, 3)
    assert np.array_equal(*views)
    assert not np.array_equal(views[0], augment(rgb, Augmentation(32), np.random.default_rng(10)))


def test_augmenting_leaves_the_image_as_it_is(rgb: np.ndarray) -> None:
    before = rgb.copy()
    augment(rgb, Augmentation(32), np.random.default_rng(1))
    assert np.array_equal(rgb, before)
