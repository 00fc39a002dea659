"""Integrated gradients of functions whose integrals are known."""

import numpy as np
import pytest
import torch

from clearsight.handlers.explain.algorithms.integrated_gradients import (
    Convergence,
    StepGoal,
    convergence,
    integrated_gradients,
    integrated_gradients_of_labels,
)
from clearsight.handlers.explain.algorithms.integrated_gradients_family import baselines_for
from clearsight.handlers.explain.deadline import Deadline
from clearsight.handlers.explain.telemetry import watched

METHODS = ("riemann_middle", "gausslegendre")
UNHURRIED = Deadline(None)


class Clock:
    """A clock that the test moves."""

    def __init__(self):
        self.now_s = 0.0

    def __call__(self):
        return self.now_s


def image(*pixels):
    """An image of one row with these first pixels; the others are 0."""
    x = torch.zeros(1, 3, 1, max(4, len(pixels)), dtype=torch.float64)
    x[0, 0, 0, : len(pixels)] = torch.tensor(pixels)
    return x


def gradient_of(function):
    def gradient(points):
        with torch.enable_grad():
            points = points.detach().requires_grad_()
            return torch.autograd.grad(function(points).sum(), points)[0]

    return gradient


def product(points):
    return points[:, 0, 0, 0] * points[:, 0, 0, 1]


def cube(points):
    return points[:, 0, 0, 0] ** 3


def tanh_net(points):
    generator = torch.Generator().manual_seed(2)
    first = torch.randn(12, 6, generator=generator, dtype=torch.float64)
    second = torch.randn(6, generator=generator, dtype=torch.float64)
    return torch.tanh(points.flatten(1) @ first / 3) @ second


TANH_IMAGE = image(0.9, -0.4, 0.7, 0.2)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("n_steps", [2, 3, 50])
def test_a_product_is_shared_evenly(method, n_steps):
    result = integrated_gradients(gradient_of(product), image(3, 5), image(0), n_steps, method, UNHURRIED)
    assert result.attribution[0, 0].tolist() == pytest.approx([7.5, 7.5, 0, 0], abs=1e-9)
    assert result.attribution[1:].abs().max() == 0
    assert result.n_steps_used == n_steps
    assert not result.deadline_hit


@pytest.mark.parametrize(
    ("method", "n_steps", "expected"), [("riemann_middle", 2, 7.5), ("riemann_middle", 50, 7.9992), (METHODS[1], 2, 8)]
)
def test_a_cube_is_integrated_as_well_as_the_rule_can(method, n_steps, expected):
    result = integrated_gradients(gradient_of(cube), image(2), image(0), n_steps, method, UNHURRIED)
    assert float(result.attribution[0, 0, 0]) == pytest.approx(expected, abs=1e-9)


def delta(method, n_steps, baseline=None):
    baseline = torch.zeros_like(TANH_IMAGE) if baseline is None else baseline
    result = integrated_gradients(gradient_of(tanh_net), TANH_IMAGE, baseline, n_steps, method, UNHURRIED)
    return convergence(tanh_net, TANH_IMAGE, baseline, result.attribution)


def test_maps_add_up_to_the_rise_of_a_smooth_score():
    assert abs(delta("gausslegendre", 16).delta) <= 1e-10
    assert delta("gausslegendre", 16).relative_delta <= 1e-10


def test_twice_the_midpoints_leave_a_quarter_of_the_error():
    assert delta("riemann_middle", 16).delta / delta("riemann_middle", 32).delta == pytest.approx(4, rel=0.1)


def test_two_baselines_give_the_mean_of_their_maps_and_add_up_to_the_mean_rise():
    first, second = torch.full_like(TANH_IMAGE, -1), torch.full_like(TANH_IMAGE, 1)
    gradient = gradient_of(tanh_net)
    both = torch.cat([first, second])
    found = integrated_gradients(gradient, TANH_IMAGE, both, 6, "riemann_middle", UNHURRIED, chunk=4)
    each = [integrated_gradients(gradient, TANH_IMAGE, b, 6, "riemann_middle", UNHURRIED) for b in (first, second)]
    torch.testing.assert_close(found.attribution, (each[0].attribution + each[1].attribution) / 2)
    assert found.n_steps_used == 6
    assert abs(delta("gausslegendre", 24, both).delta) <= 1e-8


