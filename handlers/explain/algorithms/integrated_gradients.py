"""Integrated gradients (arXiv 1703.01365): gradients added up on the straight path from a baseline to the image.

B baselines, K explained labels, N points, P pixels.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch

from clearsight.catalogue.algorithms import Method
from clearsight.handlers.explain.deadline import Deadline
from clearsight.handlers.explain.network.functions import DEFAULT_CHUNK, Gradient, Gradients, Score, in_chunks
from clearsight.handlers.explain.telemetry import checkpoint

__all__ = [
    "MIN_STEPS",
    "Convergence",
    "IgResult",
    "StepGoal",
    "convergence",
    "integrated_gradients",
    "integrated_gradients_of_labels",
]

MIN_STEPS: Final = 8
"""Least number of steps of a useful map (midpoint rule on ReLU networks: 5 % off the limit at 8 steps)."""

_FACTORS: Final[dict[Method, int]] = {"riemann_middle": 3, "gausslegendre": 2}
"""By which the number of steps grows in a refinement: every third of three times as many midpoints is an old one."""

_PROBING_SHARE: Final = 0.05
"""Largest share of the time limit that may be spent on measuring how long a step takes."""


_GOAL_OF_RISE: Final = 0.02
_GOAL_OF_SCORE: Final = 0.01

_GOAL_TIME_SHARE: Final = 0.7
"""Largest share of the time left that a further refinement may be expected to take."""


@dataclass(frozen=True, slots=True)
class IgResult:
    """A map and how it was computed."""

    attribution: torch.Tensor
    """(3, P, P) on the CPU, in the type of the image."""
    n_steps_used: int
    """Per baseline."""
    deadline_hit: bool
    """Whether the time did not suffice for all steps."""


@dataclass(frozen=True, slots=True)
class Convergence:
    """How much the sum of a map differs from the score that it explains."""

    delta: float
    """Sum of the map minus the rise of the score from the baseline to the image."""
    relative_delta: float
    """|delta| over the sum of the map's absolute values."""
    rise: float
    """Score of the image minus the mean score of the baselines."""

    @property
    def delta_over_rise(self) -> float | None:
        """The part of the rise that the map misses; None when there is no rise.

        Values of both signs cancel in a map, so that this is many times `relative_delta`.
        """
        return abs(self.delta / self.rise) if self.rise else None

    @property
    def adds_up(self) -> bool:
        """Whether the map misses at most 2 % of the rise, or 0.01 of the score, by which the odds change by 1 %."""
        return abs(self.delta) <= _allowed(self.rise)


@dataclass(frozen=True, slots=True)
class StepGoal:
    """When the number of steps suffices: every map adds up to the rise of its score (`Convergence.adds_up`)."""

    rises_K: Sequence[float]
    """Of each label, the score of the image minus the mean score of the baselines."""
    max_steps: int
    """Largest number of steps that may be taken."""

    def is_met(self, maps: Sequence[torch.Tensor]) -> bool:
        pairs = zip(maps, self.rises_K, strict=True)
        return all(abs(float(map_3PP.double().sum()) - rise) <= _allowed(rise) for map_3PP, rise in pairs)


def _allowed(rise: float) -> float:
    """Largest difference between the sum of a map and the rise that it explains, in units of the score."""
    return max(_GOAL_OF_RISE * abs(rise), _GOAL_OF_SCORE)


def integrated_gradients(
    gradient: Gradient,
    x: torch.Tensor,
    baseline: torch.Tensor,
    n_steps: int,
    method: Method,
    deadline: Deadline,
    chunk: int = DEFAULT_CHUNK,
    convergence_tolerance: float | None = None,
) -> IgResult:
    """Explain one score as `integrated_gradients_of_labels` explains several."""
    (result,) = integrated_gradients_of_labels(
        lambda points: [gradient(points)], x, baseline, n_steps, method, deadline, chunk, convergence_tolerance
    )
    return result


