# ruff: noqa: S101
"""Contract suites of explanation algorithms: what every row of the catalogue promises.

Subclass `AlgorithmContract` for an algorithm of classifiers, or `DetectorAlgorithmContract` for one of detectors, in a
test file and override its fixtures:

    class TestMine(AlgorithmContract):
        @pytest.fixture
        def algorithm(self) -> str: return "mine"

        @pytest.fixture
        def make_context(self) -> ContextMaker: ...
"""

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image

from clearsight.catalogue.algorithms import ALGORITHMS, PARAMETERS
from clearsight.errors import BadRequest
from clearsight.fields import Integer, Number, OneOf, Truth
from clearsight.handlers.explain.algorithms.context import ExplainContext
from clearsight.handlers.explain.algorithms.run import compute_attributions
from clearsight.handlers.explain.deadline import Deadline, OutOfTime
from clearsight.handlers.explain.objects.explainer import ObjectExplainer, ObjectExplainTask
from clearsight.handlers.explain.options import ExplainOptions

__all__ = ["AlgorithmContract", "ContextMaker", "DetectorAlgorithmContract", "ExplainerMaker", "TaskMaker"]

ContextMaker = Callable[[dict[str, Any]], ExplainContext]
"""Makes the context of one image from the keys of `xai_parameters`: a network that the algorithm explains, at least two
targets, and no deadline."""

TaskMaker = Callable[[dict[str, Any]], ObjectExplainTask]
"""Makes the task of one image from the keys of `xai_parameters`: an image in which at least two objects are chosen."""

ExplainerMaker = Callable[[ExplainOptions], ObjectExplainer]
"""Makes the explainer of the detector that found those objects."""

_COMPLETENESS_STEPS = 50
_COMPLETENESS_TOLERANCE = 0.01
"""Largest |sum of the map - score difference| over the sum of absolute values, at 50 midpoints of a smooth network."""


@dataclass(frozen=True, slots=True)
class _Map:
    """The map of one target or object, and whether less was computed than asked for."""

    values: npt.NDArray[np.float32]
    is_degraded: bool


@dataclass(frozen=True, slots=True)
class _Run:
    """What is asked for beside the keys of `xai_parameters`."""

    value: float | None = None
    """Makes every pixel of the image equal: 1 is the brightest, -1 the darkest; None leaves the image as it is."""
    deadline: Deadline | None = None
    may_degrade: bool = True


_Explain = Callable[[dict[str, Any], _Run], list[_Map]]


class _EveryAlgorithmContract:
    """What algorithms of classifiers and of detectors both keep."""

    @pytest.fixture
    def algorithm(self) -> str:
        """Name of the row under test."""
        raise NotImplementedError

    @pytest.fixture
    def explain(self) -> _Explain:
        """Explains the image."""
        raise NotImplementedError

    def test_the_same_request_gives_the_same_bits(self, explain: _Explain) -> None:
        assert _bits(explain({}, _Run())) == _bits(explain({}, _Run()))

    @pytest.mark.parametrize("value", [-1.0, 0.0, 1.0])
    def test_an_image_of_one_colour_has_a_finite_map(self, explain: _Explain, value: float) -> None:
        assert all(np.isfinite(found.values).all() for found in explain({"details": True}, _Run(value=value)))

    def test_keys_that_the_row_does_not_list_change_nothing(self, algorithm: str, explain: _Explain) -> None:
        row = ALGORITHMS[algorithm]
        unread = {key: _other_value(key) for key in PARAMETERS if key not in row.parameters}
        unread = {key: value for key, value in unread.items() if value is not None}
        assert unread
        assert _bits(explain(unread, _Run())) == _bits(explain({}, _Run()))

    def test_after_the_deadline_there_is_a_whole_map_a_marked_one_or_an_error(self, explain: _Explain) -> None:
        """A cheap algorithm may finish late; one that stops says so in every map, or raises `OutOfTime`."""
        whole = _bits(explain({}, _Run()))
        for may_degrade in (True, False):
            try:
                found = explain({}, _Run(deadline=_ended(), may_degrade=may_degrade))
            except OutOfTime as error:
                assert error.status == 408  # noqa: PT017  other outcomes are allowed too
                continue
            assert found
            assert _bits(found) == whole or (may_degrade and all(one.is_degraded for one in found))
            assert all(np.isfinite(one.values).all() for one in found)


