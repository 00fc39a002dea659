"""Explained rows of classifiers: shapes of the answers, equality with plain scoring, refused requests."""

import base64
import json
from dataclasses import replace

import numpy as np
import pytest

from clearsight.catalogue.algorithms import ALGORITHMS, CLASSIFIER_ALGORITHMS
from clearsight.errors import BadImage, BadRequest
from clearsight.handlers.explain.answering.scoring import (
    ExplainingScorer,
    explaining_scorer,
)
from clearsight.handlers.explain.parameters import parse_xai_parameters
from clearsight.handlers.scoring.answering import answer_bodies
from clearsight.handlers.scoring.scorer import load_scorer
from clearsight.handlers.worker.explain_lane import NO_OPTIONS, RequestOptions, explainer_for_lane
from clearsight.wire.answers import ClassificationAnswer
from clearsight.wire.encoding import encode_answers, to_document

FAST = {"xai_algorithm": "guided_backprop"}
"""The cheapest algorithm, for tests that do not depend on it."""


def test_no_cells_give_no_answers(explaining):
    assert explaining.score([]) == []
    assert explaining.score([], always=True, deadline_s=1.0) == []


def test_rows_that_do_not_ask_get_the_bytes_of_the_scorer(explaining, scorer, images):
    text = base64.b64encode(images[0]).decode()
    cells = [*images, text, json.dumps({"image_base64": text}), {"image_base64": text, "model_explainability": False}]
    assert encode_answers(explaining.score(cells)) == encode_answers(scorer.score(cells))


def test_multi_class_answers_one_image_and_one_array(explaining, scorer, images, cell, size_of_png):
    parameters = {"xai_algorithm": "integrated_gradients", "n_steps": 4, "approximation_method": "riemann_middle"}
    (answer,) = explaining.score([cell(images[0], **parameters, visualizations=True, attributions=True)])
    found = to_document(answer)
    assert list(found) == ["probs", "labels", "visualizations", "attributions"]
    assert found["visualizations"].startswith("iVBORw0KGgo")
    assert size_of_png(base64.b64decode(found["visualizations"])) == (128, 128)
    assert np.array(found["attributions"]).shape == (3, 64, 64)
    (plain,) = scorer.score(images[:1])
    assert (answer.probs, answer.labels) == (plain.probs, plain.labels)


def test_multi_label_answers_lists_in_the_order_of_labels(explaining_multilabel, images, cell):
    image = images[1]
    (plain,) = explaining_multilabel.score([image])
    able = [label for label, prob in zip(plain.labels, plain.probs, strict=True) if prob >= 0.3]
    assert len(able) > 1
    xai_parameters = {**FAST, "confidence_score_threshold_multilabel": 0.3}
    (answer,) = explaining_multilabel.score([cell(image, **xai_parameters, attributions=True, details=True)])
    found = to_document(answer)
    assert list(found) == ["probs", "labels", "visualizations", "attributions", "explanation_details"]
    assert [part["label"] for part in found["explanation_details"]] == able
    assert [part["probability"] for part in found["explanation_details"]] == [
        prob for prob in plain.probs if prob >= 0.3
    ]
    assert len(found["visualizations"]) == len(able)
    assert np.array(found["attributions"]).shape == (len(able), 3, 64, 64)
    (answer,) = explaining_multilabel.score([cell(image, **xai_parameters)])
    assert list(to_document(answer)) == ["probs", "labels", "visualizations"]


def test_no_label_above_the_threshold_gives_empty_lists(explaining_multilabel, images, cell):
    xai_parameters = {"confidence_score_threshold_multilabel": 1.0, "attributions": True, "details": True}
    (answer,) = explaining_multilabel.score([cell(images[0], **xai_parameters)])
    found = to_document(answer)
    assert (found["visualizations"], found["attributions"], found["explanation_details"]) == ([], [], [])


def test_an_empty_request_means_xrai_with_an_image_and_no_numbers(explaining, images, cell):
    requests = [{}, {"xai_algorithm": "xrai", "visualizations": True, "attributions": False, "n_steps": 50}]
    implied, said = explaining.score([cell(images[0], **xai_parameters) for xai_parameters in requests])
    assert to_document(implied) == to_document(said)
    assert list(to_document(implied)) == ["probs", "labels", "visualizations"]
    without = json.loads(cell(images[0]))
    del without["xai_parameters"]
    assert explaining.score([without]) == [implied]


