import io
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from PIL import Image

from clearsight.documents.settings import ClassificationSettings
from clearsight.images.decode import decode_image
from clearsight.vision.preprocess import crop_box, normalise, preprocess, resize_and_crop

SIZES = [
    ((1, 1), (256, 224)),
    ((480, 640), (256, 224)),
    ((1080, 1920), (256, 224)),
    ((640, 480), (232, 224)),
    ((256, 300), (256, 224)),  # the shorter side is already right
    ((300, 256), (256, 256)),
    ((224, 224), (256, 32)),
    ((31, 33), (224, 224)),  # enlarged
    ((3000, 7), (256, 224)),
    ((5, 2000), (64, 63)),
    ((233, 77), (77, 31)),
]


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def recipe(image: Image.Image, settings: ClassificationSettings, normalise: bool) -> np.ndarray:
    """The reference: Pillow + torchvision, as torchvision documents it for its weights."""
    from torchvision import transforms

    mode = transforms.InterpolationMode(settings.interpolation)
    steps = [transforms.Resize(settings.valid_resize_size, mode), transforms.CenterCrop(settings.valid_crop_size)]
    if normalise:
        steps += [transforms.ToTensor(), transforms.Normalize(settings.mean, settings.std)]
    return np.asarray(transforms.Compose(steps)(image))


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize(("size", "numbers"), SIZES)
def test_noise_differs_from_the_torchvision_recipe_by_one_grey_level_at_most(size, numbers, interpolation):
    settings = ClassificationSettings(*numbers, interpolation=interpolation)
    image_HWC = noise(*size)
    expected = recipe(Image.fromarray(image_HWC), settings, normalise=False).astype(int)
    found = resize_and_crop(image_HWC, settings)
    assert found.dtype == np.uint8
    assert found.flags.c_contiguous
    difference = np.abs(expected - found)
    assert difference.max() <= 1
    assert difference.mean() <= 0.5


def test_normalisation_is_bit_equal_to_totensor_and_normalize():
    from torchvision import transforms

    settings = ClassificationSettings(mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.11))
    image_HWC = noise(300, 400)
    cut = Image.fromarray(resize_and_crop(image_HWC, settings))
    steps = transforms.Compose([transforms.ToTensor(), transforms.Normalize(settings.mean, settings.std)])
    expected = steps(cut).numpy()
    found = preprocess(image_HWC, settings)
    assert found.dtype == np.float32
    assert found.shape == (3, 224, 224)
    assert np.array_equal(found, expected)


def test_an_image_that_needs_no_resize_is_normalised_as_torchvision_does_it():
    from torchvision import transforms

    image_HWC = noise(31, 47)[:, 5:40]  # a tile: a view that is not contiguous
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.3, 0.11)
    steps = transforms.Compose([transforms.ToTensor(), transforms.Normalize(mean, std)])
    found = normalise(image_HWC, mean, std)
    assert found.dtype == np.float32
    assert found.flags.c_contiguous
    assert np.array_equal(found, steps(np.ascontiguousarray(image_HWC)).numpy())
    assert normalise(image_HWC[:1, :1], mean, std).shape == (3, 1, 1)


