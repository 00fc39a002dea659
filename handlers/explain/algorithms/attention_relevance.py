"""Where a transformer with global attention looks: attention, weighted by its gradient, through all layers.

After Chefer, Gur and Wolf, arXiv 2103.15679. T tokens, H heads, L layers.
"""

import torch

from clearsight.handlers.explain.network.model import Tokens, Transformer

__all__ = ["attention_relevance"]


def attention_relevance(tokens: Tokens, transformer: Transformer) -> torch.Tensor:
    """How relevant each patch is for the explained score: (rows, columns) of patches, never negative.

    Relevance starts as the identity and each layer adds what it mixes, R <- R + mean over heads of max(A * G, 0) R.
    It is read where the network reads: at the class token, or as the mean over patches when it pools those.
    """
    num_tokens = tokens.attention_LHTT[0].shape[-1]
    relevance_TT = torch.eye(num_tokens, dtype=tokens.attention_LHTT[0].dtype, device=tokens.attention_LHTT[0].device)
    for attention_HTT, gradients_HTT in zip(tokens.attention_LHTT, tokens.gradients_LHTT, strict=True):
        mixed_TT = (attention_HTT * gradients_HTT).clamp(min=0).mean(dim=0)
        relevance_TT = relevance_TT + mixed_TT @ relevance_TT
    first = transformer.num_prefix_tokens
    read_T = relevance_TT[0] if transformer.pools_by_class_token else relevance_TT[first:].mean(dim=0)
    return read_T[first:].reshape(transformer.grid_hw)