def test_several_labels_share_the_points():
    num_points = 0

    def gradients(points):
        nonlocal num_points
        num_points += len(points)
        return [gradient_of(product)(points), gradient_of(cube)(points)]

    shared = integrated_gradients_of_labels(gradients, image(3, 5), image(0), 4, "riemann_middle", UNHURRIED)
    assert num_points == 4
    for function, result in zip((product, cube), shared, strict=True):
        alone = integrated_gradients(gradient_of(function), image(3, 5), image(0), 4, "riemann_middle", UNHURRIED)
        assert torch.equal(result.attribution, alone.attribution)


@pytest.mark.parametrize("chunk", [1, 3, 8, 100])
def test_the_size_of_chunks_changes_nothing(chunk):
    maps = [
        integrated_gradients(gradient_of(tanh_net), TANH_IMAGE, image(0), 13, "riemann_middle", UNHURRIED, size)
        for size in (1, chunk)
    ]
    torch.testing.assert_close(maps[0].attribution, maps[1].attribution, rtol=1e-12, atol=1e-14)


def counting(function):
    """The gradient, and the list of the sizes of the chunks that it was asked for."""
    sizes = []

    def gradient(points):
        sizes.append(len(points))
        return gradient_of(function)(points)

    return gradient, sizes


@pytest.mark.parametrize(("tolerance", "n_steps_used"), [(0.9, 24), (1e-3, 24), (1e-6, 72), (1e-12, 72)])
def test_a_tolerance_triples_the_midpoints_and_reuses_the_old_ones(tolerance, n_steps_used):
    gradient, sizes = counting(tanh_net)
    result = integrated_gradients(
        gradient, TANH_IMAGE, image(0), 100, "riemann_middle", UNHURRIED, convergence_tolerance=tolerance
    )
    assert result.n_steps_used == n_steps_used == sum(sizes)
    full = integrated_gradients(gradient_of(tanh_net), TANH_IMAGE, image(0), n_steps_used, "riemann_middle", UNHURRIED)
    torch.testing.assert_close(result.attribution, full.attribution)
    assert not result.deadline_hit


def test_a_tolerance_doubles_the_nodes_of_gauss_legendre_from_scratch():
    gradient, sizes = counting(tanh_net)
    result = integrated_gradients(
        gradient, TANH_IMAGE, image(0), 100, "gausslegendre", UNHURRIED, convergence_tolerance=1e-9
    )
    full = integrated_gradients(gradient_of(tanh_net), TANH_IMAGE, image(0), 16, "gausslegendre", UNHURRIED)
    torch.testing.assert_close(result.attribution, full.attribution)
    assert (result.n_steps_used, sum(sizes)) == (16, 8 + 16)


@pytest.mark.parametrize(("n_steps", "tolerance"), [(2, 0.5), (7, 1e-9), (20, 1e-12)])
def test_a_tolerance_never_takes_more_steps_than_asked_for(n_steps, tolerance):
    result = integrated_gradients(
        gradient_of(tanh_net),
        TANH_IMAGE,
        image(0),
        n_steps,
        "riemann_middle",
        UNHURRIED,
        convergence_tolerance=tolerance,
    )
    assert result.n_steps_used <= n_steps


def switch(points):
    """Rises by 1 in the last hundredth of the path to `image(1)`, which few midpoints hit: then much too much."""
    return 100 * (points[:, 0, 0, 0] - 0.99).relu()


@pytest.mark.parametrize(
    ("goal", "n_steps_used"),
    [
        (None, 4),
        # 4, 12 and 36 midpoints have none beyond 0.99, 108 have one, 324 three and 972 ten.
        (StepGoal([100 / 108], 1000), 108),
        (StepGoal([1000 / 972], 1000), 972),
        (StepGoal([0.0], 1000), 4),
        (StepGoal([1.0], 107), 36),
    ],
)
def test_a_goal_triples_the_steps_until_the_map_adds_up(goal, n_steps_used):
    gradient, sizes = counting(switch)
    (result,) = integrated_gradients_of_labels(
        lambda points: [gradient(points)], image(1), image(0), 4, "riemann_middle", UNHURRIED, goal=goal
    )
    assert result.n_steps_used == sum(sizes) == n_steps_used
    full = integrated_gradients(
        gradient_of(switch), image(1), image(0), result.n_steps_used, *("riemann_middle", UNHURRIED)
    )
    torch.testing.assert_close(result.attribution, full.attribution)
    assert not result.deadline_hit


