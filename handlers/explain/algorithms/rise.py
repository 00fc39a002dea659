"""RISE (arXiv 1806.07421): mask random parts of the image and record the probabilities. No derivative is needed.

J masks, K explained labels, P pixels.
"""

from dataclasses import dataclass

import torch
from torch.nn import functional

from clearsight.handlers.explain.deadline import Deadline
from clearsight.handlers.explain.network.functions import DEFAULT_CHUNK, ExplainTarget, Probabilities, in_chunks

__all__ = ["RiseResult", "random_masks", "rise"]


@dataclass(frozen=True, slots=True)
class RiseResult:
    """A map, (P, P) on the CPU: the mean probability over the masks that keep a pixel."""

    map_PP: torch.Tensor
    masks_used: int
    deadline_hit: bool


def rise(
    probabilities: Probabilities,
    x: torch.Tensor,
    targets: tuple[ExplainTarget, ...],
    num_masks: int,
    grid_size: int,
    seed: int,
    deadline: Deadline,
    chunk: int = DEFAULT_CHUNK,
) -> tuple[RiseResult, ...]:
    """Explain the image `x`, (1, 3, P, P); the same masks serve all targets.

    Masked parts take the mean colour, 0 after normalisation. A contrast is a difference of probabilities.
    """
    height, width = x.shape[-2:]
    generator = torch.Generator().manual_seed(seed)
    sums_KPP = torch.zeros(len(targets), height, width, dtype=torch.float64)
    shown_PP = torch.zeros(height, width, dtype=torch.float64)
    drawn: dict[int, torch.Tensor] = {}

    def work(start: int, stop: int) -> None:
        for index in range(start, stop):  # one by one, so that masks do not depend on the chunk size
            if index not in drawn:
                drawn[index] = random_masks(1, grid_size, height, width, generator)[0]
        masks_JPP = torch.stack([drawn[index] for index in range(start, stop)])
        found_JC = probabilities(x * masks_JPP[:, None].to(x)).detach().double().cpu()
        masks_JPP = masks_JPP.double()
        for k, target in enumerate(targets):
            weights_J = found_JC[:, target.class_id]
            if target.contrast_id is not None:
                weights_J = weights_J - found_JC[:, target.contrast_id]
            for weight, mask_PP in zip(weights_J, masks_JPP, strict=True):
                sums_KPP[k] += weight * mask_PP
        for index, mask_PP in zip(range(start, stop), masks_JPP, strict=True):
            shown_PP.add_(mask_PP)
            del drawn[index]

    done = in_chunks(work, num_masks, deadline, chunk)
    return tuple(
        RiseResult((sum_PP / shown_PP.clamp(min=1e-9)).to(x.dtype), done, done < num_masks) for sum_PP in sums_KPP
    )


def random_masks(num_masks: int, grid_size: int, height: int, width: int, generator: torch.Generator) -> torch.Tensor:
    """Smooth masks in [0, 1], (J, height, width): a coarse grid of cells, half of them kept, enlarged and shifted."""
    cell_h, cell_w = -(-height // grid_size), -(-width // grid_size)
    kept = (torch.rand(num_masks, 1, grid_size + 1, grid_size + 1, generator=generator) < 0.5).float()
    large = functional.interpolate(
        kept, size=((grid_size + 1) * cell_h, (grid_size + 1) * cell_w), mode="bilinear", align_corners=False
    )[:, 0]
    tops = torch.randint(0, cell_h, (num_masks,), generator=generator).tolist()
    lefts = torch.randint(0, cell_w, (num_masks,), generator=generator).tolist()
    return torch.stack(
        [mask[top : top + height, left : left + width] for mask, top, left in zip(large, tops, lefts, strict=True)]
    )
