"""A Scorer that also explains: cells in, answers out, with explanations in the rows that request them.

    cell --> request.read_cell --> image, parameters
    all cells --> Scorer --> probabilities --> targets.choose_targets
                         --> boxes --> objects.choose_detections
    rows with a request --> Explainer, ObjectExplainer --> images and numbers --> their answers

Probabilities and boxes are those of the serving backend, and equal to those of a row without an explanation. Detectors
ignore requests for Azure's algorithms, as on Azure.
"""

import io
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from clearsight.catalogue.algorithms import MAX_DETECTIONS
from clearsight.catalogue.models import find_row
from clearsight.errors import BadRequest, UserError
from clearsight.handlers.backends import Device, Precision
from clearsight.handlers.explain.answering.cache import ByteCache
from clearsight.handlers.explain.answering.explainer import ClassExplainer, ExplainTask, Explanation
from clearsight.handlers.explain.answering.numbers import encode_attribution, first_too_many
from clearsight.handlers.explain.answering.request import ExplainRequest, read_cell
from clearsight.handlers.explain.answering.targets import choose_targets
from clearsight.handlers.explain.deadline import Deadline, OutOfTime
from clearsight.handlers.explain.network.model import ExplainModel
from clearsight.handlers.explain.network.precision import require_bfloat16
from clearsight.handlers.explain.objects.explainer import ExplainedObject, ObjectExplainer, ObjectExplainTask
from clearsight.handlers.explain.objects.network import ObjectModel
from clearsight.handlers.explain.objects.selection import choose_detections
from clearsight.handlers.explain.options import DEFAULT_OPTIONS, ExplainOptions
from clearsight.handlers.explain.parameters import XaiParameters, require_short
from clearsight.handlers.explain.telemetry import ExplainedRow, note_row, note_rows_done
from clearsight.handlers.scoring.budget import RequestBudget
from clearsight.handlers.scoring.scorer import Scorer
from clearsight.images.decode import decode_image
from clearsight.networks.load import load_network
from clearsight.tasks import Task
from clearsight.vision.preprocess import resize_and_crop
from clearsight.wire.answers import Answer, ClassificationAnswer, DetectionAnswer, ObjectExplanation

__all__ = ["ExplainOptions", "ExplainingScorer", "explaining_scorer"]

_DETAILS_BYTES: Final = 4096
"""Memory that the details of one explanation take: a dictionary of about 20 values, 2 to 3 KB."""

Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True, eq=False)
class _Rendered:
    """The explanations of one row, encoded for the answer."""

    visualizations: tuple[bytes, ...] | None
    attributions: tuple[bytes, ...] | None
    details: tuple[dict[str, Any], ...] | None
    is_degraded: bool
    indices: tuple[int, ...] = ()
    """Detectors: positions of the explained objects in `boxes`."""

    @property
    def num_bytes(self) -> int:
        texts = sum(map(len, (*(self.visualizations or ()), *(self.attributions or ()))))
        return 1024 + texts + _DETAILS_BYTES * len(self.details or ())


@dataclass(frozen=True, slots=True, eq=False)
class _ParsedRequest:
    """The image of a row, as the network takes it, and the parameters of its explanation."""

    digest: bytes
    crop_PPC: Bytes
    parameters: XaiParameters


@dataclass(frozen=True, slots=True, eq=False)
class _Row:
    """One parsed cell. `cell` is what the Scorer scores; `parsed` is None for rows without an explanation.

    For a detector it is the request itself: its image is decoded when the row is explained.
    """

    cell: object
    parsed: _ParsedRequest | ExplainRequest | None = None


