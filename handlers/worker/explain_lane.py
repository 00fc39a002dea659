"""Who answers the rows that ask for an explanation: another worker, or this one with a model loaded when first needed.

A deployment has two workers for one package, so that an explanation of seconds never stands before predictions of
milliseconds: the predict lane turns away what asks, the explain lane explains. A TorchServe without our gateway has
one worker that does both.
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
    "ExplainHere",
    "ExplainRows",
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
    """What was asked beside a body, by the path or by the gateway."""

    explains_all: bool = False
    """Every row is to be explained, whether it says so or not."""
    deadline: float | None = None
    """When an explanation has to end, in seconds of the machine's monotonic clock; None: no limit is known."""
    in_background: bool = False
    """Nobody waits for the answer in a request: only `deadline` bounds it."""


NO_OPTIONS: Final = RequestOptions()


class ExplainRows(Protocol):
    """Answers the cells of one request of which at least one is to be explained.

    One answer or error per cell, in order. Raises UserError when the request as a whole cannot be answered.
    """

    def __call__(self, cells: Sequence[object], request_options: RequestOptions) -> Sequence[Answer | UserError]: ...


class RowExplainer(Protocol):
    """What we use of `explain.scoring.ExplainingScorer`."""

    def score(
        self, cells: Sequence[object], *, deadline_s: float | None, always: bool, fails_as_one: bool, is_awaited: bool
    ) -> Sequence[Answer | UserError]: ...

    def warm_up(self) -> None: ...


def reject_explanations(cells: Sequence[object], request_options: RequestOptions) -> Sequence[Answer | UserError]:
    """The predict lane's answer. A client sees the text only where the deployment has no explain lane."""
    raise WrongLane(
        "Explanations are switched off for this deployment; its environment variable CLEARSIGHT_EXPLAIN switches them "
        "on. Leave out 'model_explainability' for plain scores."
    )


class ExplainHere:
    """Explains in this process. What that takes is loaded with the first request that needs it, or by `prepare`.

    Loading goes on in a thread of its own: a request whose time ends meanwhile is told so, and a later one finds it
    done. `timeout_s` bounds one request where the gateway says nothing; None: no bound.
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
        """Begin to load and warm up, without waiting for it. The thread has the priority of its caller."""
        self._load(warm_up=True)

    def _load(self, *, warm_up: bool) -> "Future[RowExplainer]":
        """The loading under way, or done; a failed one is begun anew."""
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
        except Exception as error:  # the requests that wait are told, and the next one tries again
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
            if loading.done() and loading.exception() is not None:  # a failure to load, of this very type
                raise
            raise OutOfTime(
                "what explanations need is still being loaded, which the worker does once; ask again in some seconds"
            ) from None


def _time_left(deadline: float | None) -> float | None:
    """Seconds until then; None without a limit. Raises OutOfTime."""
    if deadline is None:
        return None
    left_s = deadline - time.monotonic()
    if left_s <= 0:
        raise OutOfTime("the time for the explanation ended before it began; raise request_timeout_ms, or send less")
    return left_s


def preload(explain: ExplainRows) -> None:
    """Load now what explanations need, beside whatever the worker answers, unless the environment forbids it.

    Raises UserError for bad options.
    """
    if isinstance(explain, ExplainHere) and ExplainOptions.from_variables(environment.explain_variables()).warm_up:
        explain.prepare()


def explainer_for_lane(
    lane: str, scorer: "Scorer", timeout_s: float | None = None, max_answer_bytes: int | None = None
) -> ExplainRows:
    """What a worker of `lane` does with requests that ask for explanations. Raises UserError for an unknown lane.

    `max_answer_bytes` bounds an answer; None leaves it to the explainer.
    """
    if lane not in get_args(Lane):
        raise UserError(f"lane must be one of {list(get_args(Lane))}, but got {lane!r}")
    if lane == "predict":
        return reject_explanations
    return ExplainHere(scorer, timeout_s, partial(open_explainer, max_answer_bytes=max_answer_bytes))


def open_explainer(scorer: "Scorer", max_answer_bytes: int | None = None) -> RowExplainer:
    """A scorer that explains, built around one that predicts, with the options of the environment."""
    from clearsight.handlers.explain.answering.scoring import explaining_scorer  # imports torch, which takes seconds

    options = ExplainOptions.from_variables(environment.explain_variables())
    if max_answer_bytes is not None:
        options = replace(options, max_answer_bytes=max_answer_bytes)
    return explaining_scorer(scorer, options)
