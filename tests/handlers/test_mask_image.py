import io

import numpy as np
import pytest
from PIL import Image

from clearsight.documents.settings import SegmentationSettings
from clearsight.handlers.drawing.mask_image import encode_numbers, file_type, instance_numbers
from clearsight.wire.answers import DetectedObject, DetectionAnswer


def rectangle(left: float, top: float, right: float, bottom: float, rle=None) -> DetectedObject:
    """Of an image 8 wide and 4 high; the sides in pixels."""
    left, right, top, bottom = left / 8, right / 8, top / 4, bottom / 4
    return DetectedObject(
        (left, top, right, bottom), "can", 0.5, ((left, top, right, top, right, bottom, left, bottom),), rle
    )


def test_no_objects_give_zeros():
    numbers = instance_numbers(DetectionAnswer(()), 4, 8)
    assert (numbers.shape, numbers.dtype, numbers.max()) == ((4, 8), np.uint8, 0)


def test_an_object_has_its_index_in_the_answer_and_earlier_ones_lie_on_top():
    numbers = instance_numbers(DetectionAnswer((rectangle(2, 1, 6, 3), rectangle(0, 0, 4, 2))), 4, 8)
    assert numbers.tolist() == [
        [2, 2, 2, 2, 0, 0, 0, 0],
        [2, 2, 1, 1, 1, 1, 0, 0],
        [0, 0, 1, 1, 1, 1, 0, 0],
        [0, 0, 0, 0, 0, 0, 0, 0],
    ]


def test_run_lengths_are_exact_where_the_answer_has_them():
    rle = {"size": [4, 8], "counts": [5, 1, 26]}  # one pixel: second column, second row
    numbers = instance_numbers(DetectionAnswer((rectangle(0, 0, 8, 4, rle),)), 4, 8)
    assert np.argwhere(numbers).tolist() == [[1, 1]]


def test_objects_after_the_254th_are_left_out_with_a_warning(caplog):
    numbers = instance_numbers(DetectionAnswer((rectangle(0, 0, 1, 1),) * 254 + (rectangle(4, 0, 8, 4),)), 4, 8)
    assert numbers.max() == 1
    assert "after the first 254" in caplog.text


@pytest.mark.parametrize(
    ("image_type", "allow_lossy", "kind"),
    [("JPG", False, "PNG"), ("JPG", True, "JPG"), ("PNG", False, "PNG"), ("BMP", False, "BMP")],
)
def test_numbers_are_exact_unless_the_user_allows_lossy_files(image_type, allow_lossy, kind):
    settings = SegmentationSettings(image_type=image_type, mask_image_allow_lossy=allow_lossy)
    assert file_type(settings) == kind
    numbers = instance_numbers(DetectionAnswer((rectangle(2, 1, 6, 3),)), 4, 8)
    with Image.open(io.BytesIO(encode_numbers(numbers, kind))) as image:
        assert (image.mode, image.size) == ("L", (8, 4))
        assert kind == "JPG" or np.array_equal(np.asarray(image), numbers)
