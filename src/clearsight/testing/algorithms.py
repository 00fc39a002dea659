# ruff: noqa: S101
"""Contract suite of an explanation algorithm of a classifier: what every row of the catalogue promises.

Subclass `AlgorithmContract` in a test file and override the two fixtures:

    class TestMine(AlgorithmContract):
        @pytest.fixture
        def algorithm(self) -> str: return "mine"

        @pytest.fixture
        def make_context(self) -> ContextMaker: ...
"""

from collections.abc import Callable
from dataclasses import replace
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from clearsight.catalogue.algorithms import ALGORITHMS, PARAMETERS
from clearsight.errors import BadRequest
from clearsight.fields import Integer, Number, OneOf, Truth
from clearsight.handlers.explain.algorithms.context import Attribution, ExplainContext
from clearsight.handlers.explain.algorithms.run import compute_attributions
from clearsight.handlers.explain.deadline import Deadline, OutOfTime

__all__ = ["AlgorithmContract", "ContextMaker"]

ContextMaker = Callable[[dict[str, Any]], ExplainContext]
"""Makes the context of one image from the keys of `xai_parameters`: a network that the algorithm explains, at least two
targets, and no deadline."""

_COMPLETENESS_STEPS = 50
_COMPLETENESS_TOLERANCE = 0.01
"""Largest |sum of the map - score difference| over the sum of absolute values, at 50 midpoints of a smooth network."""


class AlgorithmContract:
    """Tests that an algorithm keeps what its row says."""

    @pytest.fixture
    def algorithm(self) -> str:
        """Name of the row under test."""
        raise NotImplementedError

    @pytest.fixture
    def make_context(self, algorithm: str) -> ContextMaker:
        """A `ContextMaker` for the algorithm."""
        raise NotImplementedError

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

    def test_the_same_request_gives_the_same_bits(self, make_context: ContextMaker) -> None:
        assert _bits(compute_attributions(make_context({}))) == _bits(compute_attributions(make_context({})))

    @pytest.mark.parametrize("value", [-1.0, 0.0, 1.0])
    def test_an_image_of_one_colour_has_a_finite_map(self, make_context: ContextMaker, value: float) -> None:
        context = make_context({"details": True})
        context = replace(context, x_13PP=torch.full_like(context.x_13PP, value))
        for attribution in compute_attributions(context):
            assert np.isfinite(attribution.values).all()

    def test_keys_that_the_row_does_not_list_change_nothing(self, algorithm: str, make_context: ContextMaker) -> None:
        row = ALGORITHMS[algorithm]
        unread = {key: _other_value(key) for key in PARAMETERS if key not in row.parameters}
        unread = {key: value for key, value in unread.items() if value is not None}
        assert unread
        assert _bits(compute_attributions(make_context(unread))) == _bits(compute_attributions(make_context({})))

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

    def test_after_the_deadline_there_is_a_whole_map_a_marked_one_or_an_error(self, make_context: ContextMaker) -> None:
        """A cheap algorithm may finish late; one that stops says so in every attribution, or raises `OutOfTime`."""
        whole = _bits(compute_attributions(make_context({})))
        for may_degrade in (True, False):
            context = replace(make_context({}), deadline=_ended(), may_degrade=may_degrade)
            try:
                found = compute_attributions(context)
            except OutOfTime as error:
                assert error.status == 408  # noqa: PT017  other outcomes are allowed too
                continue
            is_marked = all(attribution.degraded and attribution.deadline_hit for attribution in found)
            assert _bits(found) == whole or (is_marked and may_degrade)
            assert all(np.isfinite(attribution.values).all() for attribution in found)


def _bits(found: tuple[Attribution, ...]) -> list[bytes]:
    return [_bytes(attribution.values) for attribution in found]


def _bytes(values: npt.NDArray[np.float32]) -> bytes:
    return values.tobytes()


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
