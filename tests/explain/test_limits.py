"""Limits of a deployment for explanations: time, size, number of labels, memory; and their effect on other answers."""

import hashlib
import json
import os
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch

from clearsight.bf16 import Bf16Fault
from clearsight.errors import BadRequest, UserError
from clearsight.handlers.explain.answering.numbers import AnswerTooLarge
from clearsight.handlers.explain.answering.scoring import ExplainingScorer, explaining_scorer
from clearsight.handlers.explain.deadline import OutOfTime
from clearsight.handlers.explain.options import ExplainOptions
from clearsight.handlers.explain.telemetry import observed
from clearsight.wire.encoding import encode_answers, to_document

FAST = {"xai_algorithm": "guided_backprop"}
"""The cheapest algorithm, for tests that do not depend on it."""


class TickingClock:
    """A clock that advances by a number of seconds whenever it is read."""

    def __init__(self, step_s):
        self.now_s, self.step_s = 0.0, step_s

    def __call__(self):
        self.now_s += self.step_s
        return self.now_s


def test_the_most_probable_labels_are_explained_and_the_answer_says_so(
    explaining_multilabel, images, cell, with_options
):
    wish = {**FAST, "confidence_score_threshold_multilabel": 0.0, "details": True}
    (full,) = explaining_multilabel.score([cell(images[0], **wish)])
    (cut,) = with_options(explaining_multilabel, ExplainOptions(max_labels=2)).score([cell(images[0], **wish)])
    best = sorted(np.argsort(full.probs)[-2:])
    assert [part["label"] for part in cut.explanation_details] == [full.labels[index] for index in best]
    assert cut.visualizations == tuple(full.visualizations[index] for index in best)
    assert (full.is_degraded, cut.is_degraded) == (False, True)
    assert "4 labels qualify" in cut.explanation_details[0]["warnings"][0]
    strict = with_options(explaining_multilabel, ExplainOptions(max_labels=2, allow_degradation=False))
    (error,) = strict.score([cell(images[0], **wish)])
    assert isinstance(error, BadRequest)
    (error,) = strict.score([cell(images[0], **FAST, target_labels=list(full.labels))])
    assert "at most 2 labels" in str(error)


@pytest.mark.slow
def test_a_short_deadline_takes_fewer_steps_then_another_algorithm_then_refuses(explaining, images, cell, with_options):
    wish = cell(images[0], n_steps=50, details=True)

    def answer(deadline_s, **options):
        scorer = with_options(explaining, ExplainOptions(**options), clock=TickingClock(0.5))
        return scorer.score([wish], deadline_s=deadline_s)[0]

    whole = answer(1e6)
    assert whole.explanation_details["n_steps_used"] == 50
    fewer = answer(40.0)
    assert 8 <= fewer.explanation_details["n_steps_used"] < 50
    other = answer(6.0)
    assert other.explanation_details["algorithm"] == "guided_gradcam"
    for found in (fewer, other):
        assert found.is_degraded
        assert found.explanation_details["degraded"]
        assert found.probs == whole.probs
    refused = answer(0.1)
    assert isinstance(refused, OutOfTime)
    assert refused.status == 408
    for seconds in (40.0, 6.0):
        assert isinstance(answer(seconds, allow_degradation=False), OutOfTime)
    clock = TickingClock(0.5)
    strict = with_options(explaining, ExplainOptions(allow_degradation=False), clock=clock)
    assert isinstance(strict.score([wish], deadline_s=40.0)[0], OutOfTime)
    assert clock.now_s < 10  # reported after the first gradient, not at the end of the time
    assert answer(1e6, max_seconds=6.0).explanation_details["algorithm"] == "guided_gradcam"


