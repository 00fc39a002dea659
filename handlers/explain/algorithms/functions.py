"""What an explainer needs of a network: functions from points to numbers.

Shapes: N points, each an input of the network, 3 colour channels, P pixels high and wide, K explained labels.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

__all__ = ["ExplainTarget", "Gradient", "Gradients", "Probabilities", "Score"]

Score = Callable[[torch.Tensor], torch.Tensor]
"""points_N3PP -> the explained score of each, (N,)."""

Gradient = Callable[[torch.Tensor], torch.Tensor]
"""points_N3PP -> d score / d point for each, (N, 3, P, P); may raise torch's out-of-memory errors."""

Gradients = Callable[[torch.Tensor], Sequence[torch.Tensor]]
"""points_N3PP -> what a `Gradient` gives, for each of the K labels: one forward pass serves them all."""

Probabilities = Callable[[torch.Tensor], torch.Tensor]
"""points_N3PP -> the probability of every class, (N, number of classes). Needs no derivative."""


@dataclass(frozen=True, slots=True)
class ExplainTarget:
    """The explained score: a class's logit, or how far it is above that of a contrasting class."""

    class_id: int
    contrast_id: int | None = None
