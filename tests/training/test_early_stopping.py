import pytest

from clearsight.training.engine.early_stopping import EarlyStopping, EarlyStoppingOptions


def stops_after(metrics: list[float], **options: int | bool) -> int | None:
    """Number of passes after which training stops; None when it does not."""
    stopping = EarlyStopping(EarlyStoppingOptions(**options))
    for count, metric in enumerate(metrics, start=1):
        stopping.observe(metric)
        if stopping.should_stop:
            return count
    return None


def test_nothing_observed_is_no_reason_to_stop() -> None:
    assert not EarlyStopping(EarlyStoppingOptions(patience=1, delay=0)).should_stop


def test_with_the_defaults_the_earliest_stop_is_after_pass_ten() -> None:
    assert stops_after([0.5] * 20) == 10


def test_passes_within_the_delay_never_count() -> None:
    assert stops_after([0.9, 0.1, 0.1, 0.1], delay=3, patience=1) == 4


def test_only_a_strictly_better_pass_resets_the_counter() -> None:
    assert stops_after([0.5, 0.5, 0.6, 0.6, 0.6], delay=1, patience=2) == 5


def test_the_best_is_kept_from_the_first_pass_on() -> None:
    assert stops_after([0.9, 0.5, 0.8, 0.85], delay=2, patience=2) == 4


def test_switched_off_it_never_stops() -> None:
    assert stops_after([0.5] * 30, enabled=False) is None


@pytest.mark.parametrize(
    ("passes", "is_best"),
    [
        ([(0.0, None)], [True]),
        ([(0.5, None), (0.5, None), (0.4, None), (0.6, None)], [True, True, False, True]),
        ([(1.0, 1.11), (1.0, 0.02), (1.0, 0.03), (1.0, 0.02)], [True, True, False, True]),
        ([(0.5, 0.9), (0.4, 0.1), (0.5, 0.95), (0.6, 2.0)], [True, False, False, True]),
    ],
)
def test_the_best_pass_has_the_highest_metric_then_the_lowest_loss_then_comes_last(
    passes: list[tuple[float, float | None]], is_best: list[bool]
) -> None:
    stopping = EarlyStopping()
    assert [stopping.observe(*one) for one in passes] == is_best
    best = max(range(len(passes)), key=lambda number: (passes[number][0], -(passes[number][1] or 0), number))
    assert (stopping.best, stopping.best_loss) == passes[best]
