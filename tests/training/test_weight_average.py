"""The moving average of weights against its closed form."""

import math

import pytest
import torch
from torch import nn

from clearsight.training.engine.weight_average import WeightAverage


def test_decay_follows_the_recipe_in_long_runs() -> None:
    """0.9999 (1 - exp(-u / 2000)); the values are those of the published recipe."""
    average = WeightAverage(nn.Linear(1, 1), 200_000)
    decays = [average.decay(update) for update in (10, 100, 500, 2000)]
    assert decays == pytest.approx([0.0049870, 0.0487657, 0.2211770, 0.6320574], abs=1e-6)


@pytest.mark.parametrize("num_updates", [1, 8, 160, 3000])
def test_short_runs_average_over_their_last_tenth(num_updates: int) -> None:
    """The share of the first half's weights at the end is the product of the later decays."""
    average = WeightAverage(nn.Linear(1, 1), num_updates)
    decays = [average.decay(update) for update in range(1, num_updates + 1)]
    assert math.prod(decays[num_updates // 2 :]) < 0.02
    assert decays[-1] == pytest.approx(max(0.0, 1 - 10 / num_updates) * (1 - math.exp(-10)))


def test_the_average_is_the_sum_of_decayed_weights() -> None:
    network = nn.Linear(1, 1, bias=False)
    network.weight.data.fill_(3.0)
    average = WeightAverage(network, 100)
    expected = 3.0
    for update, value in enumerate((1.0, 5.0, -2.0), start=1):
        network.weight.data.fill_(value)
        average.update(network, update)
        decay = 0.9 * (1 - math.exp(-update / 10))
        expected = decay * expected + (1 - decay) * value
    assert average.network.weight.item() == pytest.approx(expected, rel=1e-6)
    assert network.weight.item() == -2.0


def test_statistics_follow_counters_are_copied_and_constants_stay_as_they_are() -> None:
    network = nn.BatchNorm1d(2)
    network.register_buffer("anchors", torch.tensor([0.1, 1.7]))
    average = WeightAverage(network, 100)
    network(torch.tensor([[0.0, 1.0], [4.0, 5.0]]))
    average.update(network, 1)
    share = 1 - 0.9 * (1 - math.exp(-0.1))
    assert torch.allclose(average.network.running_mean, share * network.running_mean)
    assert average.network.num_batches_tracked == 1
    assert torch.equal(average.network.anchors, network.anchors)


def test_the_average_is_never_trained() -> None:
    average = WeightAverage(nn.Sequential(nn.Linear(1, 1), nn.Dropout()), 10)
    assert not average.network.training
    assert not any(parameter.requires_grad for parameter in average.network.parameters())