def integrated_gradients_of_labels(
    gradients: Gradients,
    x: torch.Tensor,
    baseline: torch.Tensor,
    n_steps: int,
    method: Method,
    deadline: Deadline,
    chunk: int = DEFAULT_CHUNK,
    convergence_tolerance: float | None = None,
    least_steps: int = MIN_STEPS,
    goal: StepGoal | None = None,
) -> tuple[IgResult, ...]:
    """Explain the image `x`, (1, 3, P, P), from `baseline`, (B, 3, P, P); the maps of several baselines are averaged.

    `n_steps` (at least 2) is per baseline. With a `convergence_tolerance` t, 8 steps are followed by three times as
    many (Gauss-Legendre: twice as many, from the start) until no map changes by more than t of its L2 norm, or
    `n_steps` is reached. With a `goal`, `n_steps` are followed by three times (twice) as many in the same way, until
    it is met or the next number would be too large or is expected to take most of the time left.

    The time of the first evaluation gives the number of steps that fit into the deadline. If it is too small, the
    fastest of several evaluations counts, since the first one of a network is slow; these take at most a twentieth of
    the time limit. If not all steps fit, the map is computed with fewer. If fewer than `least_steps` fit, the
    computation ends, so that the caller can use the time left for a cheaper algorithm. The order of the steps is
    spread over the whole path: where the deadline ends the computation, the sum is coarser but covers the path evenly.
    """
    integral = _PathIntegral(gradients, x, baseline, deadline, chunk)
    sizes = _numbers_of_steps(n_steps, method, convergence_tolerance)
    rule = _rule(sizes[0], method)
    affordable = integral.probe(rule, sizes[-1])
    if affordable < min(least_steps, n_steps):
        return integral.results(deadline_hit=True)
    is_cut_short = affordable < sizes[-1]
    sizes = [size for size in sizes if size <= affordable] or [affordable]
    if rule.n_steps != sizes[0] or integral.num_done > 1:  # start anew: the order of the sums decides their last bits
        rule = _rule(sizes[0], method)
        integral = _PathIntegral(gradients, x, baseline, deadline, chunk)

    started_s = deadline.elapsed_s()
    finished = integral.evaluate(rule)
    if goal is not None and finished and not is_cut_short:
        seconds_each = (deadline.elapsed_s() - started_s) / (sizes[0] * len(baseline))
        integral = _refine_until(goal, integral, sizes[0], method, deadline, seconds_each)
    for size in sizes[1:]:
        if not finished:
            break
        before = integral
        integral, rule = before.refined(size, method)
        finished = integral.evaluate(rule)
        if not finished and method == "gausslegendre":  # a part of the finer rule is worse than the coarser rule
            integral = before
        elif convergence_tolerance is None or integral.change_from(before) <= convergence_tolerance:
            is_cut_short = False
            break
    return integral.results(deadline_hit=is_cut_short or not finished)


def _refine_until(
    goal: StepGoal, integral: "_PathIntegral", n_steps: int, method: Method, deadline: Deadline, seconds_each: float
) -> "_PathIntegral":
    """The integral with as many steps as the goal needs; `seconds_each` is the time of one step from one baseline."""
    while not goal.is_met(integral.maps()):
        finer, rule = integral.refined(_FACTORS[method] * n_steps, method)
        n_steps *= _FACTORS[method]
        expected_s = seconds_each * len(rule.alphas) * integral.num_baselines
        is_affordable = deadline.seconds is None or expected_s <= _GOAL_TIME_SHARE * deadline.remaining_s()
        if n_steps > goal.max_steps or not is_affordable or not finer.evaluate(rule):
            break
        integral = finer
    return integral


def convergence(score: Score, x: torch.Tensor, baseline: torch.Tensor, attribution: torch.Tensor) -> Convergence:
    """Compare the sum of a map with the difference of the scores at both ends of the path."""
    with torch.no_grad():
        scores = score(torch.cat([x, baseline])).double().cpu()
    rise = float(scores[0] - scores[1:].mean())
    delta = float(attribution.double().sum()) - rise
    total = float(attribution.double().abs().sum())
    return Convergence(delta, abs(delta) / total if total > 0 else 0.0, rise)


@dataclass(frozen=True, slots=True)
class _Rule:
    """A quadrature rule: points on [0, 1] and their weights, in the order of evaluation."""

    n_steps: int
    alphas: list[float]
    weights: list[float]


def _rule(n_steps: int, method: Method) -> _Rule:
    if method == "gausslegendre":
        nodes, weights = np.polynomial.legendre.leggauss(n_steps)
        alphas, weights = (nodes + 1) / 2, weights / 2
    else:
        alphas, weights = (np.arange(n_steps) + 0.5) / n_steps, np.ones(n_steps)
    order = _spread(n_steps)
    return _Rule(n_steps, alphas[order].tolist(), weights[order].tolist())


def _tripled(n_steps: int) -> _Rule:
    """The midpoints of `n_steps` intervals that are not midpoints of a third as many intervals."""
    alphas = [(index + 0.5) / n_steps for index in _spread(n_steps) if index % 3 != 1]
    return _Rule(n_steps, alphas, [1.0] * len(alphas))


def _spread(count: int) -> list[int]:
    """0 to count - 1 in an order whose every beginning is spread evenly: by reversed bits (van der Corput)."""
    num_bits = (count - 1).bit_length()
    reversed_bits = (int(f"{index:0{num_bits}b}"[::-1], 2) for index in range(2**num_bits))
    return [index for index in reversed_bits if index < count]


def _numbers_of_steps(n_steps: int, method: Method, convergence_tolerance: float | None) -> list[int]:
    """The numbers of steps to try in turn until the map no longer changes."""
    if convergence_tolerance is None or n_steps < MIN_STEPS:
        return [n_steps]
    sizes = [MIN_STEPS]
    while sizes[-1] * _FACTORS[method] <= n_steps:
        sizes.append(sizes[-1] * _FACTORS[method])
    return sizes


