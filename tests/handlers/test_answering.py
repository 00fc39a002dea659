import base64
import json

import pytest

from clearsight.handlers.scoring.answering import answer_bodies
from clearsight.handlers.scoring.scorer import Scorer

GOLDEN_IMAGE = (
    "iVBORw0KGgoAAAANSUhEUgAAAAgAAAAECAIAAAA8r+mnAAAAG0lEQVR42mNkYPj/n4GRAQMw/mfA"
    "\nDpgYSJUAAAwLAwVVg6ebAAAAAElFTkSuQmCC\n"
)


def test_no_bodies_give_no_replies(scorer: Scorer):
    assert answer_bodies(scorer, []) == []


def test_no_rows_give_an_empty_list(scorer: Scorer):
    (reply,) = answer_bodies(scorer, [b'{"input_data": {"columns": ["image"], "index": [], "data": []}, "params": {}}'])
    assert (reply.status, reply.body, reply.num_rows) == (200, b"[]", 0)


def test_the_golden_request_gives_the_golden_shape(scorer: Scorer):
    request = {"input_data": {"columns": ["image"], "data": [GOLDEN_IMAGE]}}
    (reply,) = answer_bodies(scorer, [json.dumps(request).encode()])
    assert (reply.status, reply.num_rows) == (200, 1)
    (row,) = json.loads(reply.body)
    assert list(row) == ["probs", "labels"]
    assert row["labels"] == ["can", "carton", "milk_bottle", "water_bottle"]
    assert len(row["probs"]) == 4
    assert sum(row["probs"]) == pytest.approx(1, abs=1e-6)
    assert b" " not in reply.body


def test_nested_rows_with_an_index_give_one_object_each(scorer: Scorer):
    bare = GOLDEN_IMAGE.replace("\n", "")
    request = {"input_data": {"columns": ["image"], "index": [0, 1], "data": [[bare], [bare]]}}
    (reply,) = answer_bodies(scorer, [json.dumps(request).encode()])
    first, second = json.loads(reply.body)
    assert first == second


def test_instances_get_the_same_answers_as_predictions(scorer: Scorer, images, make_body):
    plain = make_body(*images[:2])
    first, second = (base64.b64encode(image).decode() for image in images[:2])
    instances = json.dumps({"instances": [{"data": first}, {"image": {"b64": second}}]}).encode()
    broken = json.dumps({"instances": [first, {"data": "QQ=="}]}).encode()
    of_plain, of_instances, of_broken = answer_bodies(scorer, [plain, instances, broken])
    assert of_instances.body == b'{"predictions":' + of_plain.body + b"}"
    assert (of_instances.status, of_instances.num_rows) == (200, 2)
    assert of_broken.status == 400
    assert json.loads(of_broken.body)["message"].startswith("row 1")


def test_a_poisoned_request_leaves_seven_good_ones_byte_equal(any_scorer: Scorer, images, make_body):
    good = [make_body(image) for image in images[:7]]
    alone = [answer_bodies(any_scorer, [body])[0] for body in good]
    truncated = make_body(images[7][:300])
    for poison in (truncated, b"", b"\xff", b'{"input_data": ["http://host/a.png"]}', make_body(images[8], b"\x00")):
        replies = answer_bodies(any_scorer, [*good[:3], poison, *good[3:]])
        assert replies[3].status == 400
        assert replies[:3] + replies[4:] == alone


def test_one_bad_row_fails_its_request_and_is_named(scorer: Scorer, images, make_body):
    (reply,) = answer_bodies(scorer, [make_body(images[0], images[1], b"nonsense", b"more")])
    assert (reply.status, reply.num_rows) == (400, 0)
    message = json.loads(reply.body)["message"]
    assert message.startswith("row 2, column 'image': a picture must be one of jpeg, png, gif, bmp, tiff, webp, avif")


def test_an_explanation_is_refused_where_nothing_explains(scorer: Scorer, images):
    cell = json.dumps({"image_base64": base64.b64encode(images[0]).decode(), "model_explainability": True})
    (reply,) = answer_bodies(scorer, [json.dumps({"input_data": {"columns": ["image"], "data": [cell]}}).encode()])
    assert reply.status == 400
    assert "row 0, column 'image': explanations are switched off here" in json.loads(reply.body)["message"]


def test_requests_of_different_lengths_keep_their_rows_apart(scorer: Scorer, images, make_body):
    bodies = [make_body(*images[:3]), make_body(), make_body(*images[3:14])]
    replies = answer_bodies(scorer, bodies)
    assert [reply.num_rows for reply in replies] == [3, 0, 11]
    assert replies == [answer_bodies(scorer, [body])[0] for body in bodies]
