"""XRAI from image to map, compared with `saliency`, which samples the path at other points."""

import numpy as np
import pytest
import torch
from saliency.core import base
from saliency.core import xrai as reference
from scipy.stats import spearmanr
from torch import nn

from clearsight.handlers.explain.algorithms.context import ExplainContext
from clearsight.handlers.explain.algorithms.integrated_gradients_family import baselines_for
from clearsight.handlers.explain.algorithms.run import compute_attributions
from clearsight.handlers.explain.deadline import Deadline
from clearsight.handlers.explain.network.functions import ExplainTarget
from clearsight.handlers.explain.network.model import ExplainModel
from clearsight.handlers.explain.parameters import XaiParameters

SIDE, N_STEPS = 96, 200
HALF = (0.5, 0.5, 0.5)


def image() -> torch.Tensor:
    """Blocks with a little noise: enough regions for every scale."""
    generator = torch.Generator().manual_seed(11)
    blocks = nn.functional.interpolate(torch.rand(1, 3, 7, 7, generator=generator), SIDE, mode="nearest")
    noise = 0.05 * torch.randn(blocks.shape, generator=generator)
    return ((blocks + noise).clamp(0, 1) - 0.5) / 0.5


@pytest.mark.parametrize("is_fast", [True, False])
def test_the_map_is_ranked_like_that_of_the_reference(is_fast):
    with torch.random.fork_rng():
        torch.manual_seed(12)
        network = nn.Sequential(
            *(nn.Conv2d(3, 12, 5, stride=2), nn.GELU(), nn.Conv2d(12, 16, 5, stride=2), nn.GELU()),
            *(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(256, 3)),
        )
    model, x_13PP = ExplainModel(network, "small"), image()
    parameters = XaiParameters("xrai", n_steps=N_STEPS, baseline="black_white", xrai_fast=is_fast)
    context = ExplainContext(
        model=model,
        probabilities=lambda points: model.logits(points).softmax(dim=1),
        x_13PP=x_13PP,
        targets=(ExplainTarget(1),),
        parameters=parameters,
        deadline=Deadline(None),
        mean=HALF,
        std=HALF,
    )
    (ours,) = compute_attributions(context)

    def call(points_NPP3, call_model_args=None, expected_keys=None):
        points_N3PP = torch.from_numpy(np.asarray(points_NPP3, np.float32)).permute(0, 3, 1, 2)
        return {base.INPUT_OUTPUT_GRADIENTS: model.gradient_of(1)(points_N3PP).permute(0, 2, 3, 1).numpy()}

    baselines = [one.permute(1, 2, 0).numpy() for one in baselines_for("black_white", x_13PP, HALF, HALF)]
    wish = reference.XRAIParameters(steps=N_STEPS, algorithm="fast" if is_fast else "full")
    theirs = reference.XRAI().GetMask(
        x_13PP[0].permute(1, 2, 0).numpy(), call, baselines=baselines, batch_size=20, extra_parameters=wish
    )
    assert spearmanr(ours.values, theirs, axis=None).statistic >= 0.999
