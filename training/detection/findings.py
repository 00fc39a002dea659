"""What a network finds in a set of images, beside what there is to find: by the functions that serving uses."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from torch import nn

from clearsight.documents.settings import DetectorSettings, SegmentationSettings
from clearsight.handlers.scoring.detection import Detections
from clearsight.handlers.scoring.segmentation import image_mask
from clearsight.handlers.scoring.views import merge_views
from clearsight.training.detection.data import DetectionEvaluationSet, EvaluationImage
from clearsight.training.detection.family import DetectorSteps
from clearsight.training.detection.metrics import GroundTruth, Predictions
from clearsight.training.engine.objective import NotFinite
from clearsight.training.engine.ranks import Ranks
from clearsight.vision.candidates import Candidates
from clearsight.vision.rle import encode_rle

__all__ = ["Findings", "find_all"]

_WHOLE: Final = 0  # the view of the whole image comes first


@dataclass(frozen=True, slots=True)
class Findings:
    """Of a set of images, in its order."""

    predictions: list[Predictions]
    truths: list[GroundTruth]
    loss: float | None
    """Mean over the whole images, without their tiles; None when it was not asked for."""


def find_all(
    network: nn.Module,
    steps: DetectorSteps,
    data: DetectionEvaluationSet,
    settings: DetectorSettings,
    ranks: Ranks | None = None,
    with_loss: bool = False,
) -> Findings:
    """Look for objects in all images; several processes take a part each and all get the whole.

    Raises `NotFinite`, in all processes, when boxes, scores or losses are not finite numbers.
    """
    ranks = ranks or Ranks()
    share = ranks.share(len(data))
    network.eval()
    pairs: list[tuple[Predictions, GroundTruth]] = []
    losses: list[float] = []
    is_finite = True
    with torch.inference_mode():
        for batch in data.batches(share):
            looked = _look_at(network, steps, batch, data.batch_size, with_loss)
            is_finite = looked is not None
            if looked is None:
                break
            losses += looked.losses
            for image, candidates in zip(batch, looked.candidates, strict=True):
                pairs.append((_find(image, candidates, settings), image.truth))
    if ranks.all_reduce_max(int(not is_finite)):
        raise NotFinite
    pairs = ranks.all_gather_items(pairs, len(data))
    loss = None
    if with_loss:
        loss = float(np.mean(ranks.all_gather_items(losses, len(data))))
    return Findings([found for found, _ in pairs], [truth for _, truth in pairs], loss)


@dataclass(frozen=True, slots=True)
class _Looked:
    """At the images of a batch."""

    candidates: list[list[Candidates]]
    """By image and view."""
    losses: list[float]
    """Of each whole image: the mean of those that went through the network with it."""


def _look_at(
    network: nn.Module, steps: DetectorSteps, batch: Sequence[EvaluationImage], batch_size: int, with_loss: bool
) -> _Looked | None:
    """Run views of equal size together, up to `batch_size` of them; None for numbers that are not finite.

    Whole images and tiles go apart, for only the former have a loss.
    """
    groups: dict[tuple[tuple[int, ...], bool], list[tuple[int, int]]] = defaultdict(list)
    for index, image in enumerate(batch):
        for view, image_HWC in enumerate(image.images_HWC):
            groups[image_HWC.shape, view == _WHOLE].append((index, view))
    candidates: dict[tuple[int, int], Candidates] = {}
    losses = [0.0] * len(batch)
    for (_, are_whole), members in groups.items():
        for start in range(0, len(members), batch_size):
            chosen = members[start : start + batch_size]
            images = [batch[index].images_HWC[view] for index, view in chosen]
            targets = [batch[index].target for index, _ in chosen] if with_loss and are_whole else None
            examined = steps.validation_step(network, images, targets)
            if examined.loss is not None:
                loss = float(examined.loss)
                if not np.isfinite(loss):
                    return None
                for index, _ in chosen:
                    losses[index] = loss
            for member, found in zip(chosen, examined.candidates, strict=True):
                if not (np.isfinite(found.boxes_xyxy_N4).all() and np.isfinite(found.scores_N).all()):
                    return None
                candidates[member] = found
    by_image = [[candidates[index, view] for view in range(len(image.views))] for index, image in enumerate(batch)]
    return _Looked(by_image, losses)


def _find(image: EvaluationImage, candidates: Sequence[Candidates], settings: DetectorSettings) -> Predictions:
    views = image.views
    found = [view.find(one, settings) for view, one in zip(views, candidates, strict=True)]
    merged, whole = merge_views(views, found, settings), views[_WHOLE].tile
    return Predictions(
        merged.boxes_xyxy_N4,
        merged.class_ids_N,
        merged.scores_N,
        None if settings.masks is None else _masks(merged, whole.height, whole.width, settings.masks),
    )


def _masks(found: Detections, height: int, width: int, settings: SegmentationSettings) -> tuple[dict[str, object], ...]:
    threshold = settings.mask_pixel_score_threshold
    return tuple(
        encode_rle(image_mask(found, index, height, width, threshold), height, width) for index in range(len(found))
    )
