"""Images that say nothing, from which integrated gradients start."""

from collections.abc import Sequence

import torch
from torch.nn import functional

from clearsight.handlers.explain.answering.parameters import BaselineName

__all__ = ["baselines_for"]


def baselines_for(
    name: BaselineName, x_13PP: torch.Tensor, mean: Sequence[float], std: Sequence[float]
) -> torch.Tensor:
    """One or two baselines, (B, 3, P, P), for an image normalised with `mean` and `std` (of pixels in [0, 1]).

    `mean` is the image of the mean colour, zeros; `black_white` gives two, whose explanations are averaged; `blur`
    is the image itself under a Gaussian with a standard deviation of a tenth of its side.
    """
    if name == "mean":
        return torch.zeros_like(x_13PP)
    if name == "blur":
        return _blur(x_13PP, x_13PP.shape[-1] / 10)
    centre, scale = (x_13PP.new_tensor(list(numbers)).view(1, 3, 1, 1) for numbers in (mean, std))
    black = (torch.zeros_like(x_13PP) - centre) / scale
    white = (torch.ones_like(x_13PP) - centre) / scale
    return {"black": black, "white": white, "black_white": torch.cat([black, white])}[name]


def _blur(x_13PP: torch.Tensor, sigma: float) -> torch.Tensor:
    """Gaussian of `sigma` pixels, cut at three of them; the border repeats the outermost pixels."""
    radius = int(3 * sigma) + 1
    offsets = torch.arange(-radius, radius + 1, dtype=x_13PP.dtype, device=x_13PP.device)
    weights = torch.exp(-0.5 * (offsets / sigma) ** 2)
    weights /= weights.sum()
    padded = functional.pad(x_13PP, (radius, radius, radius, radius), mode="replicate")
    rows = functional.conv2d(padded, weights.view(1, 1, 1, -1).expand(3, 1, 1, -1), groups=3)
    return functional.conv2d(rows, weights.view(1, 1, -1, 1).expand(3, 1, -1, 1), groups=3)
