"""Prediction over a validation set, in float32, as the package predicts."""

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from clearsight.training.datasets import EvaluationSet
from clearsight.training.ranks import Ranks

__all__ = ["predict"]


def predict(
    network: nn.Module, data: EvaluationSet, device: torch.device, ranks: Ranks | None = None
) -> npt.NDArray[np.float32]:
    """Logits (N, K) in the order of the set; several processes take a part each and all get the whole."""
    ranks = ranks or Ranks()
    share = ranks.share(len(data))
    network.eval()
    outputs = []
    with torch.inference_mode():
        for images in data.batches(share or range(1)):  # without a share, one picture tells the number of classes
            images_NCHW = torch.from_numpy(images).to(device, memory_format=torch.channels_last)
            outputs.append(network(images_NCHW).float())
        own_NK = np.asarray(torch.cat(outputs).cpu().numpy(), np.float32)[: len(share)]
    return ranks.gather(own_NK, len(data))