class AlgorithmContract(_EveryAlgorithmContract):
    """Tests that an algorithm of classifiers keeps what its row says."""

    @pytest.fixture
    def make_context(self, algorithm: str) -> ContextMaker:
        """A `ContextMaker` for the algorithm."""
        raise NotImplementedError

    @pytest.fixture
    def explain(self, make_context: ContextMaker) -> _Explain:
        def explain(document: dict[str, Any], run: _Run) -> list[_Map]:
            context = make_context(document)
            x_13PP = context.x_13PP if run.value is None else torch.full_like(context.x_13PP, run.value)
            deadline = run.deadline or context.deadline
            found = compute_attributions(
                replace(context, x_13PP=x_13PP, deadline=deadline, may_degrade=run.may_degrade)
            )
            return [_Map(one.values, one.degraded and one.deadline_hit) for one in found]

        return explain

    def test_there_is_one_finite_map_per_target_of_the_shape_in_the_row(
        self, algorithm: str, make_context: ContextMaker
    ) -> None:
        row, context = ALGORITHMS[algorithm], make_context({})
        found = compute_attributions(context)
        assert len(found) == len(context.targets)
        side = tuple(context.x_13PP.shape[-2:])
        for attribution in found:
            assert attribution.values.dtype == np.float32
            assert attribution.values.shape == ((3, *side) if row.has_channels else side)
            assert np.isfinite(attribution.values).all()
            assert row.is_signed or attribution.values.min() >= 0
            assert not attribution.degraded
            assert not attribution.deadline_hit

    def test_a_complete_map_adds_up_to_the_score_difference(self, algorithm: str, make_context: ContextMaker) -> None:
        if not ALGORITHMS[algorithm].is_complete:
            pytest.skip("the row does not promise it")
        context = make_context({"n_steps": _COMPLETENESS_STEPS, "baseline": "mean"})
        model = context.differentiable_model()
        for target, attribution in zip(context.targets, compute_attributions(context), strict=True):
            score = model.score_of(target.class_id, target.contrast_id)
            both_N = score(torch.cat([context.x_13PP, torch.zeros_like(context.x_13PP)])).double()
            delta = abs(float(attribution.values.sum(dtype=np.float64)) - float(both_N[0] - both_N[1]))
            assert delta <= _COMPLETENESS_TOLERANCE * float(np.abs(attribution.values).sum(dtype=np.float64))

    def test_only_black_boxes_work_without_the_eager_network(self, algorithm: str, make_context: ContextMaker) -> None:
        context = replace(make_context({}), model=None)
        if ALGORITHMS[algorithm].is_black_box:
            assert all(prod(attribution.values.shape) for attribution in compute_attributions(context))
        else:
            with pytest.raises(BadRequest, match="use 'rise'"):
                compute_attributions(context)


class DetectorAlgorithmContract(_EveryAlgorithmContract):
    """Tests that an algorithm of detectors keeps what its row says."""

    @pytest.fixture
    def make_task(self, algorithm: str) -> TaskMaker:
        """A `TaskMaker` for the algorithm."""
        raise NotImplementedError

    @pytest.fixture
    def make_explainer(self) -> ExplainerMaker:
        """An `ExplainerMaker`, with the eager network unless the algorithm does without it."""
        raise NotImplementedError

    @pytest.fixture
    def explain(self, make_task: TaskMaker, make_explainer: ExplainerMaker) -> _Explain:
        def explain(document: dict[str, Any], run: _Run) -> list[_Map]:
            explain_task = make_task({"visualizations": False, **document})
            if run.value is not None:
                explain_task = replace(explain_task, image=_of_one_colour(explain_task.image, run.value))
            explainer = make_explainer(ExplainOptions(allow_degradation=run.may_degrade))
            found = explainer.explain(explain_task, run.deadline or Deadline(None))
            return [_Map(one.numbers, one.details.degraded) for one in found]

        return explain

    def test_there_is_one_finite_map_per_chosen_object_in_their_order(
        self, algorithm: str, make_task: TaskMaker, make_explainer: ExplainerMaker
    ) -> None:
        row, explain_task = ALGORITHMS[algorithm], make_task({})
        explainer = make_explainer(ExplainOptions())
        assert explainer.can(algorithm)
        found = explainer.explain(explain_task, Deadline(None))
        assert tuple(one.index for one in found) == explain_task.choice.indices
        assert len({one.numbers.shape for one in found}) == 1
        for one in found:
            thing = explain_task.objects[one.index]
            assert (one.details.algorithm, one.details.target) == (algorithm, row.targets[0])
            assert (one.details.label, one.details.probability) == (thing.label, thing.score)
            assert one.numbers.dtype == np.float32
            assert one.numbers.size == explain_task.num_cells
            assert np.isfinite(one.numbers).all()
            assert row.is_signed or one.numbers.min() >= 0
            assert one.image
            assert not one.details.degraded

    def test_boxes_are_explained_by_each_target_of_the_row(self, algorithm: str, explain: _Explain) -> None:
        """All but masks, which not every detector has."""
        for target in ALGORITHMS[algorithm].targets:
            if target != "mask":
                assert all(np.isfinite(one.values).all() for one in explain({"target": target}, _Run()))

    def test_no_chosen_object_is_no_map(self, explain: _Explain) -> None:
        assert explain({"detections": []}, _Run()) == []


def _bits(found: Sequence[_Map]) -> list[bytes]:
    return [one.values.tobytes() for one in found]


def _of_one_colour(image: bytes, value: float) -> bytes:
    """A PNG of the size of an image file; -1 is black, 1 white."""
    with Image.open(io.BytesIO(image)) as opened:
        plain = Image.new("RGB", opened.size, (round(127.5 * (value + 1)),) * 3)
    stream = io.BytesIO()
    plain.save(stream, "PNG")
    return stream.getvalue()


def _ended() -> Deadline:
    """A deadline of one second that is over; its clock stands still."""
    times = iter([0.0])
    return Deadline(1.0, lambda: next(times, 2.0))


def _other_value(key: str) -> Any:
    """A legal value of a key that is not its default; None for keys of labels and boxes, which depend on the model."""
    row = PARAMETERS[key]
    match row.rule:
        case Truth():
            return not row.default
        case OneOf(members):
            return next(value for value in members if value != row.default)
        case Integer(int(low)):
            return low if row.default != low else low + 1
        case Number(low=int(low)):
            return low + 0.25
    return None
