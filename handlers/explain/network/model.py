"""A copy of a classifier prepared for explanations: its scores, and derivatives of them.

N points, K explained labels, P pixels, T tokens, C features, u x v locations of features or patches.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import nn

from clearsight.handlers.explain.network.activations import guided_copy, is_rectifier
from clearsight.handlers.explain.network.functions import ExplainTarget, Gradient, Gradients, Score
from clearsight.handlers.explain.network.preparation import Tap, fold_batch_norms, observe, recorded, steady_pointwise

__all__ = ["ExplainModel", "Features", "Tokens", "Transformer"]

_ATTENTION: Final = "attention."
"""Start of the names under which attention probabilities are recorded."""
_FEATURES: Final = "features"


@dataclass(frozen=True, slots=True)
class Features:
    """Output of the target layer, and the derivatives of the score with respect to it."""

    activations_Cuv: torch.Tensor
    gradients_Cuv: torch.Tensor


@dataclass(frozen=True, slots=True)
class Tokens:
    """Attention probabilities of every layer, first to last, and the derivatives of the score with respect to them."""

    attention_LHTT: tuple[torch.Tensor, ...]
    gradients_LHTT: tuple[torch.Tensor, ...]


@dataclass(frozen=True, slots=True)
class Transformer:
    """The token layout of a transformer with global attention."""

    grid_hw: tuple[int, int]
    """Patches from top to bottom and from left to right; their tokens come last, row by row."""
    num_prefix_tokens: int
    """Tokens before those of the patches: class token, distillation token."""
    pools_by_class_token: bool
    """Whether the head reads the class token; if not, it reads the mean of the patches."""


class ExplainModel:
    """An eager copy of a network with frozen parameters, for derivatives; and a second copy with guided rectifiers.

    Batch norms are folded into the convolutions before them, which halves what a derivative keeps in memory (ResNet-50:
    82 to 40 MiB per image), and changes outputs by rounding only. Equal points give equal bits, also on several
    threads. The network given is never changed. No hooks are used: recorded outputs belong to one call.
    """

    def __init__(self, network: nn.Module, model_name: str, *, fold: bool = True) -> None:
        self.model_name = model_name
        self._network = copy.deepcopy(network).eval()
        modules: list[Any] = list(self._network.modules())
        for module in modules:
            if getattr(module, "inplace", False):
                module.inplace = False
        self.transformer = _transformer(self._network)
        if self.transformer is None:
            structure = observe(self._network)
            if fold:
                fold_batch_norms(self._network, structure)
            tail = (self._network.get_submodule(name) for name in structure.behind_features)
            self._is_tail_plain = not any(is_rectifier(module) for module in tail)
            self.target_layer = structure.last_features
            steady_pointwise(self._network)
        else:
            self._is_tail_plain = False
            self.target_layer = _tap_attention(self._network)
        self._network.requires_grad_(False)
        if self.target_layer is not None:
            target = self._network.get_submodule(self.target_layer)
            self._network.set_submodule(self.target_layer, Tap(target, _FEATURES))
        self._guided, self.guided_rule = guided_copy(self._network)

    @property
    def device(self) -> torch.device:
        return next(self._network.parameters()).device

    def logits(self, points_N3PP: torch.Tensor) -> torch.Tensor:
        """Raw class outputs, (N, number of classes)."""
        with torch.no_grad():
            logits_NK: torch.Tensor = self._network(points_N3PP)
        return logits_NK

    def score_of(self, class_id: int, contrast_id: int | None = None) -> Score:
        target = ExplainTarget(class_id, contrast_id)
        return lambda points_N3PP: _score(self.logits(points_N3PP), target)

    def differentiable_score_of(self, target: ExplainTarget) -> Score:
        """The score with its graph, for engines that differentiate it themselves."""
        return lambda points_N3PP: _score(self._network(points_N3PP), target)

    def gradient_of(self, class_id: int, contrast_id: int | None = None) -> Gradient:
        gradients = self.gradients_of([ExplainTarget(class_id, contrast_id)])
        return lambda points_N3PP: gradients(points_N3PP)[0]

    def gradients_of(self, targets: Sequence[ExplainTarget]) -> Gradients:
        """Plain derivatives; one forward pass for all targets."""
        return lambda points_N3PP: _input_gradients(self._network, points_N3PP, targets)

    def guided_gradient(self, class_id: int, contrast_id: int | None = None) -> Gradient:
        gradients = self.guided_gradients([ExplainTarget(class_id, contrast_id)])
        return lambda points_N3PP: gradients(points_N3PP)[0]

    def guided_gradients(self, targets: Sequence[ExplainTarget]) -> Gradients:
        """Derivatives by guided backpropagation; `guided_rule` names the activations with the guided rule."""
        return lambda points_N3PP: _input_gradients(self._guided, points_N3PP, targets)

    def activations_and_gradients(self, x_13PP: torch.Tensor, targets: Sequence[ExplainTarget]) -> list[Features]:
        """Features of `target_layer` with plain derivatives, for each target.

        Tokens of a transformer are arranged in the grid of their patches.
        """
        with torch.enable_grad(), recorded() as records:
            logits_1K = self._network(x_13PP.detach())
            features = records[_FEATURES]
            found = _derivatives(logits_1K, targets, [features])
        return [self._features(features, gradient) for (gradient,) in found]

    def guided_gradients_and_features(
        self, x_13PP: torch.Tensor, targets: Sequence[ExplainTarget]
    ) -> list[tuple[torch.Tensor, Features]]:
        """Guided derivative of the image, (3, P, P), and features with plain derivatives, for each target.

        One pass gives both if only pooling and linear layers follow the features.
        """
        if not self._is_tail_plain:
            guided = self.guided_gradients(targets)(x_13PP)
            features = self.activations_and_gradients(x_13PP, targets)
            return [(gradient_13PP[0], part) for gradient_13PP, part in zip(guided, features, strict=True)]
        with torch.enable_grad(), recorded() as records:
            x_13PP = x_13PP.detach().requires_grad_()
            logits_1K = self._guided(x_13PP)
            seen = records[_FEATURES]
            found = _derivatives(logits_1K, targets, [x_13PP, seen])
        return [(gradient_13PP[0], self._features(seen, by_features)) for gradient_13PP, by_features in found]

    def attention_and_gradients(self, x_13PP: torch.Tensor, targets: Sequence[ExplainTarget]) -> list[Tokens]:
        """Attention of every layer with its plain derivatives, for each target; transformers only."""
        with torch.enable_grad(), recorded() as records:
            logits_1K = self._network(x_13PP.detach())
            attention = [tensor for name, tensor in records.items() if name.startswith(_ATTENTION)]
            found = _derivatives(logits_1K, targets, attention)
        kept = tuple(tensor.detach()[0] for tensor in attention)
        return [Tokens(kept, tuple(gradient[0] for gradient in gradients)) for gradients in found]

    def _features(self, activations: torch.Tensor, gradients: torch.Tensor) -> Features:
        pair = [tensor.detach()[0] for tensor in (activations, gradients)]
        if self.transformer is not None:
            first, (height, width) = self.transformer.num_prefix_tokens, self.transformer.grid_hw
            pair = [tokens_TC[first:].T.reshape(-1, height, width) for tokens_TC in pair]
        return Features(*pair)


def _score(logits_NK: torch.Tensor, target: ExplainTarget) -> torch.Tensor:
    score_N = logits_NK[:, target.class_id]
    return score_N if target.contrast_id is None else score_N - logits_NK[:, target.contrast_id]


def _input_gradients(
    network: nn.Module, points_N3PP: torch.Tensor, targets: Sequence[ExplainTarget]
) -> list[torch.Tensor]:
    with torch.enable_grad():
        points_N3PP = points_N3PP.detach().requires_grad_()
        logits_NK = network(points_N3PP)
        return [gradient_N3PP for (gradient_N3PP,) in _derivatives(logits_NK, targets, [points_N3PP])]


def _derivatives(
    logits_NK: torch.Tensor, targets: Sequence[ExplainTarget], inputs: list[torch.Tensor]
) -> list[tuple[torch.Tensor, ...]]:
    """Derivatives of every target's score with respect to the inputs; one backward pass each, over the same graph."""
    return [
        torch.autograd.grad(_score(logits_NK, target).sum(), inputs, retain_graph=index < len(targets) - 1)
        for index, target in enumerate(targets)
    ]


def _transformer(network: nn.Module) -> Transformer | None:
    """The token layout of a ViT built by timm; None for any other network."""
    embedding = getattr(network, "patch_embed", None)
    grid = getattr(embedding, "grid_size", None)
    num_prefix_tokens = getattr(network, "num_prefix_tokens", None)
    if grid is None or num_prefix_tokens is None:
        return None
    height, width = grid
    return Transformer((height, width), num_prefix_tokens, getattr(network, "global_pool", "avg") == "token")


def _tap_attention(network: nn.Module) -> str:
    """Record attention probabilities; return the name of the last block's first norm, before its attention.

    They are the input of the dropout of attention weights (which is off here) unless the kernel is a fused one.
    """
    drops = [
        (name, drop)
        for name, module in network.named_modules()
        if isinstance(drop := getattr(module, "attn_drop", None), nn.Module)
    ]
    for name, drop in drops:
        attention: Any = network.get_submodule(name)
        attention.fused_attn = False
        attention.attn_drop = Tap(drop, _ATTENTION + name)
    block, _, _ = drops[-1][0].rpartition(".")
    return f"{block}.norm1"
