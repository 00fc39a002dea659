"""Predictions for a set of images, made by the functions that serving uses, with the ground truth beside them."""

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

__all__ = ["SetPredictions", "predict_set"]

_WHOLE_IMAGE: Final = 0  # the view of the whole image comes first


@dataclass(frozen=True, slots=True)
class SetPredictions:
    """Predictions and ground truth of a set of images, in the order of the set."""

    predictions: list[Predictions]
    truths: list[GroundTruth]
    loss: float | None
    """Mean loss over the whole images, without their tiles; None when it was not asked for."""


def predict_set(
    network: nn.Module,
    steps: DetectorSteps,
    data: DetectionEvaluationSet,
    settings: DetectorSettings,
    ranks: Ranks | None = None,
    with_loss: bool = False,
) -> SetPredictions:
    """Detect the objects of all images. Each of several processes predicts its share, and all get the result.

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
            output = _predict_batch(network, steps, batch, data.batch_size, with_loss)
            is_finite = output is not None
            if output is None:
                break
            losses += output.losses
            for image, candidates in zip(batch, output.candidates, strict=True):
                pairs.append((_find(image, candidates, settings), image.truth))
    if ranks.all_reduce_max(int(not is_finite)):
        raise NotFinite
    pairs = ranks.all_gather_items(pairs, len(data))
    loss = None
    if with_loss:
        loss = float(np.mean(ranks.all_gather_items(losses, len(data))))
    return SetPredictions([found for found, _ in pairs], [truth for _, truth in pairs], loss)


@dataclass(frozen=True, slots=True)
class _BatchOutput:
    """Output of the network for the images of a batch."""

    candidates: list[list[Candidates]]
    """Candidates by image and view."""
    losses: list[float]
    """Loss by whole image: the mean over the images that went through the network together with it."""


def _predict_batch(
    network: nn.Module, steps: DetectorSteps, batch: Sequence[EvaluationImage], batch_size: int, with_loss: bool
) -> _BatchOutput | None:
    """Run views of equal size together, up to `batch_size` of them; None when an output is not finite.

    Whole images and tiles go through the network separately, since only whole images have a loss.
    """
    groups: dict[tuple[tuple[int, ...], bool], list[tuple[int, int]]] = defaultdict(list)
    for index, image in enumerate(batch):
        for view, image_HWC in enumerate(image.images_HWC):
            groups[image_HWC.shape, view == _WHOLE_IMAGE].append((index, view))
    candidates: dict[tuple[int, int], Candidates] = {}
    losses = [0.0] * len(batch)
    for (_, are_whole), members in groups.items():
        for start in range(0, len(members), batch_size):
            chosen = members[start : start + batch_size]
            images = [batch[index].images_HWC[view] for index, view in chosen]
            targets = [batch[index].target for index, _ in chosen] if with_loss and are_whole else None
            validated = steps.validation_step(network, images, targets)
            if validated.loss is not None:
                loss = float(validated.loss)
                if not np.isfinite(loss):
                    return None
                for index, _ in chosen:
                    losses[index] = loss
            for member, found in zip(chosen, validated.candidates, strict=True):
                if not (np.isfinite(found.boxes_xyxy_N4).all() and np.isfinite(found.scores_N).all()):
                    return None
                candidates[member] = found
    by_image = [[candidates[index, view] for view in range(len(image.views))] for index, image in enumerate(batch)]
    return _BatchOutput(by_image, losses)


def _find(image: EvaluationImage, candidates: Sequence[Candidates], settings: DetectorSettings) -> Predictions:
    views = image.views
    found = [view.find(one, settings) for view, one in zip(views, candidates, strict=True)]
    merged, whole = merge_views(views, found, settings), views[_WHOLE_IMAGE].tile
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