class ExplainingScorer:
    """Answers cells as a `Scorer` does, and explains the rows that request it. Safe in threads.

    `model` is a copy of the network that predicts, never the same object.
    """

    def __init__(
        self,
        scorer: Scorer,
        model: ExplainModel | ObjectModel | None,
        options: ExplainOptions = DEFAULT_OPTIONS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.package = scorer.package
        self.task: Task = scorer.task
        self.labels = scorer.labels
        self.backend = scorer.backend
        self.precision: Precision = scorer.precision
        self._scorer = scorer
        self._options = options
        self._clock = clock
        self._cache: ByteCache[_Rendered] = ByteCache(options.cache_bytes)
        self._settings = scorer.settings
        self._explainer: ClassExplainer | None = None
        self._objects: ObjectExplainer | None = None
        detection, classification = scorer.settings.detection, scorer.settings.classification
        if detection is not None:
            eager = model if isinstance(model, ObjectModel) else None
            self._objects = ObjectExplainer(eager, scorer.detect, self.labels, detection, scorer.limits, options)
        elif classification is not None and not isinstance(model, ObjectModel):
            self._explainer = ClassExplainer(scorer, model, self.labels, classification, options)

    def score(
        self,
        cells: Sequence[object],
        *,
        deadline_s: float | None = None,
        always: bool = False,
        fails_as_one: bool = False,
        is_awaited: bool = False,
    ) -> list[Answer | UserError]:
        """Answer every cell, in order; a cell that cannot be answered has its error instead of an answer.

        `deadline_s` seconds are for all cells together. `always` also explains cells without a request. `fails_as_one`:
        the caller drops all answers if there is one error, so that nothing is explained after the first error.
        `is_awaited`: a client waits for the answer, so that requests that take minutes are refused.
        """
        deadline = Deadline(deadline_s, self._clock)
        rows = [self._read(cell, always, is_awaited) for cell in cells]
        plain = [row.cell for row in rows if isinstance(row, _Row)]
        end = None if deadline_s is None else self._clock() + deadline_s
        of_request = RequestBudget(end, clock=self._clock)
        scored = iter(self._scorer.score(plain, [of_request] * len(plain) if fails_as_one else None))
        results: list[Answer | UserError] = [next(scored) if isinstance(row, _Row) else row for row in rows]
        tasks: dict[int, ExplainTask | ObjectExplainTask] = {}
        for index, (row, answer) in enumerate(zip(rows, results, strict=True)):
            if isinstance(row, _Row) and row.parsed is not None and not isinstance(answer, UserError):
                try:
                    tasks[index] = self._task_of(row.parsed, answer)
                except BadRequest as error:
                    results[index] = error
        too_many = first_too_many(
            (
                (index, explain_task.num_numbers, parameters.attributions_format)
                for index, explain_task in tasks.items()
                if (parameters := explain_task.parameters).attributions
            ),
            self._options.max_answer_bytes,
        )
        if too_many is not None:
            results[too_many[0]] = too_many[1]
        for done, (index, explain_task) in enumerate(tasks.items()):
            if fails_as_one and any(isinstance(result, UserError) for result in results):
                break
            note_rows_done(done, len(tasks))
            answer = results[index]
            if not isinstance(answer, UserError):
                budget = self._budget(deadline, len(tasks) - done, explain_task.parameters)
                results[index] = self._answer(explain_task, answer, budget)
        return results

    def explain(self, image: bytes, parameters: XaiParameters) -> tuple[ClassificationAnswer, list[Explanation]]:
        """Score one image file and explain it, as arrays. Raises `UserError`."""
        answer, explain_task = self._parse_single(image, parameters)
        if self._explainer is None or not isinstance(explain_task, ExplainTask):
            raise TypeError(f"{self.package.root} is not one of classification, but of {self.task.value}")
        assert isinstance(answer, ClassificationAnswer)  # noqa: S101  the task is one of classification
        return answer, self._explainer.explain(explain_task, self._budget(Deadline(None, self._clock), 1, parameters))

    def explain_objects(self, image: bytes, parameters: XaiParameters) -> tuple[DetectionAnswer, list[ExplainedObject]]:
        """Score one image file with a detector, and explain the chosen objects. Raises `UserError`."""
        answer, explain_task = self._parse_single(image, parameters)
        if self._objects is None or not isinstance(explain_task, ObjectExplainTask):
            raise TypeError(f"{self.package.root} is not one of detection, but of {self.task.value}")
        assert isinstance(answer, DetectionAnswer)  # noqa: S101  the task is one of detection
        return answer, self._objects.explain(explain_task, self._budget(Deadline(None, self._clock), 1, parameters))

    def _parse_single(self, image: bytes, parameters: XaiParameters) -> tuple[Answer, ExplainTask | ObjectExplainTask]:
        parsed = self._parse_request(ExplainRequest(image, parameters))
        (answer,) = self._scorer.score([image])
        if isinstance(answer, UserError):
            raise answer
        return answer, self._task_of(parsed, answer)

    def warm_up(self) -> None:
        """Score and explain an image of noise, so that the first client does not wait for caches."""
        self._scorer.warm_up()
        if self._explainer is None:
            return  # the first explanation of a detector loads nothing beyond what its first prediction loads
        noise_HWC = np.random.default_rng(0).integers(0, 256, (480, 640, 3), dtype=np.uint8)
        stream = io.BytesIO()
        Image.fromarray(noise_HWC).save(stream, "PNG")
        self.explain(stream.getvalue(), XaiParameters(n_steps=2))

    def _read(self, cell: object, always: bool, is_awaited: bool) -> _Row | UserError:
        try:
            request = read_cell(cell, always, self._options.limits, self.task)
            if request is None:
                return _Row(cell)
            if is_awaited:
                require_short(request.parameters)
            return _Row(request.image, self._parse_request(request))
        except BadRequest as error:
            return error

    def _parse_request(self, request: ExplainRequest) -> _ParsedRequest | ExplainRequest:
        settings = self._settings.classification
        if settings is None:
            return request
        image_HWC = decode_image(request.image, self._scorer.limits, settings.exif_orientation)
        return _ParsedRequest(request.digest, resize_and_crop(image_HWC, settings), request.parameters)

    def _task_of(self, parsed: _ParsedRequest | ExplainRequest, answer: Answer) -> ExplainTask | ObjectExplainTask:
        options = self._options
        if isinstance(parsed, ExplainRequest) or isinstance(answer, DetectionAnswer):
            return self._object_task_of(parsed, answer)
        targets = choose_targets(
            answer.probs, self.labels, self.task, parsed.parameters, options.max_labels, options.allow_degradation
        )
        return ExplainTask(parsed.crop_PPC, parsed.digest, answer.probs, targets, parsed.parameters)

    def _budget(self, deadline: Deadline, rows_left: int, parameters: XaiParameters) -> Deadline:
        """An equal share of the time left, but no more than the request and the deployment allow for an image."""
        seconds = [limit for limit in (parameters.max_seconds, self._options.max_seconds) if limit is not None]
        if deadline.seconds is not None:
            seconds.append(deadline.remaining_s() / rows_left)
        return Deadline(min(seconds, default=None), self._clock)

    def _object_task_of(self, parsed: _ParsedRequest | ExplainRequest, answer: Answer) -> ObjectExplainTask:
        # One scorer has one task, so that both are of the same kind.
        assert isinstance(parsed, ExplainRequest) and isinstance(answer, DetectionAnswer)  # noqa: S101, PT018
        assert self._objects is not None  # noqa: S101  a detector has one
        if not self._objects.can(parsed.parameters.algorithm):
            raise BadRequest(f"{self.package.root} was loaded without the network that explanations need")
        choice = choose_detections(
            [found.score for found in answer.boxes],
            parsed.parameters,
            MAX_DETECTIONS,
            self._settings.masks is not None,
            self._options.allow_degradation,
        )
        num_cells = self._objects.num_cells(parsed.image)
        return ObjectExplainTask(parsed.image, parsed.digest, answer.boxes, choice, parsed.parameters, num_cells)

    def _answer(
        self, explain_task: ExplainTask | ObjectExplainTask, answer: Answer, budget: Deadline
    ) -> Answer | UserError:
        if not explain_task.parameters.wants_explanation:
            return answer
        key = (explain_task.digest, replace(explain_task.parameters, max_seconds=None))
        rendered = self._cache.get(key)
        is_cached = rendered is not None
        if rendered is None:
            try:
                rendered = self._render(explain_task, budget)
            except UserError as error:
                return error
            if not rendered.is_degraded:
                self._cache.put(key, rendered, rendered.num_bytes)
        if is_cached:
            _note_cached(explain_task)
        details = rendered.details
        if is_cached and details is not None:
            details = tuple({**part, "cached": True} for part in details)
        if isinstance(answer, DetectionAnswer):
            return replace(answer, explanations=_of_objects(rendered, details), is_degraded=rendered.is_degraded)
        is_list = isinstance(explain_task, ExplainTask) and explain_task.targets.is_list
        return replace(
            answer,
            visualizations=_shaped(rendered.visualizations, is_list),
            attributions=_shaped(rendered.attributions, is_list),
            explanation_details=_shaped(details, is_list),
            is_degraded=rendered.is_degraded,
        )

    def _render(self, explain_task: ExplainTask | ObjectExplainTask, budget: Deadline) -> _Rendered:
        asked_for = (
            explain_task.targets.class_ids if isinstance(explain_task, ExplainTask) else explain_task.choice.indices
        )
        if asked_for and budget.is_over():
            raise OutOfTime(
                "the time for this request ended before the row's turn; send fewer rows, or allow more time"
            )
        parameters = explain_task.parameters
        found: Sequence[Explanation | ExplainedObject]
        if isinstance(explain_task, ObjectExplainTask):
            assert self._objects is not None  # noqa: S101  a task implies it
            found = self._objects.explain(explain_task, budget)
        else:
            assert self._explainer is not None  # noqa: S101  a task implies it
            found = self._explainer.explain(explain_task, budget)
        _note(found, parameters)
        attributions = None
        if parameters.attributions:
            form = parameters.attributions_format
            attributions = tuple(encode_attribution(part.numbers, form) for part in found)
        return _Rendered(
            tuple(part.image for part in found if part.image) if parameters.visualizations else None,
            attributions,
            tuple(part.details.to_document() for part in found) if _shows_details(parameters) else None,
            any(part.details.degraded for part in found),
            tuple(part.index for part in found if isinstance(part, ExplainedObject)),
        )


def _shaped(values: tuple[Any, ...] | None, is_list: bool) -> Any:
    return values if values is None or is_list else values[0]


def _of_objects(rendered: _Rendered, details: Sequence[dict[str, Any]] | None) -> tuple[ObjectExplanation, ...]:
    return tuple(
        ObjectExplanation(
            index,
            None if rendered.visualizations is None else rendered.visualizations[position],
            None if rendered.attributions is None else rendered.attributions[position],
            None if details is None else details[position],
        )
        for position, index in enumerate(rendered.indices)
    )


def _note(found: Sequence[Explanation | ExplainedObject], parameters: XaiParameters) -> None:
    """Note what was computed for the metrics: one row per object, or one per image for all its labels."""
    is_degraded = any(part.details.degraded for part in found)
    for part in found:
        if isinstance(part, Explanation):
            details = part.details
            note_row(ExplainedRow(details.algorithm, details.milliseconds, is_degraded, is_cached=False))
            break
        note_row(ExplainedRow(parameters.algorithm, part.details.milliseconds, part.details.degraded, is_cached=False))


def _note_cached(explain_task: ExplainTask | ObjectExplainTask) -> None:
    """Note cached explanations, which are never degraded."""
    if isinstance(explain_task, ObjectExplainTask):
        count = len(explain_task.choice.indices)
    else:
        count = min(1, len(explain_task.targets.class_ids))
    for _ in range(count):
        note_row(ExplainedRow(explain_task.parameters.algorithm, {}, is_degraded=False, is_cached=True))


def _shows_details(parameters: XaiParameters) -> bool:
    return parameters.details or parameters.faithfulness


def explaining_scorer(scorer: Scorer, options: ExplainOptions = DEFAULT_OPTIONS) -> ExplainingScorer:
    """Extend a loaded Scorer by an eager copy of the network, built from the package's weights; takes 1 to 2 s.

    Torch then uses as many threads as the Scorer does, in the whole process. Raises `UserError` for bfloat16 where the
    machine cannot compute in it.
    """
    torch.set_num_threads(scorer.num_threads)
    device: Device = scorer.device if torch.cuda.is_available() else "cpu"
    if not scorer.task.is_classification:
        family = find_row(scorer.package.model_name).family
        return ExplainingScorer(scorer, ObjectModel(load_network(scorer.package).to(device), family), options)
    if options.dtype == "bfloat16":
        require_bfloat16(torch.device(device))
    model = ExplainModel(load_network(scorer.package).to(device), scorer.package.model_name)
    return ExplainingScorer(scorer, model, options)
