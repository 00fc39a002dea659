"""Explained rows of classifiers: shapes of the answers, equality with plain scoring, limits."""

import base64
import hashlib
import json
import os
import subprocess
import sys
import threading
from dataclasses import replace

import numpy as np
import pytest
import torch

from clearsight.errors import BadImage, BadRequest, UserError
from clearsight.handlers.answering import answer_bodies
from clearsight.handlers.explain.algorithms import ALGORITHMS
from clearsight.handlers.explain.deadline import OutOfTime
from clearsight.handlers.explain.options import ExplainOptions
from clearsight.handlers.explain.parameters import parse_xai_parameters
from clearsight.handlers.explain.scoring import (
    AnswerTooLarge,
    ExplainingScorer,
    explaining_scorer,
    load_explaining_scorer,
)
from clearsight.handlers.explaining import PLAIN, Wish, explain_in
from clearsight.handlers.scorer import load_scorer
from clearsight.wire import ClassificationAnswer, encode_answers, to_document

FAST = {"xai_algorithm": "guided_backprop"}
"""The cheapest algorithm, where the test is about something else."""


def document(answer):
    return json.loads(encode_answers([answer]))[0]


class TickingClock:
    """Each look at it takes so many seconds."""

    def __init__(self, step_s):
        self.now_s, self.step_s = 0.0, step_s

    def __call__(self):
        self.now_s += self.step_s
        return self.now_s


def with_options(explaining, options, **more):
    """The same model and network with other options."""
    return ExplainingScorer(explaining._scorer, explaining._explainer._model, options, **more)


def test_no_cells_give_no_answers(explaining):
    assert explaining.score([]) == []
    assert explaining.score([], always=True, deadline_s=1.0) == []


def test_rows_that_do_not_ask_get_the_bytes_of_the_scorer(explaining, scorer, pictures):
    text = base64.b64encode(pictures[0]).decode()
    cells = [*pictures, text, json.dumps({"image_base64": text}), {"image_base64": text, "model_explainability": False}]
    assert encode_answers(explaining.score(cells)) == encode_answers(scorer.score(cells))


def test_multi_class_answers_one_picture_and_one_array(explaining, scorer, pictures, cell, size_of_png):
    parameters = {"xai_algorithm": "integrated_gradients", "n_steps": 4, "approximation_method": "riemann_middle"}
    (answer,) = explaining.score([cell(pictures[0], **parameters, visualizations=True, attributions=True)])
    found = document(answer)
    assert list(found) == ["probs", "labels", "visualizations", "attributions"]
    assert found["visualizations"].startswith("iVBORw0KGgo")
    assert size_of_png(base64.b64decode(found["visualizations"])) == (128, 128)
    assert np.array(found["attributions"]).shape == (3, 64, 64)
    (plain,) = scorer.score(pictures[:1])
    assert (answer.probs, answer.labels) == (plain.probs, plain.labels)


def test_multi_label_answers_lists_in_the_order_of_labels(explaining_multilabel, pictures, cell):
    picture = pictures[1]
    (plain,) = explaining_multilabel.score([picture])
    able = [label for label, prob in zip(plain.labels, plain.probs, strict=True) if prob >= 0.3]
    assert len(able) > 1
    wish = {**FAST, "confidence_score_threshold_multilabel": 0.3}
    (answer,) = explaining_multilabel.score([cell(picture, **wish, attributions=True, details=True)])
    found = document(answer)
    assert list(found) == ["probs", "labels", "visualizations", "attributions", "explanation_details"]
    assert [part["label"] for part in found["explanation_details"]] == able
    assert [part["probability"] for part in found["explanation_details"]] == [
        prob for prob in plain.probs if prob >= 0.3
    ]
    assert len(found["visualizations"]) == len(able)
    assert np.array(found["attributions"]).shape == (len(able), 3, 64, 64)
    (answer,) = explaining_multilabel.score([cell(picture, **wish)])
    assert list(document(answer)) == ["probs", "labels", "visualizations"]