def test_scores_left_out_by_the_deadline_are_reported_and_such_an_answer_is_not_cached(
    explaining, images, cell, with_options
):
    wish = cell(images[0], **FAST, faithfulness=True)

    def answers(**options):
        scorer = with_options(explaining, ExplainOptions(**options), clock=TickingClock(0.5))
        return [scorer.score([wish], deadline_s=seconds)[0] for seconds in (2.0, 1e6)]

    late, whole = answers(cache_bytes=4_000_000)
    told = late.explanation_details
    assert (late.is_degraded, told["degraded"], told["deletion_auc"]) == (True, True, None)
    assert told["warnings"][-1] == "the time did not suffice for the deletion and insertion scores"
    assert late.visualizations == whole.visualizations
    told = whole.explanation_details
    assert (whole.is_degraded, told["cached"], told["deletion_auc"] is None) == (False, False, False)
    refused, whole = answers(allow_degradation=False)
    assert isinstance(refused, OutOfTime)
    assert not whole.is_degraded


def test_rows_share_the_time_of_their_request(explaining, images, cell, with_options):
    scorer = with_options(explaining, ExplainOptions(), clock=TickingClock(0.5))
    results = scorer.score([cell(image, details=True, n_steps=10) for image in images[:3]], deadline_s=45.0)
    assert [result.explanation_details["n_steps_used"] is not None for result in results] == [True] * 3


def test_a_cached_explanation_has_the_same_bytes(explaining, images, cell, with_options):
    cached = with_options(explaining, ExplainOptions(cache_bytes=4_000_000))
    wish = cell(images[0], n_steps=4, attributions=True)
    first, second = (encode_answers(cached.score([wish])) for _ in range(2))
    assert first == second == encode_answers(explaining.score([wish]))
    assert cached._cache.num_bytes > 0
    told = [cached.score([cell(images[0], n_steps=2, details=True)])[0] for _ in range(2)]
    assert [answer.explanation_details["cached"] for answer in told] == [False, True]
    assert told[0].visualizations == told[1].visualizations
    (limited,) = cached.score([cell(images[0], n_steps=2, details=True, max_seconds=60)])
    assert limited.explanation_details["cached"]
    (other,) = cached.score([cell(images[1], n_steps=2, details=True)])
    assert not other.explanation_details["cached"]


def test_what_is_kept_counts_as_much_as_what_is_computed(explaining, explaining_multilabel, images, cell, with_options):
    def noted(scorer, **wish):
        scorer = with_options(scorer, ExplainOptions(cache_bytes=4_000_000))
        with observed() as telemetry:
            for _ in range(2):
                scorer.score([cell(images[0], **FAST, **wish)])
        return [row.is_cached for row in telemetry.rows]

    assert noted(explaining_multilabel, confidence_score_threshold_multilabel=1.0) == []
    assert noted(explaining_multilabel, confidence_score_threshold_multilabel=0.0) == [False, True]
    assert noted(explaining) == [False, True]


def test_details_count_in_the_cache(explaining, images, cell, with_options):
    kept = []
    for details in (False, True):
        cached = with_options(explaining, ExplainOptions(cache_bytes=4_000_000))
        cached.score([cell(images[0], **FAST, details=details)])
        kept.append(cached._cache.num_bytes)
    assert kept[1] - kept[0] >= 2_000


def test_nothing_is_cached_unless_the_deployment_sets_a_size(explaining, images, cell):
    explaining.score([cell(images[0], n_steps=2)])
    assert explaining._cache.num_bytes == explaining._explainer._regions.num_bytes == 0


def test_numbers_beyond_the_answers_limit_are_refused_before_they_are_computed(explaining, images, cell, with_options):
    options = ExplainOptions(max_answer_bytes=100_000)
    scorer = ExplainingScorer(explaining._scorer, None, options)  # it could not compute anything
    (error,) = scorer.score([cell(images[0], attributions=True)])
    assert isinstance(error, AnswerTooLarge)
    assert error.status == 422
    assert str(100_000) in str(error)
    assert "float16_base64" in str(error)
    compact = {**FAST, "attributions": True, "attributions_format": "float16_base64", "visualizations": False}
    results = with_options(explaining, options).score([cell(image, **compact) for image in images[:4]])
    assert [isinstance(result, AnswerTooLarge) for result in results] == [False, False, False, True]


