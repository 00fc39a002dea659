"""Explains the objects of one image within its time limit: maps, images, details. Answers are encoded elsewhere.

Shapes in names: H height, W width, C colour channel.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import prod
from pkgutil import resolve_name
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from clearsight.catalogue.algorithms import ALGORITHMS
from clearsight.documents.settings import DetectorSettings
from clearsight.handlers.drawing.explanation_image import explanation_image
from clearsight.handlers.explain.deadline import Deadline, OutOfTime
from clearsight.handlers.explain.network.functions import DEFAULT_CHUNK
from clearsight.handlers.explain.objects.heat import frame_size, heat_of, into_frame
from clearsight.handlers.explain.objects.masking import Detect, explain_by_masking
from clearsight.handlers.explain.objects.network import DetectorForward, ObjectModel
from clearsight.handlers.explain.objects.selection import SAME_BOX_IOU, DetectionSelection, by_view
from clearsight.handlers.explain.objects.views import ImageViews
from clearsight.handlers.explain.options import ExplainOptions
from clearsight.handlers.explain.parameters import XaiParameters
from clearsight.handlers.explain.telemetry import checkpoint
from clearsight.handlers.scoring.views import placement_of
from clearsight.images.decode import DecodeLimits, decode_image
from clearsight.images.headers import read_header
from clearsight.wire.answers import DetectedObject

__all__ = ["ExplainedObject", "ObjectAlgorithm", "ObjectDetails", "ObjectExplainTask", "ObjectExplainer"]

Floats = npt.NDArray[np.float32]
ObjectAlgorithm = Callable[["ObjectExplainer", "ObjectExplainTask", ImageViews, Deadline], dict[int, "ExplainedObject"]]
"""Returns explanations by index of the object; fewer than asked for when the deadline comes."""


@dataclass(frozen=True, slots=True, eq=False)
class ObjectExplainTask:
    """A scored image and which of its objects to explain."""

    image: bytes
    """The image file: decoded when it is explained, so that many rows take no more memory than one."""
    digest: bytes
    objects: Sequence[DetectedObject]
    choice: DetectionSelection
    parameters: XaiParameters
    num_cells: int
    """Numbers of one map; the maximum for an image whose size only its decoder can tell."""

    @property
    def num_numbers(self) -> int:
        """Numbers in the attributions of the answer."""
        return len(self.choice.indices) * self.num_cells


@dataclass(slots=True)
class ObjectDetails:
    """How the explanation of one object was computed."""

    algorithm: str
    label: str
    probability: float
    target: str
    matched_iou: float | None = None
    """IoU of the explained candidate with the answer's box; None: there is no candidate."""
    tile: tuple[int, int, int, int] | None = None
    """Left, top, width, height in pixels of the tile in which the object was detected; None: the whole image."""
    strides: tuple[int, ...] = ()
    """Strides, in pixels of the network's input, of the levels that contribute to the map."""
    masks_used: int | None = None
    """Number of masked images that the map was computed from; None: no image was masked."""
    degraded: bool = False
    warnings: tuple[str, ...] = ()
    milliseconds: dict[str, float] = field(default_factory=dict)

    def to_document(self) -> dict[str, Any]:
        """The object of the answer, as plain data."""
        return {
            "algorithm": self.algorithm,
            "label": self.label,
            "probability": self.probability,
            "target": self.target,
            "matched_iou": None if self.matched_iou is None else round(self.matched_iou, 4),
            "tile": None if self.tile is None else list(self.tile),
            "strides": list(self.strides),
            "masks_used": self.masks_used,
            "degraded": self.degraded,
            "warnings": list(self.warnings),
            "milliseconds": {phase: round(milliseconds) for phase, milliseconds in self.milliseconds.items()},
            "cached": False,
        }


@dataclass(frozen=True, slots=True, eq=False)
class ExplainedObject:
    """The explanation of one object of an answer."""

    index: int
    heat_HW: Floats
    """The size is that of the network's input without padding, at most `LONGEST_SIDE`; never negative."""
    image: bytes | None
    """PNG file; None if the parameters request none."""
    details: ObjectDetails

    @property
    def numbers(self) -> Floats:
        """Numbers of the answer's attributions."""
        return self.heat_HW