def test_no_label_above_the_threshold_gives_empty_lists(explaining_multilabel, pictures, cell):
    wish = {"confidence_score_threshold_multilabel": 1.0, "attributions": True, "details": True}
    (answer,) = explaining_multilabel.score([cell(pictures[0], **wish)])
    found = document(answer)
    assert (found["visualizations"], found["attributions"], found["explanation_details"]) == ([], [], [])


def test_nothing_said_means_xrai_with_a_picture_and_no_numbers(explaining, pictures, cell):
    wishes = [{}, {"xai_algorithm": "xrai", "visualizations": True, "attributions": False, "n_steps": 50}]
    implied, said = explaining.score([cell(pictures[0], **wish) for wish in wishes])
    assert document(implied) == document(said)
    assert list(document(implied)) == ["probs", "labels", "visualizations"]
    without = json.loads(cell(pictures[0]))
    del without["xai_parameters"]
    assert explaining.score([without]) == [implied]


def test_asking_for_neither_pictures_nor_numbers_is_plain_scoring(explaining, scorer, pictures, cell):
    wish = cell(pictures[0], visualizations=False, attributions=False)
    assert explaining.score([wish]) == scorer.score(pictures[:1])


def test_rows_of_one_request_are_answered_each_by_itself(explaining, scorer, pictures, cell):
    wishes = [
        pictures[0],
        cell(pictures[1], **FAST),
        cell(b"no picture", **FAST),
        cell(pictures[2], **FAST, visualizations=False, attributions=True),
        "http://host/a.png",
        cell(pictures[3], xai_algorithm="grad"),
        cell(pictures[4], **FAST, target_labels=["can", "carton"]),
    ]
    results = explaining.score(wishes)
    assert [type(result) for result in results[2::2]] == [BadImage, BadRequest, ClassificationAnswer]
    assert isinstance(results[5], BadRequest)
    keys = [set(document(results[row])) - {"probs", "labels"} for row in (0, 1, 3, 6)]
    assert keys == [set(), {"visualizations"}, {"attributions"}, {"visualizations"}]
    for row, picture in ((0, 0), (1, 1), (3, 2), (6, 4)):
        (plain,) = scorer.score([pictures[picture]])
        assert results[row].probs == plain.probs
        assert results[row] == explaining.score([wishes[row]])[0]


def test_named_labels_are_explained_in_their_order(explaining, explaining_multilabel, pictures, cell):
    labels = ["water_bottle", "can"]
    for scorer, is_list in ((explaining, False), (explaining_multilabel, True)):
        both, *single = scorer.score(
            [cell(pictures[0], **FAST, details=True, target_labels=names) for names in (labels, labels[:1], labels[1:])]
        )
        assert [part["label"] for part in both.explanation_details] == labels
        alone = [answer.visualizations for answer in single]
        assert alone == [(part,) if is_list else part for part in both.visualizations]
        assert both.visualizations[0] != both.visualizations[1]


def test_a_contrast_changes_the_map_and_must_differ_from_the_label(explaining, pictures, cell):
    (plain,) = explaining.score(pictures[:1])
    predicted = plain.labels[int(np.argmax(plain.probs))]
    other = next(label for label in plain.labels if label != predicted)
    alone, against, itself, named = explaining.score(
        [
            cell(pictures[0], **FAST),
            cell(pictures[0], **FAST, contrast_label=other),
            cell(pictures[0], **FAST, contrast_label=predicted),
            cell(pictures[0], **FAST, contrast_label=predicted, target_labels=[other]),
        ]
    )
    assert alone.visualizations != against.visualizations
    assert isinstance(itself, BadRequest)
    assert "'contrast_label' must differ" in str(itself)
    assert isinstance(named, ClassificationAnswer)