def test_asking_for_neither_images_nor_numbers_is_plain_scoring(explaining, scorer, images, cell):
    xai_parameters = cell(images[0], visualizations=False, attributions=False)
    assert explaining.score([xai_parameters]) == scorer.score(images[:1])


def test_rows_of_one_request_are_answered_each_by_itself(explaining, scorer, images, cell):
    requests = [
        images[0],
        cell(images[1], **FAST),
        cell(b"no picture", **FAST),
        cell(images[2], **FAST, visualizations=False, attributions=True),
        "http://host/a.png",
        cell(images[3], xai_algorithm="grad"),
        cell(images[4], **FAST, target_labels=["can", "carton"]),
    ]
    results = explaining.score(requests)
    assert [type(result) for result in results[2::2]] == [BadImage, BadRequest, ClassificationAnswer]
    assert isinstance(results[5], BadRequest)
    keys = [set(to_document(results[row])) - {"probs", "labels"} for row in (0, 1, 3, 6)]
    assert keys == [set(), {"visualizations"}, {"attributions"}, {"visualizations"}]
    for row, image in ((0, 0), (1, 1), (3, 2), (6, 4)):
        (plain,) = scorer.score([images[image]])
        assert results[row].probs == plain.probs
        assert results[row] == explaining.score([requests[row]])[0]


def test_a_request_that_fails_as_one_is_not_explained_in_vain(explaining, images, cell):
    blind = ExplainingScorer(explaining._scorer, None)  # any attempt to explain is an error of its own
    cells = [cell(images[0]), images[1], "nonsense", cell(images[2])]
    each, together = (blind.score(cells, fails_as_one=as_one) for as_one in (False, True))
    assert [isinstance(result, BadRequest) for result in each] == [True, False, True, True]
    assert [isinstance(result, BadRequest) for result in together] == [False, False, True, False]


def test_named_labels_are_explained_in_their_order(explaining, explaining_multilabel, images, cell):
    labels = ["water_bottle", "can"]
    for scorer, is_list in ((explaining, False), (explaining_multilabel, True)):
        both, *single = scorer.score(
            [cell(images[0], **FAST, details=True, target_labels=names) for names in (labels, labels[:1], labels[1:])]
        )
        assert [part["label"] for part in both.explanation_details] == labels
        alone = [answer.visualizations for answer in single]
        assert alone == [(part,) if is_list else part for part in both.visualizations]
        assert both.visualizations[0] != both.visualizations[1]


def test_a_contrast_changes_the_map_and_must_differ_from_the_label(explaining, images, cell):
    (plain,) = explaining.score(images[:1])
    predicted = plain.labels[int(np.argmax(plain.probs))]
    other = next(label for label in plain.labels if label != predicted)
    alone, against, itself, named = explaining.score(
        [
            cell(images[0], **FAST),
            cell(images[0], **FAST, contrast_label=other),
            cell(images[0], **FAST, contrast_label=predicted),
            cell(images[0], **FAST, contrast_label=predicted, target_labels=[other]),
        ]
    )
    assert alone.visualizations != against.visualizations
    assert isinstance(itself, BadRequest)
    assert "'contrast_label' must differ" in str(itself)
    assert isinstance(named, ClassificationAnswer)


@pytest.mark.parametrize("key", ["target_labels", "contrast_label"])
def test_a_label_that_the_model_does_not_have_is_named_with_its_neighbour(explaining, images, cell, key):
    value = ["carten"] if key == "target_labels" else "carten"
    (error,) = explaining.score([cell(images[0], **{key: value})])
    assert isinstance(error, BadRequest)
    assert str(error) == f"'{key}' must name labels of this model, but got 'carten'; did you mean 'carton'?"


@pytest.mark.slow
def test_rows_without_a_request_are_explained_where_the_path_requests_it_for_all(explaining, images, cell):
    (asked,) = explaining.score([cell(images[0], n_steps=2)])
    quiet = json.loads(cell(images[0], n_steps=2))
    del quiet["model_explainability"]
    cells = [quiet, json.dumps(quiet), json.dumps(quiet).encode(), {**quiet, "model_explainability": False}, [quiet]]
    assert explaining.score(cells, always=True) == [asked] * len(cells)
    forms = [images[0], base64.b64encode(images[0]).decode()]
    assert {answer.visualizations for answer in explaining.score(forms, always=True)} == {
        explaining.score([cell(images[0])])[0].visualizations
    }
    bad = [None, "{", b"", {"image": "x"}, "{}", 3.5, float("nan"), [], b"\x00\x80"]
    assert {isinstance(result, BadRequest) for result in explaining.score(bad, always=True)} == {True}


