import base64
import json

import pytest

from clearsight.errors import ClearsightError
from clearsight.wire.answers import ClassificationAnswer
from clearsight.wire.encoding import encode_answers, to_document

PROBS, LABELS = (0.25, 0.75), ("can", "Flasche \u00fc")
PLAIN = b'{"probs":[0.25,0.75],"labels":["can","Flasche \\u00fc"]}'


def test_an_answer_without_explanation_has_azures_two_keys_alone():
    answer = ClassificationAnswer(PROBS, LABELS)
    assert encode_answers([answer]) == b"[" + PLAIN + b"]"
    assert list(to_document(answer)) == ["probs", "labels"]


def test_one_explained_class_has_one_value_and_a_three_dimensional_array():
    answer = ClassificationAnswer(PROBS, LABELS, visualizations=b"\x89PNG", attributions=b"[[[1e-1]]]")
    assert encode_answers([answer]) == (
        b"[" + PLAIN[:-1] + b',"visualizations":"' + base64.b64encode(b"\x89PNG") + b'","attributions":[[[1e-1]]]}]'
    )
    assert to_document(answer)["attributions"] == [[[0.1]]]


def test_several_explained_classes_have_lists():
    answer = ClassificationAnswer(PROBS, LABELS, visualizations=(b"a", b"b"), attributions=(b"[[[1]]]", b"[[[2]]]"))
    document = json.loads(encode_answers([answer]))[0]
    assert document["visualizations"] == ["YQ==", "Yg=="]
    assert document["attributions"] == [[[[1]]], [[[2]]]]
    assert document == to_document(answer)


def test_no_class_above_the_threshold_gives_empty_lists():
    document = json.loads(encode_answers([ClassificationAnswer(PROBS, LABELS, visualizations=(), attributions=())]))[0]
    assert document["visualizations"] == document["attributions"] == []


def test_rows_with_and_without_explanation_mix():
    rows = [ClassificationAnswer(PROBS, LABELS), ClassificationAnswer(PROBS, LABELS, visualizations=b"a")]
    assert [list(row) for row in json.loads(encode_answers(rows))] == [
        ["probs", "labels"],
        ["probs", "labels", "visualizations"],
    ]


def test_attributions_are_written_as_they_come():
    text = b"[[[12345e-7,0]]]"
    assert text in encode_answers([ClassificationAnswer(PROBS, LABELS, attributions=text)])


def test_details_are_ascii_and_finite():
    answer = ClassificationAnswer(PROBS, LABELS, explanation_details={"label": "\u00fc", "regions": None})
    text = encode_answers([answer])
    assert text.isascii()
    assert json.loads(text)[0]["explanation_details"] == {"label": "\u00fc", "regions": None}
    listed = ClassificationAnswer(PROBS, LABELS, explanation_details=({"a": 1}, {"a": 2}))
    assert json.loads(encode_answers([listed]))[0]["explanation_details"] == [{"a": 1}, {"a": 2}]
    with pytest.raises(ClearsightError, match="not finite"):
        encode_answers([ClassificationAnswer(PROBS, LABELS, explanation_details={"a": float("nan")})])