@pytest.mark.parametrize("key", ["target_labels", "contrast_label"])
def test_a_label_that_the_model_does_not_have_is_named_with_its_neighbour(explaining, pictures, cell, key):
    value = ["carten"] if key == "target_labels" else "carten"
    (error,) = explaining.score([cell(pictures[0], **{key: value})])
    assert isinstance(error, BadRequest)
    assert str(error) == f"'{key}' must name labels of this model, but got 'carten'; did you mean 'carton'?"


def test_rows_that_do_not_ask_are_explained_where_the_path_asks_for_all(explaining, pictures, cell):
    (asked,) = explaining.score([cell(pictures[0], n_steps=2)])
    quiet = json.loads(cell(pictures[0], n_steps=2))
    del quiet["model_explainability"]
    cells = [quiet, json.dumps(quiet), json.dumps(quiet).encode(), {**quiet, "model_explainability": False}, [quiet]]
    assert explaining.score(cells, always=True) == [asked] * len(cells)
    forms = [pictures[0], base64.b64encode(pictures[0]).decode(), [pictures[0]]]
    assert {answer.visualizations for answer in explaining.score(forms, always=True)} == {
        explaining.score([cell(pictures[0])])[0].visualizations
    }
    bad = [None, "{", b"", {"image": "x"}, "{}", 3.5, float("nan"), [], b"\x00\x80"]
    assert {isinstance(result, BadRequest) for result in explaining.score(bad, always=True)} == {True}


def test_base64_of_base64_is_no_picture(explaining, pictures, cell):
    (error,) = explaining.score([cell(base64.b64encode(pictures[0]), **FAST)])
    assert isinstance(error, BadImage)


def test_compact_numbers_hold_the_same_map(explaining, pictures, cell):
    wishes = [{}, {"attributions_format": "float32_base64"}, {"attributions_format": "float16_base64"}]
    nested, float32, float16 = (
        document(answer)["attributions"]
        for answer in explaining.score([cell(pictures[0], **FAST, attributions=True, **wish) for wish in wishes])
    )
    exact = np.frombuffer(base64.b64decode(float32["data"]), "<f4").reshape(float32["shape"])
    coarse = np.frombuffer(base64.b64decode(float16["data"]), "<f2").reshape(float16["shape"]) * float16["scale"]
    assert exact.shape == (3, 64, 64)
    np.testing.assert_allclose(np.array(nested), exact, rtol=5e-5)
    assert np.abs(coarse - exact).max() <= 1e-3 * np.abs(exact).max()


def test_details_tell_how_an_explanation_came_about(explaining, pictures, cell):
    (answer,) = explaining.score([cell(pictures[0], n_steps=8, details=True, faithfulness=True)])
    details = answer.explanation_details
    assert details["algorithm"] == "xrai"
    assert details["probability"] == max(answer.probs)
    assert (details["n_steps_used"], details["baseline"]) == (8, "black_white")
    assert (details["degraded"], details["cached"], details["warnings"]) == (False, False, [])
    assert details["regions"] > 1
    assert 0 <= details["deletion_auc"] <= 1
    assert set(details["milliseconds"]) == {"regions", "gradients", "faithfulness", "picture"}


def test_the_most_probable_labels_are_explained_and_the_answer_says_so(explaining_multilabel, pictures, cell):
    wish = {**FAST, "confidence_score_threshold_multilabel": 0.0, "details": True}
    (full,) = explaining_multilabel.score([cell(pictures[0], **wish)])
    (cut,) = with_options(explaining_multilabel, ExplainOptions(max_labels=2)).score([cell(pictures[0], **wish)])
    best = sorted(np.argsort(full.probs)[-2:])
    assert [part["label"] for part in cut.explanation_details] == [full.labels[index] for index in best]
    assert cut.visualizations == tuple(full.visualizations[index] for index in best)
    assert (full.is_degraded, cut.is_degraded) == (False, True)
    assert "4 labels qualify" in cut.explanation_details[0]["warnings"][0]
    strict = with_options(explaining_multilabel, ExplainOptions(max_labels=2, allow_degradation=False))
    (error,) = strict.score([cell(pictures[0], **wish)])
    assert isinstance(error, BadRequest)
    (error,) = strict.score([cell(pictures[0], **FAST, target_labels=list(full.labels))])
    assert "at most 2 labels" in str(error)