def test_base64_of_base64_is_no_image(explaining, images, cell):
    (error,) = explaining.score([cell(base64.b64encode(images[0]), **FAST)])
    assert isinstance(error, BadImage)


def test_compact_numbers_hold_the_same_map(explaining, images, cell):
    requests = [{}, {"attributions_format": "float32_base64"}, {"attributions_format": "float16_base64"}]
    nested, float32, float16 = (
        to_document(answer)["attributions"]
        for answer in explaining.score(
            [cell(images[0], **FAST, attributions=True, **xai_parameters) for xai_parameters in requests]
        )
    )
    exact = np.frombuffer(base64.b64decode(float32["data"]), "<f4").reshape(float32["shape"])
    coarse = np.frombuffer(base64.b64decode(float16["data"]), "<f2").reshape(float16["shape"]) * float16["scale"]
    assert exact.shape == (3, 64, 64)
    np.testing.assert_allclose(np.array(nested), exact, rtol=5e-5)
    assert np.abs(coarse - exact).max() <= 1e-3 * np.abs(exact).max()


def test_details_tell_how_an_explanation_came_about(explaining, images, cell):
    (answer,) = explaining.score([cell(images[0], n_steps=8, details=True, faithfulness=True)])
    details = answer.explanation_details
    assert details["algorithm"] == "xrai"
    assert details["probability"] == max(answer.probs)
    assert (details["n_steps_used"], details["baseline"]) == (8, "black_white")
    assert (details["degraded"], details["cached"], details["warnings"]) == (False, False, [])
    assert details["regions"] > 1
    assert 0 <= details["deletion_auc"] <= 1
    assert set(details["milliseconds"]) == {"regions", "gradients", "faithfulness", "picture"}


def test_without_derivatives_only_black_box_algorithms_work(explaining, images, cell):
    scorer = ExplainingScorer(explaining._scorer, None)
    refused, answered = scorer.score(
        [cell(images[0]), cell(images[0], xai_algorithm="rise", masks=9, grid_size=4, attributions=True)]
    )
    assert isinstance(refused, BadRequest)
    assert "use 'rise'" in str(refused)
    assert np.array(to_document(answered)["attributions"]).shape == (3, 64, 64)


AWKWARD = [
    *({"xai_algorithm": value} for value in ("", "XRAI", "xrai ", 1, True, [], {}, ["xrai"], "odam", "d_rise", "🙂")),
    *({"n_steps": value} for value in (-1, 0, 1, 1001, 10**30, 2.5, "50", True, [], {}, float("nan"))),
    *({"visualizations": value} for value in (0, 1, "true", "", [], {}, 2.0)),
    *({"attributions": value} for value in (0, 1, "yes", [True], {})),
    *({"xrai_fast": value} for value in (0, "fast", [], 1.5)),
    *({"approximation_method": value} for value in ("", "riemann_left", 1, False, [], {})),
    *({"confidence_score_threshold_multilabel": v} for v in (-0.1, 1.1, "0.5", True, [], float("inf"), float("nan"))),
    *({"target_labels": v} for v in ([], "can", [1], ["can", "can"], ["dog"], {}, 3, [None], [["can"]], ["x" * 9000])),
    *({"contrast_label": value} for value in ("dog", "", 1, [], ["can"], True)),
    *({"baseline": value} for value in ("grey", "", 0, [], None.__class__.__name__)),
    *({"convergence_tolerance": value} for value in (0, 1, -1, "0.1", True, float("nan"))),
    *({"smooth_samples": value} for value in (-1, 51, 1.5, "3", True)),
    *({"smooth_stdev": value} for value in (0, -1, 11, "x", float("inf"))),
    *({"seed": value} for value in (-1, 2**32, 0.5, "0")),
    *({"max_seconds": value} for value in (0, -1, "1", True, float("nan"))),
    *({"details": value} for value in (1, "true", [])),
    *({"visualization_format": value} for value in ("png", 1, "")),
    *({"attributions_format": value} for value in ("float64", 1, "")),
    *({"localizer": value} for value in ("cam", 1)),
    *({"engine": value} for value in ("torch", 1)),
]


def test_awkward_parameters_are_errors_of_their_row(explaining, images, cell):
    assert len(AWKWARD) > 100
    image = base64.b64encode(images[0]).decode()
    cells = [
        {"image_base64": image, "model_explainability": True, "xai_parameters": xai_parameters}
        for xai_parameters in AWKWARD
    ]
    results = explaining.score(cells)
    wrong = [
        xai_parameters
        for xai_parameters, result in zip(AWKWARD, results, strict=True)
        if not isinstance(result, BadRequest)
    ]
    assert wrong == []
    assert all(str(result).isascii() and len(str(result)) < 500 for result in results)