@pytest.mark.parametrize(("seconds", "n_steps_used"), [(20.0, 9), (100.0, 27), (None, 27)])
def test_a_goal_takes_no_more_steps_than_fit_into_the_deadline(seconds, n_steps_used):
    """Nine steps take 9 s and 18 more 18 s, which may be seven tenths of the time left."""
    clock = Clock()
    (result,) = integrated_gradients_of_labels(
        lambda points: [taking(1.0, clock)(points)],
        TANH_IMAGE,
        image(0),
        9,
        "riemann_middle",
        Deadline(seconds, clock),
        goal=StepGoal([1e9], 30),
    )
    assert (result.n_steps_used, result.deadline_hit) == (n_steps_used, False)


@pytest.mark.parametrize(
    ("delta", "rise", "share", "adds_up"),
    [(0.0, 0.0, None, True), (0.019, -1.0, 0.019, True), (-0.021, 1.0, 0.021, False), (0.009, 0.01, 0.9, True)],
)
def test_a_map_adds_up_when_it_misses_little_of_the_rise_or_of_the_score(delta, rise, share, adds_up):
    found = Convergence(delta, 0.0, rise)
    assert found.delta_over_rise == (None if share is None else pytest.approx(share))
    assert found.adds_up is adds_up
    attribution = torch.full((3, 1, 1), (rise + delta) / 3, dtype=torch.float64)
    assert StepGoal([rise], 50).is_met([attribution]) is adds_up


def taking(seconds_each, clock, function=tanh_net):
    def gradient(points):
        clock.now_s += seconds_each * len(points)
        return gradient_of(function)(points)

    return gradient


def test_a_deadline_with_enough_time_changes_nothing():
    clock = Clock()
    hurried = integrated_gradients(
        taking(0.001, clock), TANH_IMAGE, image(0), 50, "riemann_middle", Deadline(60, clock)
    )
    free = integrated_gradients(gradient_of(tanh_net), TANH_IMAGE, image(0), 50, "riemann_middle", Deadline(None))
    assert torch.equal(hurried.attribution, free.attribution)
    assert not hurried.deadline_hit


@pytest.mark.parametrize("method", METHODS)
def test_as_many_steps_are_taken_as_fit_into_the_deadline(method):
    clock = Clock()
    result = integrated_gradients(taking(0.1, clock), TANH_IMAGE, image(0), 50, method, Deadline(2.1, clock))
    assert result.deadline_hit
    assert result.n_steps_used == 19  # the two probing ones took 0.2 s
    assert clock.now_s <= 2.1 + 1e-9
    full = integrated_gradients(gradient_of(tanh_net), TANH_IMAGE, image(0), 19, method, Deadline(None))
    torch.testing.assert_close(result.attribution, full.attribution)


@pytest.mark.parametrize("method", METHODS)
def test_slow_first_steps_do_not_reduce_the_number_of_steps(method):
    """The first evaluations are slow in a new process, and beside other processes."""
    clock = Clock()

    def gradient(points):
        clock.now_s += (2.9 if clock.now_s < 5 else 0.1) * len(points)
        return gradient_of(tanh_net)(points)

    result = integrated_gradients(gradient, TANH_IMAGE, image(0), 50, method, Deadline(120, clock))
    free = integrated_gradients(gradient_of(tanh_net), TANH_IMAGE, image(0), 50, method, UNHURRIED)
    assert (result.n_steps_used, result.deadline_hit) == (50, False)
    assert torch.equal(result.attribution, free.attribution)


def test_there_are_checkpoints_while_the_duration_of_steps_is_measured():
    clock = Clock()
    at_s = []

    class Waits:
        def checkpoint(self):
            at_s.append(clock.now_s)
            clock.now_s += 0.01

        def points_done(self, done, total):
            pass

    with watched(Waits()):
        result = integrated_gradients(
            taking(0.1, clock), TANH_IMAGE, image(0), 500, "riemann_middle", Deadline(20, clock), chunk=2
        )
    assert result.deadline_hit
    assert at_s[0] < 0.2
    assert max(np.diff(at_s)) < 0.4  # two points, and one more where probing ends


