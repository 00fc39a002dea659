"""Explanations by name: the contract of every algorithm, and behaviour when time or the eager network is missing."""

import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from clearsight.catalogue.algorithms import ALGORITHMS, CLASSIFIER_ALGORITHMS
from clearsight.errors import BadRequest, UserError
from clearsight.handlers.explain.algorithms.context import ExplainContext
from clearsight.handlers.explain.algorithms.rise import random_masks, rise
from clearsight.handlers.explain.algorithms.run import compute_attributions
from clearsight.handlers.explain.deadline import Deadline, OutOfTime
from clearsight.handlers.explain.network.functions import ExplainTarget
from clearsight.handlers.explain.network.model import ExplainModel
from clearsight.handlers.explain.parameters import XaiParameters, parse_xai_parameters
from clearsight.networks.families.table import build_network
from clearsight.testing.algorithms import AlgorithmContract

PAIRS = [
    (kind, name)
    for kind in ("conv", "vit")
    for name in CLASSIFIER_ALGORITHMS
    if kind == "vit" or not ALGORITHMS[name].needs_attention
]


class Clock:
    def __init__(self):
        self.now_s = 0.0

    def __call__(self):
        return self.now_s


@pytest.fixture(scope="module")
def models():
    import timm

    with torch.random.fork_rng():
        torch.manual_seed(4)
        conv = build_network("mobilenetv2", 4)
        vit = timm.create_model("vit_small_patch16_224", img_size=32, embed_dim=32, depth=2, num_heads=2, num_classes=4)
    return {"conv": ExplainModel(conv, "mobilenetv2"), "vit": ExplainModel(vit, "vit")}


def image(value=None):
    if value is not None:
        return torch.full((1, 3, 32, 32), value)
    return torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(3))


def context_of(model, algorithm, deadline=None, x=None, **parameters):
    small = {"n_steps": 8, "masks": 6, "grid_size": 4, "baseline": "black_white" if algorithm == "xrai" else "mean"}
    return ExplainContext(
        model=model,
        probabilities=lambda points: model.logits(points).softmax(dim=1),
        x_13PP=image() if x is None else x,
        targets=(ExplainTarget(1), ExplainTarget(2, 0)),
        parameters=XaiParameters(**{"algorithm": algorithm, **small, **parameters}),
        deadline=deadline or Deadline(None),
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
    )


@pytest.mark.parametrize(("kind", "algorithm"), PAIRS)
class TestContract(AlgorithmContract):
    @pytest.fixture
    def algorithm(self, algorithm):
        return algorithm

    @pytest.fixture
    def make_context(self, models, kind, algorithm):
        def make(document):
            small = {"n_steps": 8, "masks": 6, "grid_size": 4, "xai_algorithm": algorithm}
            parameters = parse_xai_parameters({**small, **document}, algorithms=(algorithm,))
            return replace(context_of(models[kind], algorithm), parameters=parameters)

        return make


def test_a_map_without_evidence_is_zero_and_says_so(models):
    context = replace(context_of(models["conv"], "guided_gradcam"), targets=(ExplainTarget(1, 1),))
    (found,) = compute_attributions(context)
    assert not found.values.any()
    assert "zero" in found.warnings[0]


def test_the_number_of_steps_is_chosen_so_that_the_map_adds_up():
    """Far from the baseline two steps miss most of the rise; captum's map is the oracle of the one with more."""
    import timm

    with torch.random.fork_rng():
        torch.manual_seed(4)
        network = timm.create_model(
            "vit_small_patch16_224", img_size=32, embed_dim=32, depth=2, num_heads=2, num_classes=4
        )
    with torch.no_grad():
        network.head.weight.mul_(200)  # scores of several units, as trained ones have
    model = ExplainModel(network, "vit")

    def explain(**more):
        parameters = {"n_steps": 2, "baseline": "black", "details": True, **more}
        return compute_attributions(context_of(model, "integrated_gradients", x=40 * image(), **parameters))

    for few, many in zip(explain(), explain(most_steps=1000), strict=True):
        assert few.n_steps_used == 2
        assert "of the rise of the score: raise 'n_steps'" in few.warnings[0]
        assert few.delta_over_rise > 0.5
        assert many.n_steps_used == 54  # 2, 6, 18, 54
        assert many.warnings == ()
        assert many.delta_over_rise <= 0.02
        assert many.delta_over_rise == pytest.approx(abs(many.convergence_delta / many.rise))
    pytest.importorskip("captum")
    for ours, theirs in zip(explain(most_steps=1000), explain(n_steps=54, engine="captum"), strict=True):
        np.testing.assert_allclose(ours.values, theirs.values, atol=1e-5 * np.abs(theirs.values).max())
        assert ours.convergence_delta == pytest.approx(theirs.convergence_delta, abs=1e-5)
    (noisy, _) = explain(most_steps=1000, smooth_samples=1)
    assert noisy.n_steps_used == 2


