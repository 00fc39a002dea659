"""The Scorer: a package loaded to answer images. No HTTP, no TorchServe.

TorchServe workers, MLflow, the command line, batch jobs and benchmarks all score through this one class.
"""

import io
import logging
import math
import os
import threading
from collections.abc import Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from clearsight.documents.settings import Settings
from clearsight.errors import BadImage, BadRequest, InvalidPackage, UserError
from clearsight.handlers.backends import (
    BACKENDS,
    DEVICES,
    PRECISIONS,
    Array,
    Backend,
    Device,
    OpenOptions,
    Precision,
    candidates,
    device_exists,
    open_backend,
)
from clearsight.handlers.explain.deadline import OutOfTime
from clearsight.handlers.explain.parameters import wants_explanation
from clearsight.handlers.scoring.batching import BatchRule
from clearsight.handlers.scoring.budget import PixelGate, RequestBudget
from clearsight.handlers.scoring.classification import ClassificationPipeline
from clearsight.handlers.scoring.detection import Detections
from clearsight.handlers.scoring.detectors import DetectionPipeline
from clearsight.handlers.scoring.pipeline import Pipeline, never_stops, open_pipeline
from clearsight.images.decode import DecodeLimits, decode_image, decode_opened, open_image
from clearsight.images.headers import ImageHeader
from clearsight.runs.package import ModelPackage
from clearsight.tasks import Task
from clearsight.vision.letterbox import Placement
from clearsight.wire.answers import Answer
from clearsight.wire.cells import XaiRequest, resolve_cell

__all__ = ["MAX_BATCH_SIZE", "Scorer", "choose_backend", "load_scorer"]

MAX_BATCH_SIZE: Final = 8
"""Images per call of a backend. Measured on ResNet-50: larger batches gain nothing on the CPU."""

DEFAULT_LIMITS: Final = DecodeLimits()

log = logging.getLogger(__name__)


