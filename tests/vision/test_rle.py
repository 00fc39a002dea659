import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from clearsight.vision.masks import CroppedMask, mask_iou
from clearsight.vision.rle import decode_rle, encode_rle, runs_iou, to_runs

sides = st.integers(1, 12)
bitmaps = st.tuples(sides, sides).flatmap(lambda shape: st_numpy.arrays(np.bool_, shape))


def plain_counts(full_HW: np.ndarray) -> list[int]:
    """The definition: runs of 0 and 1 in turn, beginning with 0, down the columns."""
    counts, value, run = [], False, 0
    for pixel in full_HW.T.ravel():
        if pixel != value:
            counts.append(run)
            value, run = pixel, 0
        run += 1
    return [*counts, run]


@st.composite
def masks_in_images(draw) -> tuple[CroppedMask, int, int]:
    bitmap = draw(bitmaps)
    left, top, right, bottom = draw(st.tuples(*[st.integers(0, 4)] * 4))
    rows, columns = bitmap.shape
    return CroppedMask(left, top, bitmap), top + rows + bottom, left + columns + right


def test_an_empty_mask_is_one_run_of_zeros():
    empty = CroppedMask(0, 0, np.zeros((0, 0), np.bool_))
    assert to_runs(empty, 7).area == 0
    assert encode_rle(empty, 4, 4, compress=False) == {"size": [4, 4], "counts": [16]}
    assert runs_iou(to_runs(empty, 7), to_runs(empty, 7)) == 0


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        # Runs below 16 are one character each; from the fourth on it is the difference to the last but one.
        ([16], np.zeros((4, 4))),
        (chr(48 + 0x20 + 16) + "0", np.zeros((4, 4))),  # 16 has the sign bit set: five bits and a continuation
        ([0, 16], np.ones((4, 4))),
        ([5, 3, 6, 2], [[0, 0, 0, 0], [0, 1, 0, 0], [0, 1, 0, 1], [0, 1, 0, 1]]),
        ("536O", [[0, 0, 0, 0], [0, 1, 0, 0], [0, 1, 0, 1], [0, 1, 0, 1]]),
    ],
)
def test_runs_go_down_the_columns(counts, expected):
    full = np.array(expected, np.bool_)
    assert np.array_equal(decode_rle(counts, 4, 4), full)
    assert encode_rle(CroppedMask(0, 0, full), 4, 4, compress=isinstance(counts, str))["counts"] == counts


def test_compressed_runs_are_those_of_pycocotools():
    rows, columns = np.mgrid[:40, :60]
    mask = ((rows - 18) / 13) ** 2 + ((columns - 33) / 21) ** 2 < 1
    mask[10:14, 30:36] = False
    # pycocotools 2.0.11: `mask.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"]`
    counts = "g`07o04M2N2N2N2O0O2O0O2O000O2O00000000[OE=;CE=;CE=;CE=;CE=;CE=;800000000001N10001N101N101N2N2N2N3LS7"
    cut = CroppedMask(10, 3, mask[3:35, 10:57])
    assert encode_rle(cut, 40, 60) == {"size": [40, 60], "counts": counts}


@hypothesis_settings(deadline=None, max_examples=60)
@given(st.tuples(st.integers(1, 70), st.integers(1, 70)), st.floats(0, 1), st.integers(0, 2**32 - 1))
def test_both_forms_and_the_iou_are_those_of_pycocotools(shape, density, seed):
    oracle = pytest.importorskip("pycocotools.mask")
    random = np.random.default_rng(seed)
    masks = [np.repeat(random.random(shape) < density, 1 + 9 * number, axis=0)[: shape[0]] for number in (0, 1)]
    encoded = [oracle.encode(np.asfortranarray(mask.astype(np.uint8))) for mask in masks]
    cropped = [CroppedMask(0, 0, mask) for mask in masks]
    for mask, cut, rle in zip(masks, cropped, encoded, strict=True):
        found = encode_rle(cut, *shape)
        assert found == {"size": list(shape), "counts": rle["counts"].decode()}
        assert np.array_equal(decode_rle(found["counts"], *shape), mask)
    expected = oracle.iou([encoded[0]], [encoded[1]], [0])[0, 0] if all(mask.any() for mask in masks) else 0
    assert runs_iou(*(to_runs(cut, shape[0]) for cut in cropped)) == pytest.approx(expected, abs=1e-12)


@hypothesis_settings(deadline=None, max_examples=100)
@given(masks_in_images())
def test_encoding_follows_the_definition_and_decodes_to_the_mask(case):
    mask, height, width = case
    full = mask.to_full_size(height, width)
    plain = encode_rle(mask, height, width, compress=False)
    assert plain == {"size": [height, width], "counts": plain_counts(full)}
    assert np.array_equal(decode_rle(plain["counts"], height, width), full)
    assert np.array_equal(decode_rle(encode_rle(mask, height, width)["counts"], height, width), full)
    assert to_runs(mask, height).area == mask.area


@hypothesis_settings(deadline=None, max_examples=100)
@given(bitmaps, bitmaps, st.integers(0, 9), st.integers(0, 9))
def test_iou_of_runs_is_that_of_the_bitmaps(bitmap, other_bitmap, left, top):
    mask, other = CroppedMask(left, top, bitmap), CroppedMask(4, 4, other_bitmap)
    found = runs_iou(to_runs(mask, 21), to_runs(other, 21))
    assert found == pytest.approx(mask_iou(mask, other), abs=1e-15)
    assert runs_iou(to_runs(other, 21), to_runs(mask, 21)) == found
    assert runs_iou(to_runs(mask, 21), to_runs(mask, 21)) == (1 if bitmap.any() else 0)


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ("T", "cut off"),  # 100 = 3 * 32 + 4 would be 'T3': the continuation bit is set
        ([-1, 101], "whole numbers"),
        ({"a": 1}, "text or a list"),
        ([50, 49], "10 x 10 pixels, but are 99"),
        ("T3 ", "characters from '0' to 'o'"),
    ],
)
def test_other_counts_are_refused(counts, message):
    assert not decode_rle("T3", 10, 10).any()
    with pytest.raises(ValueError, match=message):
        decode_rle(counts, 10, 10)
