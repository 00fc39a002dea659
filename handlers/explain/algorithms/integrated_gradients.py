"""Integrated gradients (arXiv 1703.01365): gradients added up on the straight way from a baseline to the image.

B baselines, K explained labels, N points, P pixels.
"""

import sys
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
    "convergence",
    "integrated_gradients",
    "integrated_gradients_of_labels",
]

MIN_STEPS: Final = 8
"""Fewer steps make no map worth showing (midpoint rule on ReLU networks: 5 % off the limit at 8 steps)."""

_PROBING_SHARE: Final = 0.05
"""How much of the time may go by before another look at what a step takes is one too many."""


@dataclass(frozen=True, slots=True)
class IgResult:
    """A map and how it came about."""

    attribution: torch.Tensor
    """(3, P, P) on the CPU, in the type of the image."""
    n_steps_used: int
    """Per baseline."""
    deadline_hit: bool
    """Whether there was no time for all the steps."""


@dataclass(frozen=True, slots=True)
class Convergence:
    """How far a map is from adding up to the score that it explains."""

    delta: float
    """Sum of the map, less what the score rises from the baseline to the image."""
    relative_delta: float
    """|delta| over the sum of the map's absolute values: the parts of both signs cancel, so that the rise itself may be
    small by accident."""


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
    """The same as `integrated_gradients_of_labels`, for one score."""
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
) -> tuple[IgResult, ...]:
    """Explain the image `x`, (1, 3, P, P), from `baseline`, (B, 3, P, P); the maps of several are averaged.

    `n_steps` (at least 2) is per baseline. `convergence_tolerance` t stops earlier: 8 steps, then three times as many
    (Gauss-Legendre: twice, starting anew), never more than `n_steps`, while one of the maps still changes by more than
    t of its L2 norm.

    The first evaluation tells how many steps fit into the deadline; where it says too few, the quickest of those that
    a twentieth of the time suffices for, since a first pass and a moment of a busy processor are slow. When not all
    fit, the map is made with so many as do. When fewer than `least_steps` fit it ends there, so that the caller can do
    something cheaper with the time left. Steps are taken spread over the whole way, so that what there is when the
    deadline comes after all is an even, coarser sum.
    """
    walk = _Walk(gradients, x, baseline, deadline, chunk)
    sizes = _sizes(n_steps, method, convergence_tolerance)
    rule = _rule(sizes[0], method)
    affordable = walk.probe(rule, sizes[-1])
    if affordable < min(least_steps, n_steps):
        return walk.results(deadline_hit=True)
    hurried = affordable < sizes[-1]
    sizes = [size for size in sizes if size <= affordable] or [affordable]
    if rule.n_steps != sizes[0] or walk.num_taken > 1:  # else sums would be in another order, for other last bits
        rule = _rule(sizes[0], method)
        walk = _Walk(gradients, x, baseline, deadline, chunk)

    finished = walk.take(rule)
    for size in sizes[1:]:
        if not finished:
            break
        before = walk
        walk, rule = before.refined(size, method)
        finished = walk.take(rule)
        if not finished and method == "gausslegendre":  # the start of the finer rule is worth less than the coarser
            walk = before
        elif convergence_tolerance is None or walk.change_from(before) <= convergence_tolerance:
            hurried = False
            break
    return walk.results(deadline_hit=hurried or not finished)


def convergence(score: Score, x: torch.Tensor, baseline: torch.Tensor, attribution: torch.Tensor) -> Convergence:
    """Check a map of integrated gradients against the score at both ends of the way."""
    with torch.no_grad():
        scores = score(torch.cat([x, baseline])).double().cpu()
    delta = float(attribution.double().sum() - (scores[0] - scores[1:].mean()))
    total = float(attribution.double().abs().sum())
    return Convergence(delta, abs(delta) / total if total > 0 else 0.0)


@dataclass(frozen=True, slots=True)
class _Rule:
    """Points on [0, 1] and their weights, in the order in which to visit them."""

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
    """Those midpoints of `n_steps` intervals that are no midpoints of a third as many."""
    alphas = [(index + 0.5) / n_steps for index in _spread(n_steps) if index % 3 != 1]
    return _Rule(n_steps, alphas, [1.0] * len(alphas))