def test_a_short_deadline_takes_fewer_steps_then_another_algorithm_then_refuses(explaining, pictures, cell):
    wish = cell(pictures[0], n_steps=50, details=True)

    def answer(deadline_s, **options):
        scorer = with_options(explaining, ExplainOptions(**options), clock=TickingClock(0.5))
        return scorer.score([wish], deadline_s=deadline_s)[0]

    assert answer(1e6).explanation_details["n_steps_used"] == 50
    fewer = answer(40.0)
    assert 8 <= fewer.explanation_details["n_steps_used"] < 50
    other = answer(6.0)
    assert other.explanation_details["algorithm"] == "guided_gradcam"
    for found in (fewer, other):
        assert found.is_degraded
        assert found.explanation_details["degraded"]
        assert found.probs == answer(1e6).probs
    refused = answer(0.1)
    assert isinstance(refused, OutOfTime)
    assert refused.status == 408
    for seconds in (40.0, 6.0):
        assert isinstance(answer(seconds, allow_degradation=False), OutOfTime)
    assert answer(1e6, max_seconds=6.0).explanation_details["algorithm"] == "guided_gradcam"


def test_rows_share_the_time_of_their_request(explaining, pictures, cell):
    scorer = with_options(explaining, ExplainOptions(), clock=TickingClock(0.5))
    results = scorer.score([cell(picture, details=True, n_steps=10) for picture in pictures[:3]], deadline_s=45.0)
    assert [result.explanation_details["n_steps_used"] is not None for result in results] == [True] * 3


def test_a_cached_explanation_has_the_same_bytes(explaining, pictures, cell):
    cached = with_options(explaining, ExplainOptions(cache_bytes=4_000_000))
    wish = cell(pictures[0], n_steps=4, attributions=True)
    first, second = (encode_answers(cached.score([wish])) for _ in range(2))
    assert first == second == encode_answers(explaining.score([wish]))
    assert cached._cache.num_bytes > 0
    told = [cached.score([cell(pictures[0], n_steps=2, details=True)])[0] for _ in range(2)]
    assert [answer.explanation_details["cached"] for answer in told] == [False, True]
    assert told[0].visualizations == told[1].visualizations
    (limited,) = cached.score([cell(pictures[0], n_steps=2, details=True, max_seconds=60)])
    assert limited.explanation_details["cached"]
    (other,) = cached.score([cell(pictures[1], n_steps=2, details=True)])
    assert not other.explanation_details["cached"]


def test_nothing_is_kept_unless_a_deployment_asks_for_it(explaining, pictures, cell):
    explaining.score([cell(pictures[0], n_steps=2)])
    assert explaining._cache.num_bytes == explaining._explainer._regions.num_bytes == 0


def test_numbers_beyond_the_answers_limit_are_refused_before_they_are_computed(explaining, pictures, cell):
    options = ExplainOptions(max_answer_bytes=100_000)
    scorer = ExplainingScorer(explaining._scorer, None, options)  # it could not compute anything
    (error,) = scorer.score([cell(pictures[0], attributions=True)])
    assert isinstance(error, AnswerTooLarge)
    assert error.status == 422
    assert str(100_000) in str(error)
    assert "float16_base64" in str(error)
    compact = {**FAST, "attributions": True, "attributions_format": "float16_base64", "visualizations": False}
    results = with_options(explaining, options).score([cell(picture, **compact) for picture in pictures[:4]])
    assert [isinstance(result, AnswerTooLarge) for result in results] == [False, False, False, True]


def test_without_derivatives_only_black_box_algorithms_work(explaining, pictures, cell):
    scorer = ExplainingScorer(explaining._scorer, None)
    refused, answered = scorer.score(
        [cell(pictures[0]), cell(pictures[0], xai_algorithm="rise", masks=9, grid_size=4, attributions=True)]
    )
    assert isinstance(refused, BadRequest)
    assert "use 'rise'" in str(refused)
    assert np.array(document(answered)["attributions"]).shape == (3, 64, 64)


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