def test_details_measure_convergence_and_name_rule_and_layer(models):
    (ours, _) = compute_attributions(context_of(models["vit"], "integrated_gradients", details=True, n_steps=50))
    assert ours.relative_delta < 0.01
    assert abs(ours.convergence_delta) <= ours.relative_delta * np.abs(ours.values).sum() * 1.001
    (ours, _) = compute_attributions(context_of(models["vit"], "guided_gradcam"))
    assert (ours.guided_rule, ours.localizer, ours.target_layer) == ("gelu", "attention_relevance", None)
    (ours, _) = compute_attributions(context_of(models["vit"], "guided_gradcam", localizer="gradcam"))
    assert (ours.localizer, ours.target_layer) == ("gradcam", "blocks.1.norm1")


def test_captum_gives_the_same_integrated_gradients(models):
    ours = compute_attributions(context_of(models["vit"], "integrated_gradients", baseline="black_white"))
    theirs = compute_attributions(
        context_of(models["vit"], "integrated_gradients", baseline="black_white", engine="captum")
    )
    for mine, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(mine.values, other.values, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("name", ["integrated_gradients", "occlusion"])
def test_without_captum_the_extra_is_named(models, name, monkeypatch):
    monkeypatch.setitem(sys.modules, "captum.attr", None)
    with pytest.raises(UserError, match=r"pip install 'clearsight\[explain\]'"):
        compute_attributions(context_of(models["vit"], name, engine="captum"))


def test_captum_stops_at_the_deadline(models):
    clock = Clock()
    deadline = Deadline(1.0, clock)
    clock.now_s = 2.0
    with pytest.raises(OutOfTime, match="captum needs longer"):
        compute_attributions(context_of(models["vit"], "integrated_gradients", deadline, engine="captum"))


@pytest.mark.parametrize("name", [row.name for row in ALGORITHMS.values() if row.needs_attention])
def test_relevance_of_a_convolutional_network_is_refused(models, name):
    with pytest.raises(BadRequest, match=r"transformer.*use 'gradcam'"):
        compute_attributions(context_of(models["conv"], name))


def test_an_unknown_name_lists_the_known_ones(models):
    with pytest.raises(BadRequest, match=r"'xai_algorithm' must be one of .*'xrai'"):
        compute_attributions(context_of(models["vit"], "magic"))


class Slow:
    """A model each of whose plain gradients takes one second."""

    def __init__(self, model, clock):
        self._model, self._clock = model, clock

    def __getattr__(self, name):
        return getattr(self._model, name)

    def gradients_of(self, targets):
        def gradients(points):
            self._clock.now_s += len(points)
            return self._model.gradients_of(targets)(points)

        return gradients


@pytest.mark.parametrize("name", ["integrated_gradients", "xrai", "attention_relevance_ig"])
class TestDeadline:
    def make(self, models, name, seconds, **changes):
        clock = Clock()
        context = context_of(models["vit"], name, Deadline(seconds, clock), baseline="mean", n_steps=50)
        return replace(context, model=Slow(models["vit"], clock), **changes)

    def test_fewer_steps_are_taken_and_reported(self, models, name):
        found = compute_attributions(self.make(models, name, 21))  # two of them measure how long one takes
        assert {(one.n_steps_used, one.deadline_hit, one.degraded) for one in found} == {(19, True, True)}

    def test_guided_gradcam_stands_in_when_too_few_steps_fit(self, models, name):
        found = compute_attributions(self.make(models, name, 5))
        assert all(one.degraded and one.deadline_hit and "guided_gradcam" in one.warnings[0] for one in found)
        expected = compute_attributions(context_of(models["vit"], "guided_gradcam"))
        assert np.array_equal(found[0].values, expected[0].values)

    def test_nothing_in_time_is_a_timeout(self, models, name):
        with pytest.raises(OutOfTime) as caught:
            compute_attributions(self.make(models, name, 0.5))
        assert caught.value.status == 408

    @pytest.mark.parametrize("seconds", [5, 21])
    def test_degradation_can_be_forbidden(self, models, name, seconds):
        with pytest.raises(OutOfTime):
            compute_attributions(self.make(models, name, seconds, may_degrade=False))


def test_smoothing_is_the_mean_over_seeded_noise(models):
    context = context_of(models["vit"], "guided_backprop", smooth_samples=3, smooth_stdev=0.1, seed=5)
    generator = torch.Generator().manual_seed(5)
    maps = []
    for _ in range(3):
        noisy = image() + 0.1 * torch.randn(1, 3, 32, 32, generator=generator)
        maps.append(models["vit"].guided_gradient(1)(noisy)[0].numpy())
    found = compute_attributions(context)[0].values
    np.testing.assert_allclose(found, np.mean(maps, axis=0), rtol=1e-5, atol=1e-8)
    assert found.tobytes() == compute_attributions(context)[0].values.tobytes()


def test_where_no_share_of_the_time_suffices_one_noisy_copy_gets_it_all(models):
    xai_parameters = {"smooth_samples": 20, "n_steps": 10, "baseline": "mean"}
    clock = Clock()
    context = context_of(models["vit"], "integrated_gradients", Deadline(12.0, clock), **xai_parameters)
    context = replace(context, model=Slow(models["vit"], clock))
    for found in compute_attributions(context):
        assert (found.n_steps_used, found.degraded, found.deadline_hit) == (10, True, True)
    clock.now_s = 0.0
    with pytest.raises(OutOfTime):
        compute_attributions(replace(context, may_degrade=False, deadline=Deadline(12.0, clock)))


class TestRise:
    def test_masks_lie_between_covered_and_shown_and_keep_half(self):
        masks_JPP = random_masks(200, 4, 30, 22, torch.Generator().manual_seed(1))
        assert masks_JPP.shape == (200, 30, 22)
        assert 0 <= masks_JPP.min() <= masks_JPP.max() <= 1
        assert float(masks_JPP.mean()) == pytest.approx(0.5, abs=0.05)

    def explain(self, chunk=8, deadline=None, num_masks=300):
        def probabilities(points):  # class 0 depends on the upper left quarter alone
            seen = (points[:, 0, :16, :16] != 0).float().mean(dim=(1, 2))
            weight = (points[:, 0, :16, :16]).mean(dim=(1, 2)) * seen
            return torch.stack([weight, 1 - weight], dim=1)

        x = torch.ones(1, 3, 32, 32)
        return rise(
            probabilities, x, (ExplainTarget(0), ExplainTarget(1)), num_masks, 4, 0, deadline or Deadline(None), chunk
        )

    def test_it_finds_where_the_score_comes_from(self):
        found, opposite = self.explain()
        inside, outside = found.map_PP[:16, :16].mean(), found.map_PP[16:, 16:].mean()
        assert inside > outside + 0.05
        assert opposite.map_PP[:16, :16].mean() < opposite.map_PP[16:, 16:].mean()
        assert (found.masks_used, found.deadline_hit) == (300, False)

    def test_the_size_of_chunks_changes_nothing(self):
        torch.testing.assert_close(self.explain(chunk=1)[0].map_PP, self.explain(chunk=7)[0].map_PP)

    def test_the_deadline_leaves_the_map_of_the_masks_so_far(self):
        ticks = iter(range(1000))
        found, _ = self.explain(deadline=Deadline(60, lambda: float(next(ticks))))
        assert found.deadline_hit
        assert 1 < found.masks_used < 300
        assert torch.isfinite(found.map_PP).all()