@pytest.mark.parametrize(
    "algorithm", [row.name for row in ALGORITHMS.values() if row.explains == "classifier" and not row.needs_attention]
)
def test_every_algorithm_gives_finite_numbers(explaining, images, cell, algorithm):
    xai_parameters = {"xai_algorithm": algorithm, "n_steps": 2, "masks": 5, "attributions": True, "details": True}
    (answer,) = explaining.score([cell(images[0], **xai_parameters)])
    assert np.isfinite(np.array(to_document(answer)["attributions"])).all()
    assert answer.explanation_details["algorithm"] == algorithm


def test_a_detector_ignores_requests_for_azures_explanations(detector_package, images, cell):
    package = detector_package("yolov5")
    explaining = explaining_scorer(load_scorer(package, backend="torchscript", device="cpu", num_threads=1))
    plain = load_scorer(package, backend="torchscript", device="cpu", num_threads=1).score(images[:1])
    asked = [cell(images[0]), cell(images[0], **FAST, attributions=True), images[0]]
    assert explaining.score(asked) == plain * 3
    assert explaining.score(asked, always=True) == plain * 3
    explaining.warm_up()


def test_a_whole_request_is_answered_in_azures_form(scorer, images, cell):
    xai_parameters = {**FAST, "attributions": True}
    body = json.dumps({"input_data": {"columns": ["image"], "data": [cell(images[0], **xai_parameters)]}}).encode()
    text = base64.b64encode(images[0]).decode()
    params = {"model_explainability": True, "xai_parameters": xai_parameters}
    beside = json.dumps({"input_data": {"columns": ["image"], "data": [text]}, "params": params}).encode()
    replies = answer_bodies(scorer, [body, beside], (), explainer_for_lane("all", scorer))
    assert [reply.status for reply in replies] == [200, 200]
    assert replies[0].body == replies[1].body
    assert list(json.loads(replies[0].body)[0]) == ["probs", "labels", "visualizations", "attributions"]


AZURES_ROW = (
    '{"image_base64": "iVBORw0KGgoAAAANSUhEUgAAAAgAAAAECAIAAAA8r+mnAAAAG0lEQVR42mNkYPj/n4GRAQMw/mfA\\n'
    'DpgYSJUAAAwLAwVVg6ebAAAAAElFTkSuQmCC\\n", "model_explainability": true, "xai_parameters": '
    '{"xai_algorithm": "integrated_gradients", "n_steps": 20, "approximation_method": "riemann_middle", '
    '"visualizations": true, "attributions": true}}'
)
"""As Azure's samples write it, with an image of 8 x 4 pixels."""


def test_azures_own_row_is_answered_with_one_image_and_one_array(explaining):
    (answer,) = explaining.score([AZURES_ROW])
    found = to_document(answer)
    assert list(found) == ["probs", "labels", "visualizations", "attributions"]
    assert np.array(found["attributions"]).shape == (3, 64, 64)


def test_parameters_beside_the_rows_apply_where_the_path_requests_all_rows(scorer, images):
    text = base64.b64encode(images[0]).decode()
    body = json.dumps({"input_data": [text], "params": {"xai_parameters": {**FAST, "details": True}}}).encode()
    explain = explainer_for_lane("all", scorer)
    plain, explained = answer_bodies(scorer, [body, body], (NO_OPTIONS, RequestOptions(explains_all=True)), explain)
    assert list(json.loads(plain.body)[0]) == ["probs", "labels"]
    assert json.loads(explained.body)[0]["explanation_details"]["algorithm"] == "guided_backprop"


def test_arrays_of_one_image_are_those_of_its_answer(explaining, images, cell):
    parameters = parse_xai_parameters({"xai_algorithm": "gradcam"}, algorithms=CLASSIFIER_ALGORITHMS)
    answer, (found,) = explaining.explain(images[0], parameters)
    assert found.values.shape == (64, 64)
    (told,) = explaining.score([cell(images[0], xai_algorithm="gradcam", attributions=True)])
    np.testing.assert_allclose(np.array(to_document(told)["attributions"]), found.numbers, rtol=5e-5)
    assert (told.probs, told.visualizations) == (answer.probs, found.image)
    parameters = replace(parameters, visualizations=False)
    assert explaining.explain(images[0], parameters)[1][0].image is None
