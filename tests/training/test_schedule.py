import math

import pytest

from clearsight.training.engine.schedule import StepDecay, WarmupCosine


@pytest.mark.parametrize(
    ("epochs_done", "multiplier"),
    [(0, 0.0), (1, 0.5), (2, 1.0), (5, 0.897), (8, 0.631), (12, 0.216), (15, 0.0245)],
)
def test_the_default_cosine_has_these_values(epochs_done: int, multiplier: float) -> None:
    schedule = WarmupCosine(num_epochs=15)
    assert schedule.multiplier(epochs_done * 100, 100) == pytest.approx(multiplier, abs=5e-4)


def test_warm_up_is_linear_in_steps() -> None:
    schedule = WarmupCosine(num_epochs=15)
    assert 0.01 * schedule.multiplier(50, 100) == pytest.approx(0.0025)


@pytest.mark.parametrize(("cycles", "end"), [(0.5, 0.0), (1.0, 1.0), (0.0, 1.0), (0.25, 0.5)])
def test_cycles_decide_where_the_cosine_ends(cycles: float, end: float) -> None:
    schedule = WarmupCosine(num_epochs=9, warmup_epochs=1, cycles=cycles)
    assert schedule.multiplier(63, 7) == pytest.approx(end, abs=1e-12)


def test_it_is_the_closed_form_at_every_step() -> None:
    schedule = WarmupCosine(num_epochs=5, warmup_epochs=1, cycles=0.4)
    for step in range(15):
        expected = step / 3 if step < 3 else 0.5 * (1 + math.cos(2 * math.pi * 0.4 * (step - 3) / 12))
        assert schedule.multiplier(step, 3) == pytest.approx(expected)


@pytest.mark.parametrize(("num_epochs", "warmup"), [(1, 0), (2, 1), (3, 2)])
def test_a_warm_up_longer_than_the_job_is_shortened(num_epochs: int, warmup: int) -> None:
    assert WarmupCosine(num_epochs, warmup_epochs=5).effective_warmup_epochs == warmup


def test_a_job_of_one_epoch_starts_at_the_full_rate() -> None:
    assert WarmupCosine(num_epochs=1).multiplier(0, 4) == 1.0


def test_step_decay_halves_every_five_epochs_by_default() -> None:
    schedule = StepDecay()
    rates = [schedule.multiplier(step, 3) for step in range(45)]
    assert rates == [1.0] * 15 + [0.5] * 15 + [0.25] * 15