def test_bfloat16_is_refused_where_the_machine_cannot_compute_in_it(scorer, monkeypatch):
    fault = Bf16Fault(is_illegal_instruction=True, message="exit status -4")
    monkeypatch.setattr("clearsight.handlers.explain.network.precision.find_bf16_fault", lambda runtime: fault)
    with pytest.raises(UserError, match="ONEDNN_MAX_CPU_ISA"):
        explaining_scorer(scorer, ExplainOptions(dtype="bfloat16"))


@pytest.mark.slow
def test_bfloat16_gives_nearly_the_same_maps(explaining, images, cell, tmp_path):
    names = ["guided_gradcam", "gradcam", "guided_backprop"]
    cells = [cell(images[0], xai_algorithm=name, attributions=True) for name in names]
    (tmp_path / "cells.json").write_text(json.dumps(cells))
    program = f"""
import json
from pathlib import Path
from clearsight.handlers.explain.answering.scoring import ExplainOptions, explaining_scorer
from clearsight.handlers.scoring.scorer import load_scorer
from clearsight.wire.encoding import to_document
options = ExplainOptions(dtype="bfloat16")
scorer = explaining_scorer(load_scorer({str(explaining.package.root)!r}, device="cpu", num_threads=1), options)
cells = json.loads(Path({str(tmp_path / "cells.json")!r}).read_text())
print(json.dumps([to_document(answer)["attributions"] for answer in scorer.score(cells)]))
"""
    # Without matrix units, which this machine may announce but not provide.
    environment = {**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX512_CORE_BF16"}
    there = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120, env=environment
    )
    for name, answer, coarse in zip(names, explaining.score(cells), json.loads(there.stdout), strict=True):
        exact = np.array(to_document(answer)["attributions"])
        assert 0 < np.linalg.norm(exact - coarse) < 0.2 * np.linalg.norm(exact), name


@pytest.mark.slow
def test_another_process_gives_the_same_bytes(explaining, images, cell, tmp_path):
    wishes = [{"n_steps": 4}, {"xai_algorithm": "guided_gradcam", "attributions": True}]
    cells = [cell(images[0], **wish) for wish in wishes]
    (tmp_path / "cells.json").write_text(json.dumps(cells))
    program = f"""
import hashlib, json, sys
from pathlib import Path
from clearsight.handlers.explain.answering.scoring import explaining_scorer
from clearsight.handlers.scoring.scorer import load_scorer
from clearsight.wire.encoding import encode_answers
scorer = explaining_scorer(load_scorer({str(explaining.package.root)!r}, device="cpu", num_threads=1))
cells = json.loads(Path({str(tmp_path / "cells.json")!r}).read_text())
print(hashlib.sha256(encode_answers(scorer.score(cells))).hexdigest())
print([name for name in ("matplotlib", "captum", "mlflow", "ts") if name in sys.modules])
"""
    there = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120)
    torch.set_num_threads(1)
    digest, imported = there.stdout.splitlines()
    assert digest == hashlib.sha256(encode_answers(explaining.score(cells))).hexdigest()
    assert imported == "[]"


@pytest.mark.slow
def test_predictions_and_explanations_side_by_side_are_those_of_each_alone(explaining, scorer, images, cell):
    wishes = [cell(image, xai_algorithm=name, n_steps=2) for image in images[:2] for name in ("xrai", *FAST.values())]
    explained, predicted = explaining.score(wishes), scorer.score(images)
    found = []

    def predict():
        for _ in range(10):
            found.append(scorer.score(images) == predicted)

    def explain():
        for _ in range(2):
            found.append(explaining.score(wishes) == explained)

    threads = [threading.Thread(target=work) for work in (predict, explain, explain)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(found), all(found)) == (14, True)


def test_explaining_changes_no_weight_and_leaves_no_hook(explaining, images, cell):
    network = explaining._explainer._model._network
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    wishes = [cell(image, xai_algorithm=name, n_steps=2) for image in images for name in ("xrai", "guided_gradcam")]
    explaining.score(wishes)
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())
    hooks = [module._forward_hooks or module._backward_hooks for module in network.modules()]
    assert not any(hooks)
    assert all(parameter.grad is None for parameter in network.parameters())


def test_warm_up_explains_without_complaint(explaining):
    explaining.warm_up()