class ObjectExplainer:
    """Explains images with the eager copy of one detector, or by its detections in masked images. Safe in threads."""

    def __init__(
        self,
        model: ObjectModel | None,
        detect: Detect,
        labels: Sequence[str],
        settings: DetectorSettings,
        limits: DecodeLimits,
        options: ExplainOptions,
    ) -> None:
        """Without a model only `d_rise` is available, which needs only `detect`, the serving backend."""
        self._model = model
        self._detect = detect
        self._labels = labels
        self._settings = settings
        self._limits = limits
        self._options = options

    def can(self, algorithm: str) -> bool:
        """Whether this explainer has what an algorithm needs."""
        return self._model is not None or ALGORITHMS[algorithm].is_black_box

    def num_cells(self, image: bytes) -> int:
        """Numbers in the map of an image, computed from its header."""
        return prod(frame_size(placement_of(*read_header(image).upright_hw, self._settings)))

    def explain(self, explain_task: ObjectExplainTask, deadline: Deadline) -> list[ExplainedObject]:
        """Explain the chosen objects, in order, or as many as time allows, at least one. Raises `OutOfTime`."""
        chosen = explain_task.choice.indices
        if not chosen:
            return []
        image_HWC = decode_image(explain_task.image, self._limits, self._settings.exif_orientation)
        image_views = ImageViews(image_HWC, self._settings)
        algorithm: ObjectAlgorithm = resolve_name(ALGORITHMS[explain_task.parameters.algorithm].function)
        found = algorithm(self, explain_task, image_views, deadline)
        return self._notes(explain_task, [found[index] for index in chosen if index in found])

    def explain_by_masking(
        self, explain_task: ObjectExplainTask, image_views: ImageViews, deadline: Deadline
    ) -> dict[int, ExplainedObject]:
        parameters, found = explain_task.parameters, dict[int, ExplainedObject]()
        start_s = deadline.elapsed_s()
        for masked in explain_by_masking(
            self._detect,
            image_views,
            explain_task.objects,
            explain_task.choice.indices,
            self._labels,
            parameters,
            deadline,
            self._options.chunk or DEFAULT_CHUNK,
        ):
            milliseconds = {"network": 1000 * (deadline.elapsed_s() - start_s)}
            for index, heat_HW in zip(masked.indices, masked.heats, strict=True):
                details = _details_of(explain_task, index, image_views, milliseconds)
                details.masks_used = masked.masks_used
                if masked.masks_used < parameters.masks:
                    late = f"the time ended after {masked.masks_used} of {parameters.masks} masks"
                    if not self._options.allow_degradation:
                        raise OutOfTime(f"{late}; ask for fewer 'masks', or allow more time")
                    details.degraded, details.warnings = True, (late,)
                if not heat_HW.any():
                    details.warnings += ("the map is zero: behind no mask there was a box like this one",)
                found[index] = ExplainedObject(
                    index, heat_HW, _draw(heat_HW, image_views, parameters, milliseconds), details
                )
                milliseconds = {}  # the network's time is reported once
            start_s = deadline.elapsed_s()
        return found

    def explain_by_gradients(
        self, explain_task: ObjectExplainTask, image_views: ImageViews, deadline: Deadline
    ) -> dict[int, ExplainedObject]:
        assert self._model is not None  # noqa: S101  the caller asked `can`
        found: dict[int, ExplainedObject] = {}
        pass_s = each_s = 0.0  # duration of the last forward pass, and of the last object after it
        for view, indices in by_view(explain_task.objects, explain_task.choice.indices):
            forward: DetectorForward | None = None
            for index in indices:
                checkpoint()
                needed_s = each_s + (pass_s if forward is None else 0.0)
                if found and (deadline.is_over() or deadline.remaining_s() < needed_s):
                    return found
                milliseconds = {}
                if forward is None:
                    start_s = deadline.elapsed_s()
                    forward = self._model.forward(image_views.network_input(view))
                    pass_s = deadline.elapsed_s() - start_s
                    milliseconds["network"] = 1000 * pass_s
                start_s = deadline.elapsed_s()
                found[index] = self._explain_one(explain_task, index, image_views, forward, milliseconds)
                each_s = deadline.elapsed_s() - start_s
        return found

    def _explain_one(
        self,
        explain_task: ObjectExplainTask,
        index: int,
        image_views: ImageViews,
        forward: DetectorForward,
        milliseconds: dict[str, float],
    ) -> ExplainedObject:
        target_object, parameters = explain_task.objects[index], explain_task.parameters
        view = image_views.views[target_object.view]
        start_s = time.perf_counter()
        details = _details_of(explain_task, index, image_views, milliseconds)
        class_id = self._labels.index(target_object.label)
        match = image_views.match(target_object, class_id, forward)
        details.matched_iou = None if match is None else match.iou
        if match is None or match.iou < SAME_BOX_IOU:
            heat_HW = np.zeros(image_views.size, np.float32)
            overlap = 0.0 if match is None else match.iou
            details.degraded = True
            details.warnings = (
                f"no map: the network that is explained has no candidate for this box (the nearest one overlaps it by "
                f"{overlap:.2f}, at least {SAME_BOX_IOU} is needed); the backend that serves computes otherwise",
            )
        else:
            gradients = self._gradients(forward, match.index, class_id, parameters)
            input_HW = view.placement.canvas_height, view.placement.canvas_width
            heat_HW = into_frame(
                heat_of(forward.levels, gradients, *input_HW), view.placement, view.tile, image_views.whole.placement
            )
            details.strides = tuple(
                level.stride
                for level, gradient in zip(forward.levels, gradients, strict=True)
                if gradient is not None and bool(gradient.any())
            )
            if not heat_HW.any():
                details.warnings = ("the map is zero: nothing in the picture adds to what is explained",)
        milliseconds["gradients"] = 1000 * (time.perf_counter() - start_s)
        return ExplainedObject(index, heat_HW, _draw(heat_HW, image_views, parameters, milliseconds), details)

    def _gradients(
        self, forward: DetectorForward, index: int, class_id: int, parameters: XaiParameters
    ) -> list[torch.Tensor | None]:
        """Derivatives of the target by each level's features; for a box, sums of absolute values over its sides."""
        with torch.enable_grad():
            return self._derivatives(forward, index, class_id, parameters)

    def _derivatives(
        self, forward: DetectorForward, index: int, class_id: int, parameters: XaiParameters
    ) -> list[torch.Tensor | None]:
        if parameters.target == "box":
            sides = forward.box(index, class_id)
            each = [_derive(side, forward) for side in sides.unbind()]
            return [
                None if parts[0] is None else torch.stack([part.abs() for part in parts if part is not None]).sum(dim=0)
                for parts in zip(*each, strict=True)
            ]
        if parameters.target == "score":
            return _derive(forward.score(index, class_id), forward)
        probs_MM = forward.mask(index, class_id)
        masks = self._settings.masks
        assert masks is not None  # noqa: S101  only models with masks have this target
        is_inside_MM = probs_MM.detach() > masks.mask_pixel_score_threshold
        if not is_inside_MM.any():
            return [None] * len(forward.levels)
        return _derive(probs_MM[is_inside_MM].mean(), forward)

    def _notes(self, explain_task: ObjectExplainTask, found: list[ExplainedObject]) -> list[ExplainedObject]:
        """Add to every explanation what was left out, and which parameters have no effect."""
        choice, parameters = explain_task.choice, explain_task.parameters
        missing = len(choice.indices) - len(found)
        if missing and not self._options.allow_degradation:
            raise OutOfTime(
                f"the time ended when {len(found)} of {len(choice.indices)} objects were explained; "
                "ask for fewer 'detections', or allow more time"
            )
        notes = []
        if missing:
            notes.append(f"the time ended when {len(found)} of {len(choice.indices)} objects were explained")
        if choice.num_left_out:
            total = len(choice.indices) + choice.num_left_out
            notes.append(f"{total} objects were asked for, of which the {len(choice.indices)} best are explained")
        is_less = bool(notes)
        if parameters.faithfulness:
            notes.append("'faithfulness' is measured for classifiers only")
        for part in found:
            part.details.degraded |= is_less
            part.details.warnings += tuple(notes)
        return found


def _details_of(
    explain_task: ObjectExplainTask, index: int, image_views: ImageViews, milliseconds: dict[str, float]
) -> ObjectDetails:
    target_object, parameters = explain_task.objects[index], explain_task.parameters
    details = ObjectDetails(
        parameters.algorithm, target_object.label, target_object.score, parameters.target, milliseconds=milliseconds
    )
    if target_object.view:
        tile = image_views.views[target_object.view].tile
        details.tile = tile.left, tile.top, tile.width, tile.height
    return details


def _draw(
    heat_HW: Floats, image_views: ImageViews, parameters: XaiParameters, milliseconds: dict[str, float]
) -> bytes | None:
    """The image of a map, if the parameters request one; notes its duration."""
    if not parameters.visualizations:
        return None
    start_s = time.perf_counter()
    image = explanation_image(heat_HW, image_views.small_HWC, parameters.visualization_format)
    milliseconds["picture"] = 1000 * (time.perf_counter() - start_s)
    return image


def _derive(value: torch.Tensor, forward: DetectorForward) -> list[torch.Tensor | None]:
    features = [level.features_1Cuv for level in forward.levels]
    return list(torch.autograd.grad(value, features, retain_graph=True, allow_unused=True))