def test_awkward_parameters_are_errors_of_their_row(explaining, pictures, cell):
    assert len(AWKWARD) > 100
    picture = base64.b64encode(pictures[0]).decode()
    cells = [{"image_base64": picture, "model_explainability": True, "xai_parameters": wish} for wish in AWKWARD]
    results = explaining.score(cells)
    wrong = [wish for wish, result in zip(AWKWARD, results, strict=True) if not isinstance(result, BadRequest)]
    assert wrong == []
    assert all(str(result).isascii() and len(str(result)) < 500 for result in results)


@pytest.mark.parametrize("algorithm", sorted(set(ALGORITHMS) - {"attention_relevance", "attention_relevance_ig"}))
def test_every_algorithm_gives_finite_numbers(explaining, pictures, cell, algorithm):
    wish = {"xai_algorithm": algorithm, "n_steps": 2, "masks": 5, "attributions": True, "details": True}
    (answer,) = explaining.score([cell(pictures[0], **wish)])
    assert np.isfinite(np.array(document(answer)["attributions"])).all()
    assert answer.explanation_details["algorithm"] == algorithm


def test_bfloat16_is_refused_where_the_machine_cannot_compute_in_it(scorer, monkeypatch):
    monkeypatch.setattr("clearsight.handlers.explain.precision._processor_works", lambda: False)
    with pytest.raises(UserError, match="ONEDNN_MAX_CPU_ISA"):
        explaining_scorer(scorer, ExplainOptions(dtype="bfloat16"))


@pytest.mark.slow
def test_bfloat16_gives_nearly_the_same_maps(explaining, pictures, cell, tmp_path):
    names = ["guided_gradcam", "gradcam", "guided_backprop"]
    cells = [cell(pictures[0], xai_algorithm=name, attributions=True) for name in names]
    (tmp_path / "cells.json").write_text(json.dumps(cells))
    program = f"""
import json
from pathlib import Path
from clearsight.handlers.explain.scoring import ExplainOptions, load_explaining_scorer
from clearsight.wire import to_document
options = ExplainOptions(dtype="bfloat16")
scorer = load_explaining_scorer({str(explaining.package.root)!r}, device="cpu", num_threads=1, options=options)
cells = json.loads(Path({str(tmp_path / "cells.json")!r}).read_text())
print(json.dumps([to_document(answer)["attributions"] for answer in scorer.score(cells)]))
"""
    # Without matrix units, which this machine may announce and not have.
    environment = {**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX512_CORE_BF16"}
    there = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120, env=environment
    )
    for name, answer, coarse in zip(names, explaining.score(cells), json.loads(there.stdout), strict=True):
        exact = np.array(document(answer)["attributions"])
        assert 0 < np.linalg.norm(exact - coarse) < 0.2 * np.linalg.norm(exact), name


def test_another_process_gives_the_same_bytes(explaining, pictures, cell, tmp_path):
    wishes = [{"n_steps": 4}, {"xai_algorithm": "guided_gradcam", "attributions": True}]
    cells = [cell(pictures[0], **wish) for wish in wishes]
    (tmp_path / "cells.json").write_text(json.dumps(cells))
    program = f"""
import hashlib, json
from pathlib import Path
from clearsight.handlers.explain.scoring import load_explaining_scorer
from clearsight.wire import encode_answers
scorer = load_explaining_scorer({str(explaining.package.root)!r}, device="cpu", num_threads=1)
cells = json.loads(Path({str(tmp_path / "cells.json")!r}).read_text())
print(hashlib.sha256(encode_answers(scorer.score(cells))).hexdigest())
"""
    there = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120)
    torch.set_num_threads(1)
    assert there.stdout.strip() == hashlib.sha256(encode_answers(explaining.score(cells))).hexdigest()


