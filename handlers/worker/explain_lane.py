"""How a worker answers rows that ask for an explanation: it rejects them, or loads a model at first need and explains.

A deployment has two workers for one package, so that an explanation of seconds never blocks predictions of
milliseconds: the predict lane rejects requests for explanations, the explain lane answers them. A TorchServe without
the gateway has one worker that does both.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Final, Protocol, get_args

from clearsight import environment
from clearsight.errors import UserError
from clearsight.handlers.explain.deadline import OutOfTime
from clearsight.handlers.explain.options import ExplainOptions
from clearsight.wire.answers import Answer
from clearsight.wire.lane_protocol import WRONG_LANE_STATUS, Lane

if TYPE_CHECKING:
    from clearsight.handlers.scoring.scorer import Scorer

__all__ = [
    "NO_OPTIONS",
    "ExplainRows",
    "InProcessExplainer",
    "RequestOptions",
    "WrongLane",
    "explainer_for_lane",
    "preload",
    "reject_explanations",
]

log = logging.getLogger(__name__)


class WrongLane(UserError):
    """A row asks for an explanation in the predict lane; the gateway sends the request to the other lane."""

    status = WRONG_LANE_STATUS


@dataclass(frozen=True, slots=True)
class RequestOptions:
    """What the path or the gateway's headers ask for, in addition to the body."""

    explains_all: bool = False
    """Every row is to be explained, whether it asks for that or not."""
    deadline: float | None = None
    """When the answer has to be there, in seconds of the machine's monotonic clock; None: no limit."""
    in_background: bool = False
    """The request is a job, whose client does not wait: only `deadline` limits it."""


NO_OPTIONS: Final = RequestOptions()


class ExplainRows(Protocol):
    """Answers the cells of one request of which at least one is to be explained.

    One answer or error per cell, in order. Raises UserError when the request as a whole cannot be answered.
    """

    def __call__(self, cells: Sequence[object], request_options: RequestOptions) -> Sequence[Answer | UserError]: ...


class RowExplainer(Protocol):
    """The methods of `ExplainingScorer` that this module uses."""

    def score(
        self, cells: Sequence[object], *, deadline_s: float | None, always: bool, fails_as_one: bool, is_awaited: bool
    ) -> Sequence[Answer | UserError]: ...

    def warm_up(self) -> None: ...


def reject_explanations(cells: Sequence[object], request_options: RequestOptions) -> Sequence[Answer | UserError]:
    """The answer of the predict lane. A client gets the text only where the deployment has no explain lane."""
    raise WrongLane(
        "Explanations are switched off for this deployment; its environment variable CLEARSIGHT_EXPLAIN switches them "
        "on. Leave out 'model_explainability' for plain scores."
    )


class InProcessExplainer:
    """Explains in this process. The model for that is loaded by the first request that needs it, or by `prepare`.

    It is loaded in a thread of its own: a request whose time ends meanwhile gets OutOfTime, and loading goes on for
    the next one. `timeout_s` limits a request that has no deadline from the gateway; None: no limit.
    """

    def __init__(
        self, scorer: "Scorer", timeout_s: float | None, open_explainer: Callable[["Scorer"], RowExplainer]
    ) -> None:
        self._scorer = scorer
        self._timeout_s = timeout_s
        self._open_explainer = open_explainer
        self._lock = threading.Lock()
        self._loading: Future[RowExplainer] | None = None

    def __call__(self, cells: Sequence[object], request_options: RequestOptions) -> Sequence[Answer | UserError]:
        started = time.monotonic()
        timeout_s = None if request_options.in_background else self._timeout_s
        ends = [end for end in (request_options.deadline, timeout_s and started + timeout_s) if end is not None]
        deadline = min(ends, default=None)
        _time_left(deadline)
        explainer = self._wait_for(self._load(warm_up=False), deadline)
        deadline_s = _time_left(deadline)
        answers = explainer.score(
            cells,
            deadline_s=deadline_s,
            always=request_options.explains_all,
            fails_as_one=True,
            is_awaited=not request_options.in_background,
        )
        log.info("explained a request of %d rows in %.0f ms", len(cells), (time.monotonic() - started) * 1000)
        return answers

    def prepare(self) -> None:
        """Start to load and warm up, and return at once. The thread has the scheduling priority of its caller."""
        self._load(warm_up=True)

    def _load(self, *, warm_up: bool) -> "Future[RowExplainer]":
        """The present load, running or done; a failed one is started again."""
        with self._lock:
            loading = self._loading
            if loading is None or (loading.done() and loading.exception() is not None):
                loading = self._loading = Future()
                threading.Thread(
                    target=self._open, args=(loading,), kwargs={"warm_up": warm_up}, name="load-explainer", daemon=True
                ).start()
            return loading

    def _open(self, loading: "Future[RowExplainer]", *, warm_up: bool) -> None:
        started = time.monotonic()
        try:
            explainer = self._open_explainer(self._scorer)
            if warm_up:
                explainer.warm_up()
        except Exception as error:  # raised in the requests that wait; the next one tries again
            log.warning("what explanations need cannot be loaded: %s: %s", type(error).__name__, error)
            loading.set_exception(error)
            return
        log.info("loaded what explanations need in %.1f s", time.monotonic() - started)
        loading.set_result(explainer)

    @staticmethod
    def _wait_for(loading: "Future[RowExplainer]", deadline: float | None) -> RowExplainer:
        try:
            return loading.result(None if deadline is None else max(0.0, deadline - time.monotonic()))
        except TimeoutError:
            if loading.done() and loading.exception() is not None:  # loading itself raised a TimeoutError
                raise
            raise OutOfTime(
                "what explanations need is still being loaded, which the worker does once; ask again in some seconds"
            ) from None


def _time_left(deadline: float | None) -> float | None:
    """Seconds until `deadline`; None without one. Raises OutOfTime."""
    if deadline is None:
        return None
    left_s = deadline - time.monotonic()
    if left_s <= 0:
        raise OutOfTime("the time for the explanation ended before it began; raise request_timeout_ms, or send less")
    return left_s


def preload(explain: ExplainRows) -> None:
    """Load now what explanations need, while the worker answers requests, unless the environment forbids it.

    Raises UserError for bad options.
    """
    if (
        isinstance(explain, InProcessExplainer)
        and ExplainOptions.from_variables(environment.explain_variables()).warm_up
    ):
        explain.prepare()


def explainer_for_lane(
    lane: str, scorer: "Scorer", timeout_s: float | None = None, max_answer_bytes: int | None = None
) -> ExplainRows:
    """What a worker of `lane` does with requests that ask for explanations. Raises UserError for an unknown lane.

    `max_answer_bytes` limits an answer; None: the limit of the explanation options.
    """
    if lane not in get_args(Lane):
        raise UserError(f"lane must be one of {list(get_args(Lane))}, but got {lane!r}")
    if lane == "predict":
        return reject_explanations
    return InProcessExplainer(scorer, timeout_s, partial(open_explainer, max_answer_bytes=max_answer_bytes))


def open_explainer(scorer: "Scorer", max_answer_bytes: int | None = None) -> RowExplainer:
    """An explaining scorer on top of `scorer`, with the options of the environment."""
    from clearsight.handlers.explain.answering.scoring import explaining_scorer  # imports torch, which takes seconds

    options = ExplainOptions.from_variables(environment.explain_variables())
    if max_answer_bytes is not None:
        options = replace(options, max_answer_bytes=max_answer_bytes)
    return explaining_scorer(scorer, options)
