"""Answers of detection and segmentation as Azure's pages show them, for an 8 x 4 image."""

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clearsight.errors import ClearsightError
from clearsight.wire.answers import ClassificationAnswer, DetectedObject, DetectionAnswer
from clearsight.wire.encoding import encode_answers, shortest, to_document

CAN = DetectedObject((0.25, 0.25, 0.75, 0.75), "can", 0.97)
CARTON = DetectedObject((0.0, 0.5, 0.25, 1.0), "carton", 0.41)

FOUND = """[{"boxes": [
  {"box": {"topX": 0.25, "topY": 0.25, "bottomX": 0.75, "bottomY": 0.75}, "label": "can", "score": 0.97},
  {"box": {"topX": 0.0, "topY": 0.5, "bottomX": 0.25, "bottomY": 1.0}, "label": "carton", "score": 0.41}]}]"""
NOTHING_FOUND = '[{"boxes": []}]'
OUTLINED = """[{"boxes": [
  {"box": {"topX": 0.25, "topY": 0.25, "bottomX": 0.75, "bottomY": 0.75}, "label": "can", "score": 0.97,
   "polygon": [[0.25, 0.25, 0.75, 0.25, 0.75, 0.75, 0.25, 0.75]]},
  {"box": {"topX": 0.0, "topY": 0.0, "bottomX": 1.0, "bottomY": 0.25}, "label": "milk_bottle", "score": 0.80,
   "polygon": [[0.5, 0.0, 1.0, 0.0, 1.0, 0.25, 0.5, 0.25], [0.0, 0.0, 0.25, 0.0, 0.25, 0.25, 0.0, 0.25]]}]}]"""


def compact(golden: str) -> bytes:
    return json.dumps(json.loads(golden), separators=(",", ":")).encode()


def test_no_boxes_are_an_empty_list():
    assert encode_answers([DetectionAnswer(())]) == compact(NOTHING_FOUND)
    assert to_document(DetectionAnswer(())) == {"boxes": []}


def test_boxes_match_the_golden_response_key_by_key():
    assert encode_answers([DetectionAnswer((CAN, CARTON))]) == compact(FOUND)


def test_polygons_match_the_golden_response_key_by_key():
    answer = DetectionAnswer(
        (
            DetectedObject((0.25, 0.25, 0.75, 0.75), "can", 0.97, ((0.25, 0.25, 0.75, 0.25, 0.75, 0.75, 0.25, 0.75),)),
            DetectedObject(
                (0.0, 0.0, 1.0, 0.25),
                "milk_bottle",
                0.8,
                ((0.5, 0.0, 1.0, 0.0, 1.0, 0.25, 0.5, 0.25), (0.0, 0.0, 0.25, 0.0, 0.25, 0.25, 0.0, 0.25)),
            ),
        )
    )
    assert encode_answers([answer]) == compact(OUTLINED)
    assert to_document(answer) == json.loads(OUTLINED)[0]


def test_run_lengths_come_last_where_they_were_asked_for():
    found = DetectedObject((0.0, 0.0, 1.0, 1.0), "can", 0.5, ((0.0,) * 6,), {"size": [4, 8], "counts": "0P1"})
    (written,) = json.loads(encode_answers([DetectionAnswer((found,))]))[0]["boxes"]
    assert list(written) == ["box", "label", "score", "polygon", "rle"]
    assert written["rle"] == {"size": [4, 8], "counts": "0P1"}


def test_labels_of_any_script_are_escaped_to_ascii():
    labels = ('Bier"flasche\n', "牛乳瓶", "🥛", "\ud800")
    answer = DetectionAnswer(tuple(DetectedObject((0.0, 0.0, 1.0, 1.0), label, 1.0) for label in labels))
    written = encode_answers([answer])
    assert written.isascii()
    assert tuple(found["label"] for found in json.loads(written)[0]["boxes"]) == labels


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("place", ["box", "score", "polygon"])
def test_numbers_that_are_not_finite_are_our_fault_not_an_answer(number, place):
    found = DetectedObject(
        (0.0, 0.0, 1.0, number if place == "box" else 1.0),
        "can",
        number if place == "score" else 0.5,
        ((0.0, 0.0, 1.0, 0.0, 1.0, number if place == "polygon" else 1.0),),
    )
    with pytest.raises(ClearsightError) as caught:
        encode_answers([DetectionAnswer((CAN, found))])
    assert caught.value.status == 500


def test_classes_as_plain_data():
    assert to_document(ClassificationAnswer((0.25, 0.75), ("a", "b"))) == {"probs": [0.25, 0.75], "labels": ["a", "b"]}


@given(st.lists(st.floats(0, 1, width=32), max_size=8))
def test_the_shortest_decimals_are_the_float32_values(values):
    numbers = shortest(np.array(values, np.float32))
    assert [np.float32(number) for number in numbers] == values
    assert [float(f"{number:.9g}") for number in numbers] == numbers


def test_shortest_keeps_the_nesting():
    assert shortest(np.zeros((0, 4))) == []
    assert shortest(np.array([[0.1, 1 / 3], [1, 0]])) == [[0.1, 0.33333334], [1.0, 0.0]]
    assert shortest(np.arange(6.0).reshape(2, 3).T) == [[0.0, 3.0], [1.0, 4.0], [2.0, 5.0]]