def test_when_too_few_steps_fit_the_time_is_left_to_the_caller():
    clock = Clock()
    result = integrated_gradients(taking(0.2, clock), TANH_IMAGE, image(0), 50, "riemann_middle", Deadline(1.0, clock))
    assert (result.n_steps_used, result.deadline_hit) == (1, True)
    assert clock.now_s == pytest.approx(0.2)


@pytest.mark.parametrize("n_steps", [30, 50, 100])
def test_a_network_that_becomes_slow_leaves_an_even_coarser_map(n_steps):
    clock = Clock()

    def gradient(points):
        clock.now_s += (0.01 if clock.now_s < 0.1 else 0.2) * len(points)
        return gradient_of(tanh_net)(points)

    result = integrated_gradients(
        gradient, TANH_IMAGE, image(0), n_steps, "riemann_middle", Deadline(2.0, clock), chunk=2
    )
    assert result.deadline_hit
    assert 8 <= result.n_steps_used < n_steps
    assert clock.now_s <= 2.0 * 1.25
    full = integrated_gradients(gradient_of(tanh_net), TANH_IMAGE, image(0), 1000, "riemann_middle", UNHURRIED)
    assert (result.attribution - full.attribution).norm() <= 0.06 * full.attribution.norm()


def test_chunks_halve_when_memory_runs_out_and_the_map_stays():
    sizes = []

    def gradient(points):
        sizes.append(len(points))
        if len(sizes) == 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return gradient_of(tanh_net)(points)

    result = integrated_gradients(gradient, TANH_IMAGE, image(0), 30, "riemann_middle", UNHURRIED)
    assert sizes == [1, 1, 8, 4, 4, 4, 4, 4, 4, 4]
    full = integrated_gradients(gradient_of(tanh_net), TANH_IMAGE, image(0), 30, "riemann_middle", UNHURRIED)
    torch.testing.assert_close(result.attribution, full.attribution, rtol=1e-12, atol=0)


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: not enough memory: you tried")])
def test_memory_that_does_not_suffice_for_one_point_is_an_error(error):
    def gradient(points):
        raise error

    with pytest.raises(type(error)):
        integrated_gradients(gradient, TANH_IMAGE, image(0), 30, "riemann_middle", UNHURRIED)


def test_other_errors_are_not_taken_for_a_lack_of_memory():
    sizes = []

    def gradient(points):
        sizes.append(len(points))
        if len(points) > 1:
            raise RuntimeError("shapes do not match")
        return torch.zeros_like(points)

    with pytest.raises(RuntimeError, match="shapes"):
        integrated_gradients(gradient, TANH_IMAGE, image(0), 30, "riemann_middle", UNHURRIED)
    assert sizes == [1, 1, 8]


class TestBaselines:
    MEAN, STD = (0.5, 0.25, 0.1), (0.5, 0.25, 0.2)

    def make(self, name, x=None):
        return baselines_for(name, torch.rand(1, 3, 20, 20) if x is None else x, self.MEAN, self.STD)

    def test_the_mean_colour_is_zero_after_normalisation(self):
        assert self.make("mean").abs().max() == 0

    def test_black_and_white_are_normalised_like_images(self):
        black, white = self.make("black_white")
        assert black[:, 3, 4].tolist() == pytest.approx([-1, -1, -0.5])
        assert white[:, 3, 4].tolist() == pytest.approx([1, 3, 4.5])
        assert torch.equal(self.make("black")[0], black)
        assert torch.equal(self.make("white")[0], white)

    def test_blur_is_the_gaussian_of_scipy(self):
        from scipy.ndimage import gaussian_filter

        x = torch.rand(1, 3, 20, 20, generator=torch.Generator().manual_seed(1))
        expected = gaussian_filter(x[0].numpy(), sigma=(0, 2, 2), mode="nearest", truncate=3.5)
        np.testing.assert_allclose(self.make("blur", x)[0].numpy(), expected, atol=2e-4)