def _spread(count: int) -> list[int]:
    """0 to count - 1, so ordered that the first ones of any number lie evenly: bits reversed (van der Corput)."""
    num_bits = (count - 1).bit_length()
    reversed_bits = (int(f"{index:0{num_bits}b}"[::-1], 2) for index in range(2**num_bits))
    return [index for index in reversed_bits if index < count]


def _sizes(n_steps: int, method: Method, convergence_tolerance: float | None) -> list[int]:
    """How many steps to take, and how many after that if the map still changes."""
    if convergence_tolerance is None or n_steps < MIN_STEPS:
        return [n_steps]
    sizes = [MIN_STEPS]
    factor = 2 if method == "gausslegendre" else 3
    while sizes[-1] * factor <= n_steps:
        sizes.append(sizes[-1] * factor)
    return sizes


def _affordable(seconds_each: float, deadline: Deadline, num_baselines: int) -> int:
    """How many steps the rest of the time is good for."""
    if deadline.seconds is None or seconds_each <= 0:
        return sys.maxsize
    return int(deadline.remaining_s() / seconds_each) // num_baselines


class _Walk:
    """The weighted gradients seen so far on the ways from B baselines to one image, summed up in float64."""

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
        self.num_taken = 0  # evaluations of the present rule

    def probe(self, rule: _Rule, wanted: int) -> int:
        """Evaluate the first point of a rule, some more when `wanted` steps seem too many; give how many fit."""
        enough_s = _PROBING_SHARE * (self._deadline.seconds or 0)
        start_s = before_s = self._deadline.elapsed_s()
        quickest_s = float("inf")
        while True:
            self._evaluate(rule, self.num_taken, self.num_taken + 1)
            now_s = self._deadline.elapsed_s()
            quickest_s = min(quickest_s, now_s - before_s)
            affordable = _affordable(quickest_s, self._deadline, len(self._baseline))
            is_last = self.num_taken == len(rule.alphas) * len(self._baseline)
            if affordable >= wanted or is_last or now_s - start_s >= enough_s:
                return affordable
            checkpoint()
            before_s = self._deadline.elapsed_s()  # a wait there tells nothing of the network

    def take(self, rule: _Rule) -> bool:
        """Evaluate what is left of a rule; give whether all of it was done before the deadline."""
        first = self.num_taken
        left = len(rule.alphas) * len(self._baseline) - first
        done = in_chunks(
            lambda start, stop: self._evaluate(rule, first + start, first + stop), left, self._deadline, self._chunk
        )
        return done == left

    def refined(self, n_steps: int, method: Method) -> "tuple[_Walk, _Rule]":
        """Where a finer rule goes on: midpoints keep their sums, the nodes of Gauss-Legendre all move."""
        walk = _Walk(self._gradients, self._x, self._baseline, self._deadline, self._chunk)
        if method == "gausslegendre":
            return walk, _rule(n_steps, method)
        walk._sums_KB3PP = [[sums.clone() for sums in sums_B3PP] for sums_B3PP in self._sums_KB3PP]
        walk._weights_B = list(self._weights_B)
        walk._num_evaluations = self._num_evaluations
        return walk, _tripled(n_steps)

    def results(self, *, deadline_hit: bool) -> tuple[IgResult, ...]:
        n_steps_used = max(1, self._num_evaluations // len(self._baseline))
        return tuple(IgResult(map_3PP, n_steps_used, deadline_hit) for map_3PP in self._maps())

    def change_from(self, other: "_Walk") -> float:
        """The largest relative L2 difference between the maps of two walks."""
        pairs = zip(self._maps(), other._maps(), strict=True)
        return max(float((ours - theirs).norm() / ours.norm().clamp(min=1e-30)) for ours, theirs in pairs)

    def _maps(self) -> list[torch.Tensor]:
        """Give (3, P, P) for each label."""
        seen = [index for index, weight in enumerate(self._weights_B) if weight > 0]
        maps = []
        for sums_B3PP in self._sums_KB3PP:
            parts = [
                (self._x[0] - self._baseline[index]).double() * (sums_B3PP[index] / self._weights_B[index])
                for index in seen
            ]
            maps.append((sum(parts[1:], parts[0]) / len(parts)).to(self._x.dtype).cpu())
        return maps

    def _evaluate(self, rule: _Rule, start: int, stop: int) -> None:
        """Evaluation e is step e // B on the way from baseline e % B."""
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
        self.num_taken += stop - start
