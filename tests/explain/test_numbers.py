import base64
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clearsight.errors import ClearsightError
from clearsight.handlers.explain.answering.numbers import encode_attribution


def test_text_by_hand():
    values = np.array([[[0.0, -0.0], [1.0, -2.5]], [[0.0012345678, 120000.0], [-99999.6, 1e-20]]], np.float32)
    text = b"[[[0,0],[1,-25e-1]],[[12346e-7,12e4],[-1e5,1e-20]]]"
    assert encode_attribution(values) == text


@pytest.mark.parametrize(
    "shape", [(1,), (4,), (1, 1), (2, 3), (1, 1, 1), (3, 1, 2), (3, 2, 1), (3, 4, 5), (2, 3, 2, 2)]
)
def test_lists_are_nested_as_the_array(shape):
    values = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    assert json.loads(encode_attribution(values)) == values.tolist()


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=40))
@settings(max_examples=100, deadline=None)
def test_any_number_comes_back_to_five_digits(numbers):
    values = np.array(numbers, np.float32)
    text = encode_attribution(values)
    assert b"-0," not in text
    back = np.array(json.loads(text), np.float64)
    exact = values.astype(np.float64)
    assert (np.abs(back - exact) <= 5.0001e-5 * np.abs(exact)).all()


def test_powers_of_ten_and_their_neighbours_come_back():
    powers = 10.0 ** np.arange(-44, 39)
    values = np.concatenate([powers, powers * (1 - 6e-8), powers * 0.999996, [1.4e-45, 3.4028235e38]]).astype(
        np.float32
    )
    back = np.array(json.loads(encode_attribution(values)))
    np.testing.assert_allclose(back, values.astype(np.float64), rtol=5.0001e-5, atol=0)


@pytest.mark.parametrize("scale", [1.0, 1e-3, 1e-6])
def test_a_map_of_224_pixels_takes_at_most_1_6_megabytes(scale):
    random = np.random.default_rng(0)
    values = random.normal(size=(3, 224, 224)) * np.exp(random.normal(size=(3, 224, 224))) * scale
    assert len(encode_attribution(values)) <= 1_600_000


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("form", ["nested", "float32_base64", "float16_base64"])
def test_numbers_must_be_finite(wrong, form):
    with pytest.raises(ClearsightError, match="not finite"):
        encode_attribution(np.array([[1.0, wrong]]), form)


def test_float32_comes_back_to_the_last_bit():
    values = np.random.default_rng(0).normal(size=(3, 5, 4)).astype(np.float32)
    document = json.loads(encode_attribution(values, "float32_base64"))
    assert (document["shape"], document["dtype"], set(document)) == ([3, 5, 4], "float32", {"shape", "dtype", "data"})
    back = np.frombuffer(base64.b64decode(document["data"]), "<f4").reshape(document["shape"])
    assert np.array_equal(back, values)


@pytest.mark.parametrize("magnitude", [0.0, 1e-30, 1.0, 1e30])
def test_float16_is_scaled_so_that_no_value_is_lost(magnitude):
    values = (np.random.default_rng(0).uniform(-1, 1, (3, 5, 4)) * magnitude).astype(np.float32)
    document = json.loads(encode_attribution(values, "float16_base64"))
    assert (document["shape"], document["dtype"]) == ([3, 5, 4], "float16")
    back = (
        np.frombuffer(base64.b64decode(document["data"]), "<f2").astype(np.float64).reshape(3, 5, 4) * document["scale"]
    )
    np.testing.assert_allclose(back, values, rtol=0, atol=5e-4 * magnitude)