class _LockedBackend:
    """A backend behind a lock, so that several threads may call it."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._lock = threading.Lock()

    def run(self, inputs: Sequence[Array]) -> tuple[Array, ...]:
        with self._lock:
            return self._backend.run(inputs)


@dataclass(frozen=True, slots=True)
class _Row:
    """An image to score, opened but not decoded."""

    index: int
    data: bytes
    header: ImageHeader
    budget: RequestBudget


@dataclass(frozen=True, slots=True)
class _Prepared:
    """The input of the network for a row."""

    row: _Row
    image: Any

    def check(self) -> "_Prepared | UserError":
        """This, or why its answer is not needed."""
        budget = self.row.budget
        try:
            budget.check_time()
        except OutOfTime as error:
            return error
        return budget.reason_to_skip(self.row.index) or self


class Scorer:
    """Answers cells (anything `wire.resolve_cell` takes) with one loaded package. Safe in threads."""

    def __init__(
        self,
        package: ModelPackage,
        backend: Backend,
        backend_name: str,
        options: OpenOptions,
        max_batch_size: int = MAX_BATCH_SIZE,
        limits: DecodeLimits = DEFAULT_LIMITS,
        settings: Settings | None = None,
    ) -> None:
        """`settings` replace the package's own settings."""
        self.package = package
        self.task: Task = package.task
        self.labels: tuple[str, ...] = package.labels
        self.settings: Settings = package.settings() if settings is None else settings
        self.backend = backend_name
        self.device: Device = options.device
        self.precision: Precision = options.precision
        self.num_threads = options.num_threads
        self.max_batch_size = max_batch_size
        self.limits = limits
        self._pool = ThreadPoolExecutor(options.num_threads, "clearsight-decode") if options.num_threads > 1 else None
        cv2.setNumThreads(1)  # images are decoded in parallel; OpenCV's own threads would be added to these
        self._gate = PixelGate()
        self._pipeline: Pipeline = open_pipeline(
            package, self.settings, _LockedBackend(backend), options, max_batch_size
        )
        self.batch_rule: BatchRule = self._pipeline.batch_rule

    def score(
        self, cells: Sequence[object], budgets: Sequence[RequestBudget] | None = None
    ) -> list[Answer | UserError]:
        """Answer every cell, in order; a cell that cannot be scored gets its error instead of an answer.

        `budgets` has one element per cell, the same for the cells of one request, which fails as a whole: what its
        failure makes useless is not computed. None: every cell is a request of its own without limits.
        """
        if budgets is None:
            budgets = [RequestBudget(max_cost=math.inf) for _ in cells]
        rows = [self._open(*numbered) for numbered in zip(range(len(cells)), cells, budgets, strict=True)]
        # The cheapest request first: it is answered even if there is no time left for the others of its batch.
        order = sorted(range(len(cells)), key=lambda index: budgets[index].cost)
        results: dict[int, Answer | UserError] = {}
        step = self._pipeline.images_at_once
        for start in range(0, len(order), step):
            chunk = order[start : start + step]
            results |= zip(chunk, self._score_chunk([rows[index] for index in chunk]), strict=True)
        return [results[index] for index in range(len(cells))]

    def _open(self, index: int, cell: object, budget: RequestBudget) -> "_Row | UserError":
        """Read the header of a cell's image and charge its cost, or return the error of a bad cell."""
        if skipped := budget.reason_to_skip(index):
            return skipped
        try:
            data = resolve_cell(cell)
            if isinstance(data, XaiRequest):
                if wants_explanation(cell, self.task):
                    raise BadRequest("explanations are switched off here; leave out 'model_explainability'")
                data = data.image  # a detector ignores requests for Azure's explanations, as on Azure
            header = open_image(data, self.limits)
            budget.charge(header)
        except UserError as error:
            budget.fail(index)
            return error
        return _Row(index, data, header, budget)

    def _score_chunk(self, rows: Sequence["_Row | UserError"]) -> list[Answer | UserError]:
        if self._pool is None or len(rows) == 1:
            prepared = [self._prepare(row) for row in rows]
        else:
            prepared = list(self._pool.map(self._prepare, rows))
        # Networks that take one image a call are stopped between calls; a batch of others takes less than a decode.
        is_single = self.batch_rule == "alone" or len(rows) == 1
        groups = [[each] for each in prepared] if is_single else [prepared]
        return [result for group in groups for result in self._answer(group)]

    def _answer(self, prepared: Sequence["_Prepared | UserError"]) -> list[Answer | UserError]:
        """Run the network on what is prepared and still awaited."""
        kept = [each.check() if isinstance(each, _Prepared) else each for each in prepared]
        images = [each for each in kept if isinstance(each, _Prepared)]
        checkpoint = images[0].row.budget.check_time if len(kept) == 1 and images else never_stops
        try:
            answers = iter(self._pipeline.answer([each.image for each in images], checkpoint) if images else [])
        except OutOfTime as error:
            return [error]
        return [next(answers) if isinstance(each, _Prepared) else each for each in kept]

    def _prepare(self, row: "_Row | UserError") -> "_Prepared | UserError":
        """Decode an image and make the input of the pipeline's network, or return why not."""
        if not isinstance(row, _Row):
            return row
        budget, header = row.budget, row.header
        try:
            with self._gate.hold(header.height * header.width):
                if skipped := budget.reason_to_skip(row.index):
                    return skipped
                budget.check_time()
                image_HWC = decode_opened(row.data, header, self.settings.exif_orientation)
                return _Prepared(row, self._pipeline.prepare(image_HWC))
        except UserError as error:
            budget.fail(row.index)
            return error
        except MemoryError:
            budget.fail(row.index)
            return BadImage("decoding the picture needs more memory than this process may use; send a smaller one")

    def class_probabilities(self, inputs_N3PP: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        """A classifier's probabilities for prepared inputs, at least one: (N, number of classes).

        Used by explanations, which score altered images. Equal to the probabilities of `score` before rounding.
        """
        if not isinstance(self._pipeline, ClassificationPipeline):
            raise TypeError(f"a package of {self.task.value} has no probabilities of classes")
        return self._pipeline.class_probabilities(inputs_N3PP)

    def detect(
        self, canvases: Iterable[npt.NDArray[np.uint8]], placement: Placement, box_score_thresh: float
    ) -> Iterator[Detections]:
        """A detector's detections in prepared images; see `DetectionPipeline.detect`.

        Used by explanations, which detect in altered images.
        """
        if not isinstance(self._pipeline, DetectionPipeline):
            raise TypeError(f"a package of {self.task.value} finds no boxes")
        return self._pipeline.detect(canvases, placement, box_score_thresh)

    def warm_up(self) -> None:
        """Score an image of noise, so that the first client does not wait while the runtime prepares itself."""
        noise_HWC = np.random.default_rng(0).integers(0, 256, (480, 640, 3), dtype=np.uint8)
        stream = io.BytesIO()
        Image.fromarray(noise_HWC).save(stream, "JPEG")
        self._pipeline.warm_up(decode_image(stream.getvalue()))


def load_scorer(
    package: ModelPackage | Path | str,
    backend: str = "auto",
    device: Literal["auto", "cpu", "cuda"] = "auto",
    precision: Precision = "f32",
    num_threads: int | None = None,
    *,
    max_batch_size: int = MAX_BATCH_SIZE,
    limits: DecodeLimits = DEFAULT_LIMITS,
    cache_dir: Path | None = None,
) -> Scorer:
    """Load a package for scoring.

    `backend` "auto" takes the first of `handlers.backends.BACKENDS` that is installed and agreed with the network when
    the package was written; a deployment passes the one that `handlers.tuning.measure` found fastest. `device` "auto"
    is a CUDA device where there is one. `num_threads` defaults to the cores this process may use. `precision` "bf16"
    needs a passed gate in the package, and is served by the backend that passed it. `cache_dir` is a folder for
    compiled graphs (`OpenOptions.cache_dir`). Raises `UserError`, `InvalidPackage` or `InvalidDocument`.
    """
    if not isinstance(package, ModelPackage):
        package = ModelPackage.open(package)
    if precision not in PRECISIONS:
        raise UserError(f"precision must be {' or '.join(PRECISIONS)}, but got {precision!r}")
    if device not in ("auto", *DEVICES):
        raise UserError(f"device must be auto, cpu or cuda, but got {device!r}")
    threads = num_threads if num_threads is not None else len(os.sched_getaffinity(0))
    if threads < 1 or max_batch_size < 1:
        raise UserError(f"num_threads and max_batch_size must be at least 1, but got {threads} and {max_batch_size}")
    on = device if device != "auto" else _best_device(backend)
    try:
        return _load(package, backend, OpenOptions(on, precision, threads, cache_dir), max_batch_size, limits)
    except (UserError, InvalidPackage) as error:
        if device != "auto" or on == "cpu":
            raise
        log.warning("the GPU cannot be used (%s); scoring on the CPU", error)
        return _load(package, backend, OpenOptions("cpu", precision, threads, cache_dir), max_batch_size, limits)


def choose_backend(
    package: ModelPackage, backend: str = "auto", device: str = "auto", precision: Precision = "f32"
) -> tuple[str, Device]:
    """The backend and the device that `load_scorer` would take, without opening the graph. Raises `UserError`."""
    if device not in ("auto", *DEVICES):
        raise UserError(f"device must be auto, cpu or cuda, but got {device!r}")
    if backend != "auto" and backend not in BACKENDS:
        raise UserError(f"backend must be auto or one of {', '.join(BACKENDS)}, but got {backend!r}")
    on: Device = _best_device(backend) if device == "auto" else device  # type: ignore[assignment]  # checked above
    return _backend_name(package, backend, OpenOptions(on, precision)), on


def _backend_name(package: ModelPackage, backend: str, options: OpenOptions) -> str:
    proven = list(BACKENDS) if options.precision == "f32" else _proven_backends(package, options, backend)
    return backend if backend != "auto" else _best_backend(package, options, proven)


def _load(
    package: ModelPackage, backend: str, options: OpenOptions, max_batch_size: int, limits: DecodeLimits
) -> Scorer:
    name = _backend_name(package, backend, options)
    if name in BACKENDS and name not in candidates(package, options.device, options.precision):
        log.warning("the backend %s was not compared with the network when %s was written", name, package.root)
    return Scorer(package, open_backend(name, package, options), name, options, max_batch_size, limits)


def _best_device(backend: str) -> Device:
    """A CUDA device where the driver offers one and the backend can use it."""
    able = backend == "auto" or (backend in BACKENDS and "cuda" in BACKENDS[backend].devices)
    return "cuda" if able and device_exists("cuda") else "cpu"


def _best_backend(package: ModelPackage, options: OpenOptions, proven: Collection[str]) -> str:
    names = [name for name in candidates(package, options.device, options.precision) if name in proven]
    if not names:
        raise UserError(
            f"no installed backend can run {package.root} on {options.device} in {options.precision}; "
            f"known are {list(BACKENDS)}"
        )
    return names[0]


def _proven_backends(package: ModelPackage, options: OpenOptions, backend: str) -> list[str]:
    """Backends that passed the gate of a precision on a device. Raises `UserError` when `backend` is not among them."""
    precision = options.precision
    gates = package.precision_gates(precision, options.device)
    passed = [gate for gate in gates if gate.get("passed")]
    if not passed:
        found = f"it failed ({gates[-1].get('reason', 'see the manifest')})" if gates else "it has none"
        device = "" if options.device == "cpu" else f" --device {options.device}"
        raise UserError(
            f"precision {precision} needs a passed accuracy gate in {package.manifest_file}, but {found}; use f32, "
            f"or run the gate: python -m clearsight.handlers.tuning.precision_gate {package.root} PICTURES "
            f"--record{device}"
        )
    proven = [name for gate in passed for name in ([gate["backend"]] if "backend" in gate else BACKENDS)]
    spec = BACKENDS.get(backend)
    if spec is not None and precision in spec.precisions and backend not in proven:
        raise UserError(
            f"precision {precision} passed its gate in {package.manifest_file} with the backend {', '.join(proven)}, "
            f"but got backend {backend!r}; use {proven[0]}, or run the gate with --backend {backend}"
        )
    return proven