def _affordable(seconds_each: float, deadline: Deadline, num_baselines: int) -> int:
    """The number of steps per baseline that fit into the time left."""
    if deadline.seconds is None or seconds_each <= 0:
        return sys.maxsize
    return int(deadline.remaining_s() / seconds_each) // num_baselines


class _PathIntegral:
    """The sum, in float64, of the weighted gradients evaluated so far on the paths from B baselines to one image."""

    def __init__(
        self, gradients: Gradients, x: torch.Tensor, baseline: torch.Tensor, deadline: Deadline, chunk: int
    ) -> None:
        self._gradients = gradients
        self._x = x
        self._baseline = baseline
        self._deadline = deadline
        self._chunk = chunk
        self._sums_KB3PP: list[list[torch.Tensor]] = []
        self._weights_B = [0.0] * len(baseline)
        self._num_evaluations = 0
        self.num_done = 0  # evaluations of the current rule

    @property
    def num_baselines(self) -> int:
        return len(self._baseline)

    def probe(self, rule: _Rule, wanted: int) -> int:
        """Evaluate the first point of a rule, more if `wanted` steps seem too many; return how many steps fit."""
        enough_s = _PROBING_SHARE * (self._deadline.seconds or 0)
        start_s = before_s = self._deadline.elapsed_s()
        quickest_s = float("inf")
        while True:
            self._evaluate(rule, self.num_done, self.num_done + 1)
            now_s = self._deadline.elapsed_s()
            quickest_s = min(quickest_s, now_s - before_s)
            affordable = _affordable(quickest_s, self._deadline, len(self._baseline))
            is_last = self.num_done == len(rule.alphas) * len(self._baseline)
            if affordable >= wanted or is_last or now_s - start_s >= enough_s:
                return affordable
            checkpoint()
            before_s = self._deadline.elapsed_s()  # the checkpoint may wait, which is no time of the network

    def evaluate(self, rule: _Rule) -> bool:
        """Evaluate the remaining points of a rule; return whether all were done before the deadline."""
        first = self.num_done
        left = len(rule.alphas) * len(self._baseline) - first
        done = in_chunks(
            lambda start, stop: self._evaluate(rule, first + start, first + stop), left, self._deadline, self._chunk
        )
        return done == left

    def refined(self, n_steps: int, method: Method) -> "tuple[_PathIntegral, _Rule]":
        """The integral and the rule to continue with: midpoints keep their sums, all nodes of Gauss-Legendre move."""
        integral = _PathIntegral(self._gradients, self._x, self._baseline, self._deadline, self._chunk)
        if method == "gausslegendre":
            return integral, _rule(n_steps, method)
        integral._sums_KB3PP = [[sums.clone() for sums in sums_B3PP] for sums_B3PP in self._sums_KB3PP]
        integral._weights_B = list(self._weights_B)
        integral._num_evaluations = self._num_evaluations
        return integral, _tripled(n_steps)

    def results(self, *, deadline_hit: bool) -> tuple[IgResult, ...]:
        n_steps_used = max(1, self._num_evaluations // len(self._baseline))
        return tuple(IgResult(map_3PP, n_steps_used, deadline_hit) for map_3PP in self.maps())

    def change_from(self, other: "_PathIntegral") -> float:
        """The largest relative L2 difference between the maps of two integrals."""
        pairs = zip(self.maps(), other.maps(), strict=True)
        return max(float((ours - theirs).norm() / ours.norm().clamp(min=1e-30)) for ours, theirs in pairs)

    def maps(self) -> list[torch.Tensor]:
        """One map (3, P, P) per label."""
        started = [index for index, weight in enumerate(self._weights_B) if weight > 0]
        maps = []
        for sums_B3PP in self._sums_KB3PP:
            parts = [
                (self._x[0] - self._baseline[index]).double() * (sums_B3PP[index] / self._weights_B[index])
                for index in started
            ]
            maps.append((sum(parts[1:], parts[0]) / len(parts)).to(self._x.dtype).cpu())
        return maps

    def _evaluate(self, rule: _Rule, start: int, stop: int) -> None:
        """Add the evaluations from `start` to `stop`; evaluation e is step e // B on the path from baseline e % B."""
        at = [divmod(evaluation, len(self._baseline)) for evaluation in range(start, stop)]
        points_N3PP = torch.stack(
            [self._baseline[b] + rule.alphas[step] * (self._x[0] - self._baseline[b]) for step, b in at]
        )
        found_KN3PP = self._gradients(points_N3PP)
        if not self._sums_KB3PP:
            self._sums_KB3PP = [
                [torch.zeros_like(self._x[0], dtype=torch.float64) for _ in self._baseline] for _ in found_KN3PP
            ]
        for sums_B3PP, gradients_N3PP in zip(self._sums_KB3PP, found_KN3PP, strict=True):
            for (step, b), gradient_3PP in zip(at, gradients_N3PP, strict=True):
                sums_B3PP[b] += rule.weights[step] * gradient_3PP.double()
        for step, b in at:
            self._weights_B[b] += rule.weights[step]
        self._num_evaluations += stop - start
        self.num_done += stop - start