def test_a_detector_answers_as_if_nothing_was_asked(detector_package, pictures, cell):
    package = detector_package("yolov5")
    explaining = load_explaining_scorer(package, backend="torchscript", device="cpu", num_threads=1)
    plain = load_scorer(package, backend="torchscript", device="cpu", num_threads=1).score(pictures[:1])
    asked = [cell(pictures[0]), cell(pictures[0], **FAST, attributions=True), pictures[0]]
    assert explaining.score(asked) == plain * 3
    assert explaining.score(asked, always=True) == plain * 3
    explaining.warm_up()


def test_predictions_and_explanations_side_by_side_are_those_of_each_alone(explaining, scorer, pictures, cell):
    wishes = [
        cell(picture, xai_algorithm=name, n_steps=2) for picture in pictures[:2] for name in ("xrai", *FAST.values())
    ]
    explained, predicted = explaining.score(wishes), scorer.score(pictures)
    found, wrong = [], []

    def predict():
        for _ in range(10):
            found.append(scorer.score(pictures) == predicted)

    def explain():
        for _ in range(2):
            found.append(explaining.score(wishes) == explained)

    threads = [threading.Thread(target=work) for work in (predict, explain, explain)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(found), all(found), wrong) == (14, True, [])


def test_explaining_changes_no_weight_and_leaves_no_hook(explaining, pictures, cell):
    network = explaining._explainer._model._network
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    wishes = [
        cell(picture, xai_algorithm=name, n_steps=2) for picture in pictures for name in ("xrai", "guided_gradcam")
    ]
    explaining.score(wishes)
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())
    hooks = [module._forward_hooks or module._backward_hooks for module in network.modules()]
    assert not any(hooks)
    assert all(parameter.grad is None for parameter in network.parameters())


def test_a_whole_request_is_answered_in_azures_form(scorer, pictures, cell):
    wish = {**FAST, "attributions": True}
    body = json.dumps({"input_data": {"columns": ["image"], "data": [cell(pictures[0], **wish)]}}).encode()
    text = base64.b64encode(pictures[0]).decode()
    params = {"model_explainability": True, "xai_parameters": wish}
    beside = json.dumps({"input_data": {"columns": ["image"], "data": [text]}, "params": params}).encode()
    replies = answer_bodies(scorer, [body, beside], (), explain_in("all", scorer))
    assert [reply.status for reply in replies] == [200, 200]
    assert replies[0].body == replies[1].body
    assert list(json.loads(replies[0].body)[0]) == ["probs", "labels", "visualizations", "attributions"]


def test_parameters_beside_the_rows_count_where_the_path_asks_for_all(scorer, pictures):
    text = base64.b64encode(pictures[0]).decode()
    body = json.dumps({"input_data": [text], "params": {"xai_parameters": {**FAST, "details": True}}}).encode()
    explain = explain_in("all", scorer)
    plain, explained = answer_bodies(scorer, [body, body], (PLAIN, Wish(explains_all=True)), explain)
    assert list(json.loads(plain.body)[0]) == ["probs", "labels"]
    assert json.loads(explained.body)[0]["explanation_details"]["algorithm"] == "guided_backprop"


def test_arrays_of_one_picture_are_those_of_its_answer(explaining, pictures, cell):
    parameters = parse_xai_parameters({"xai_algorithm": "gradcam"}, algorithms=tuple(ALGORITHMS))
    answer, (found,) = explaining.explain(pictures[0], parameters)
    assert found.values.shape == (64, 64)
    (told,) = explaining.score([cell(pictures[0], xai_algorithm="gradcam", attributions=True)])
    np.testing.assert_allclose(np.array(to_document(told)["attributions"]), found.channels, rtol=5e-5)
    assert (told.probs, told.visualizations) == (answer.probs, found.picture)
    parameters = replace(parameters, visualizations=False)
    assert explaining.explain(pictures[0], parameters)[1][0].picture is None


def test_warm_up_explains_without_complaint(explaining):
    explaining.warm_up()