@pytest.mark.parametrize("shape", [(0, 4, 3), (4, 4), (4, 4, 4)])
def test_what_is_not_an_image_is_not_normalised(shape):
    with pytest.raises(ValueError, match="uint8"):
        normalise(np.zeros(shape, np.uint8), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


@pytest.mark.parametrize("folder", ["fridge_multiclass", "fork_scissors", "bccd", "aerial_trees", "drone"])
def test_shared_photographs_stay_within_the_promised_tolerance(shared_data: Path, folder: str):
    settings = ClassificationSettings()
    files = sorted(
        file for file in (shared_data / folder).rglob("*") if file.suffix.lower() in {".jpg", ".jpeg", ".png"}
    )
    assert files
    for file in files[:12]:
        with Image.open(file) as image:
            expected = recipe(image.convert("RGB"), settings, normalise=False).astype(int)
        difference = np.abs(
            expected - resize_and_crop(decode_image(file.read_bytes(), exif_orientation="ignore"), settings)
        )
        assert difference.mean() <= 0.5, file
        assert difference.max() <= 4, file


def test_an_image_scores_the_same_from_a_view_as_from_a_copy():
    whole_HWC = noise(300, 500)
    view = whole_HWC[::-1, 50:450]
    settings = ClassificationSettings()
    assert np.array_equal(preprocess(view, settings), preprocess(view.copy(), settings))


def test_the_argument_is_not_changed():
    image_HWC = noise(256, 256)
    before = image_HWC.copy()
    settings = ClassificationSettings()
    preprocess(image_HWC, settings)[:] = 7
    resize_and_crop(image_HWC, settings)[:] = 7
    assert np.array_equal(image_HWC, before)


@pytest.mark.parametrize("array", [np.zeros((0, 5, 3), np.uint8), np.zeros((5, 5, 4), np.uint8), np.zeros((5, 5, 3))])
def test_other_arrays_are_refused(array):
    with pytest.raises(ValueError, match=r"uint8 \(H, W, 3\)"):
        preprocess(array, ClassificationSettings())


sides = st.integers(1, 20_000)
numbers = st.integers(1, 600).flatmap(lambda resize: st.tuples(st.just(resize), st.integers(1, resize)))


@hypothesis_settings(deadline=None, max_examples=60)
@given(sides, sides, numbers)
@example(1, 100_000_000, (256, 224))
@example(5, 5, (1, 1))
def test_the_crop_lies_inside_the_resized_image_and_in_its_middle(height, width, numbers):
    settings = ClassificationSettings(*numbers)
    crop = crop_box(height, width, settings)
    assert min(crop.resized_height, crop.resized_width) == settings.valid_resize_size
    assert 0 <= crop.top <= crop.resized_height - crop.size
    assert 0 <= crop.left <= crop.resized_width - crop.size
    assert abs(crop.top + crop.size / 2 - crop.resized_height / 2) <= 0.5
    assert abs(crop.left + crop.size / 2 - crop.resized_width / 2) <= 0.5
    longer, shorter = max(height, width), min(height, width)
    exact = settings.valid_resize_size * longer / shorter
    assert max(crop.resized_height, crop.resized_width) == math.floor(exact)


@pytest.mark.parametrize(("size", "crop", "offset"), [(5, 2, 2), (7, 2, 2), (9, 2, 4), (6, 2, 2)])
def test_half_pixels_are_rounded_to_even_as_torchvision_does(size, crop, offset):
    found = crop_box(size, size, ClassificationSettings(size, crop))
    assert (found.top, found.left) == (offset, offset)


@hypothesis_settings(deadline=None, max_examples=60)
@given(st.integers(1, 90), st.integers(1, 90), st.tuples(st.integers(8, 40), st.integers(1, 8)))
def test_an_image_of_one_colour_keeps_it_everywhere(height, width, numbers):
    image_HWC = np.full((height, width, 3), (3, 128, 255), np.uint8)
    found = resize_and_crop(image_HWC, ClassificationSettings(*numbers))
    assert (found == (3, 128, 255)).all()


def test_an_extreme_strip_needs_no_extreme_memory():
    # The resized image would have 256 x 6.4 million pixels; only its middle is made.
    strip = np.full((4, 100_000, 3), 9, np.uint8)
    assert (resize_and_crop(strip, ClassificationSettings()) == 9).all()


def test_jpeg_to_input_equals_the_recipe_on_a_jpeg_file():
    stream = io.BytesIO()
    rows, columns = np.mgrid[0:600, 0:800]
    image_HWC = np.stack([rows % 256, columns % 256, (rows * columns) % 256], axis=-1).astype(np.uint8)
    Image.fromarray(image_HWC).save(stream, "JPEG", quality=90)
    settings = ClassificationSettings()
    with Image.open(stream) as image:
        expected = recipe(image, settings, normalise=True)
    found = preprocess(decode_image(stream.getvalue()), settings)
    assert np.abs(found - expected).max() <= 1.01 / 255 / min(settings.std)
