"""Which rows are explained, and in which lane; with a stand-in for the explaining scorer."""

import base64
import json
import threading
import time
from dataclasses import replace
from typing import Any

import pytest

from clearsight.errors import BadRequest, UserError
from clearsight.handlers.explain.deadline import OutOfTime
from clearsight.handlers.explain.options import ExplainOptions
from clearsight.handlers.explain.parameters import wants_explanation
from clearsight.handlers.scoring.answering import answer_bodies
from clearsight.handlers.scoring.scorer import Scorer
from clearsight.handlers.worker.explain_lane import InProcessExplainer, RequestOptions, explainer_for_lane, preload
from clearsight.tasks import Task


def cell(image: bytes, **keys: Any) -> str:
    return json.dumps({"image_base64": base64.b64encode(image).decode(), **keys})


def body_of(*cells: object, **document: Any) -> bytes:
    return json.dumps({"input_data": {"columns": ["image"], "data": list(cells)}, **document}).encode()


class StandIn:
    """Scores like the scorer, marks the rows that it was asked to explain, and records its calls."""

    def __init__(self, scorer: Scorer) -> None:
        self.scorer = scorer
        self.calls: list[tuple[int, float | None, bool]] = []
        self.error: UserError | None = None
        self.num_warm_ups = 0

    def warm_up(self) -> None:
        self.num_warm_ups += 1

    def score(
        self, cells: Any, *, deadline_s: float | None, always: bool, fails_as_one: bool, is_awaited: bool
    ) -> list[Any]:
        assert (fails_as_one, is_awaited) == (True, True)
        self.calls.append((len(cells), deadline_s, always))
        if self.error:
            return [self.error for _ in cells]
        plain = [json.loads(text)["image_base64"] if text.startswith("{") else text for text in cells]
        return [
            replace(answer, visualizations=b"PNG", is_degraded=True) if always or text.startswith("{") else answer
            for answer, text in zip(self.scorer.score(plain), cells, strict=True)
        ]


class OnDemand:
    """An `InProcessExplainer` whose explainer is the stand-in; `opened` tells how often that was loaded.

    Loading ends when `may_load` is set, or raises `fault`.
    """

    def __init__(self, scorer: Scorer, timeout_s: float | None = None, load_s: float = 0.0) -> None:
        self.stand_in = StandIn(scorer)
        self.opened = 0
        self.load_s = load_s
        self.may_load = threading.Event()
        self.may_load.set()
        self.fault: Exception | None = None
        self.explain = InProcessExplainer(scorer, timeout_s, self._open)

    def _open(self, scorer: Scorer) -> StandIn:
        self.opened += 1
        assert self.may_load.wait(30)
        time.sleep(self.load_s)
        if self.fault:
            raise self.fault
        return self.stand_in


@pytest.mark.parametrize(
    ("given", "is_asked"),
    [
        ("", False),
        ("QUJD", False),
        ("{", False),
        ("{}", False),
        (b"\x89PNG", False),
        (None, False),
        ([], False),
        ({"model_explainability": True}, True),
        ('\n {"model_explainability": true}', True),
        (b'{"model_explainability": true}', True),
        (['{"model_explainability": true, "xai_parameters": null}'], True),
        ('{"model_explainability": false}', False),
        ('{"model_explainability": "true"}', False),  # wrong, which the scorer reports
        ('{"model\\u005fexplainability": true}', True),
        ('"\ud800{"', False),
    ],
)
def test_a_cell_asks_with_true_only(given: object, is_asked: bool) -> None:
    assert wants_explanation(given, Task.MULTI_CLASS) is is_asked


@pytest.mark.parametrize(
    ("algorithm", "is_asked"),
    [(None, False), ("xrai", False), ("guided_backprop", False), ("odam", True), ("d_rise", True)],
)
def test_only_algorithms_that_azure_does_not_have_are_computed_for_detectors(algorithm: object, is_asked: bool) -> None:
    given = {"model_explainability": True, "xai_parameters": {"xai_algorithm": algorithm}}
    assert wants_explanation(given, Task.DETECTION) is is_asked
    assert wants_explanation(given, Task.MULTI_LABEL)


def test_the_predict_lane_rejects_all_of_a_request_and_answers_the_others(scorer: Scorer, images: Any) -> None:
    explain = explainer_for_lane("predict", scorer)
    plain = base64.b64encode(images[0]).decode()
    bodies = [body_of(plain), body_of(plain, cell(images[0], model_explainability=True)), body_of()]
    replies = answer_bodies(scorer, bodies, (), explain)
    assert [reply.status for reply in replies] == [200, 421, 200]
    assert replies[0] == answer_bodies(scorer, bodies[:1])[0]
    assert "switched off" in json.loads(replies[1].body)["message"]
    assert answer_bodies(scorer, [body_of(plain, params={"model_explainability": True})], (), explain)[0].status == 421


def test_plain_requests_never_load_what_explanations_need(scorer: Scorer, images: Any, make_body: Any) -> None:
    on_demand = OnDemand(scorer)
    plain = [make_body(*images[:2]), body_of(), body_of(cell(images[0], model_explainability=False)), b"nonsense"]
    assert answer_bodies(scorer, plain, (), on_demand.explain) == answer_bodies(scorer, plain)
    assert on_demand.opened == 0
    asking = body_of(cell(images[0], model_explainability=True))
    for _ in range(2):
        assert answer_bodies(scorer, [asking], (), on_demand.explain)[0].status == 200
    assert on_demand.opened == 1


def test_only_the_asking_rows_of_a_request_are_explained_and_others_keep_their_bytes(
    scorer: Scorer, images: Any, make_body: Any
) -> None:
    on_demand = OnDemand(scorer)
    mixed = body_of(base64.b64encode(images[0]).decode(), cell(images[1], model_explainability=True))
    before, reply, after = answer_bodies(scorer, [make_body(images[0]), mixed, b"[]"], (), on_demand.explain)
    assert [("visualizations" in row) for row in json.loads(reply.body)] == [False, True]
    assert (reply.is_degraded, before.is_degraded) == (True, False)
    assert before == answer_bodies(scorer, [make_body(images[0])])[0]
    assert after.status == 400


def test_the_option_for_all_rows_reaches_the_explainer_with_the_remaining_time(
    scorer: Scorer, images: Any, make_body: Any
) -> None:
    on_demand = OnDemand(scorer, timeout_s=50.0, load_s=0.2)
    bodies = [make_body(images[0]), body_of(cell(images[0], model_explainability=True)), make_body(images[0])]
    request_options = [
        RequestOptions(explains_all=True, deadline=time.monotonic() + 10),
        RequestOptions(),
        RequestOptions(),
    ]
    assert [reply.status for reply in answer_bodies(scorer, bodies, request_options, on_demand.explain)] == [200] * 3
    [(rows, first_s, first_all), (_, second_s, second_all)] = on_demand.stand_in.calls
    assert (rows, first_all, second_all) == (1, True, False)
    assert 9 < first_s < 9.81  # loading took some of it
    assert 49 < second_s <= 50
    assert answer_bodies(scorer, [body_of()], request_options[:1], on_demand.explain)[0].body == b"[]"
    unbounded = OnDemand(scorer)
    answer_bodies(scorer, bodies[1:2], (), unbounded.explain)
    assert unbounded.stand_in.calls == [(1, None, False)]


def test_a_deadline_that_has_passed_is_408_without_any_work(scorer: Scorer, images: Any) -> None:
    on_demand = OnDemand(scorer)
    asking = body_of(cell(images[0], model_explainability=True))
    reply = answer_bodies(scorer, [asking], [RequestOptions(deadline=time.monotonic() - 0.01)], on_demand.explain)[0]
    assert (reply.status, on_demand.stand_in.calls) == (408, [])
    assert "request_timeout_ms" in json.loads(reply.body)["message"]


def test_after_prepare_the_first_request_finds_a_warm_explainer(scorer: Scorer, images: Any) -> None:
    on_demand = OnDemand(scorer)
    asking = body_of(cell(images[0], model_explainability=True))
    on_demand.may_load.clear()
    preload(on_demand.explain)
    on_demand.explain.prepare()
    plain = body_of(base64.b64encode(images[0]).decode())
    assert answer_bodies(scorer, [plain], (), on_demand.explain) == answer_bodies(
        scorer, [plain]
    )  # a plain request does not wait for it
    assert on_demand.opened == 1
    on_demand.may_load.set()
    for _ in range(2):
        assert answer_bodies(scorer, [asking], (), on_demand.explain)[0].status == 200
    assert (on_demand.opened, on_demand.stand_in.num_warm_ups) == (1, 1)


def test_a_request_whose_time_ends_while_loading_fails_and_a_later_one_finds_it_loaded(
    scorer: Scorer, images: Any
) -> None:
    on_demand = OnDemand(scorer)
    on_demand.may_load.clear()
    asking = body_of(cell(images[0], model_explainability=True))
    reply = answer_bodies(scorer, [asking], [RequestOptions(deadline=time.monotonic() + 0.05)], on_demand.explain)[0]
    assert reply.status == 408
    assert "being loaded" in json.loads(reply.body)["message"]
    on_demand.may_load.set()
    assert answer_bodies(scorer, [asking], (), on_demand.explain)[0].status == 200
    assert on_demand.opened == 1


def test_a_failure_to_load_fails_the_request_and_the_next_one_tries_again(scorer: Scorer, images: Any) -> None:
    on_demand = OnDemand(scorer)
    on_demand.fault = BadRequest("no such backend")
    asking = body_of(cell(images[0], model_explainability=True))
    for opened in (1, 2):
        reply = answer_bodies(scorer, [asking], (), on_demand.explain)[0]
        assert (reply.status, json.loads(reply.body)["message"]) == (400, "no such backend")
        assert on_demand.opened == opened
    on_demand.fault = TimeoutError("a disk that does not answer")
    with pytest.raises(TimeoutError, match="a disk"):
        answer_bodies(scorer, [asking], (), on_demand.explain)
    on_demand.fault = None
    assert answer_bodies(scorer, [asking], (), on_demand.explain)[0].status == 200


def test_nothing_is_loaded_ahead_in_the_predict_lane_or_where_the_environment_forbids_it(
    scorer: Scorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    preload(explainer_for_lane("predict", scorer))
    on_demand = OnDemand(scorer)
    monkeypatch.setenv("CLEARSIGHT_EXPLAIN_WARM_UP", "false")
    preload(on_demand.explain)
    assert on_demand.opened == 0
    monkeypatch.setenv("CLEARSIGHT_EXPLAIN_WARM_UP", "perhaps")
    with pytest.raises(UserError, match="CLEARSIGHT_EXPLAIN_WARM_UP: must be true or false"):
        preload(on_demand.explain)


@pytest.mark.parametrize(("error", "status"), [(OutOfTime("too slow"), 408), (BadRequest("no such label"), 400)])
def test_an_error_of_a_row_keeps_its_status_and_names_the_row(
    scorer: Scorer, images: Any, error: UserError, status: int
) -> None:
    on_demand = OnDemand(scorer)
    on_demand.stand_in.error = error
    reply = answer_bodies(scorer, [body_of(cell(images[0], model_explainability=True))], (), on_demand.explain)[0]
    assert (reply.status, reply.num_rows) == (status, 0)
    assert json.loads(reply.body)["message"] == f"row 0, column 'image': {error}"


def test_the_explaining_scorer_gets_the_scorer_and_the_options_of_environment_and_worker(
    scorer: Scorer, images: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Any] = []

    def explaining_scorer(given: Scorer, options: ExplainOptions) -> StandIn:
        made.extend((given, options.chunk, options.max_answer_bytes))
        return StandIn(given)

    monkeypatch.setattr("clearsight.handlers.explain.answering.scoring.explaining_scorer", explaining_scorer)
    monkeypatch.setenv("CLEARSIGHT_EXPLAIN_CHUNK", "3")
    explain = explainer_for_lane("explain", scorer, None, 1000)
    assert made == []
    asking = body_of(cell(images[0], model_explainability=True))
    assert answer_bodies(scorer, [asking], (), explain)[0].status == 200
    assert made == [scorer, 3, 1000]


def test_a_worker_of_all_lanes_explains_the_row_that_asks_and_keeps_the_bytes_of_its_scores(
    scorer: Scorer, images: Any, make_body: Any
) -> None:
    parameters = {"xai_algorithm": "guided_backprop", "attributions": True}
    asking = body_of(cell(images[0], model_explainability=True, xai_parameters=parameters))
    explain = explainer_for_lane("all", scorer, 60.0, 10_000_000)
    explained, plain = answer_bodies(scorer, [asking, make_body(images[0])], (), explain)
    assert (explained.status, explained.is_degraded) == (200, False)
    assert explained.telemetry
    [told] = explained.telemetry["rows"]
    assert (told["algorithm"], told["cached"], set(told["ms"])) == ("guided_backprop", False, {"gradients", "picture"})
    assert plain.telemetry is None
    [row] = json.loads(explained.body)
    [scores] = json.loads(plain.body)
    assert set(row) == {"probs", "labels", "visualizations", "attributions"}
    assert row["visualizations"].startswith("iVBORw0KGgo")
    assert {key: row[key] for key in scores} == scores


def test_an_unknown_lane_is_refused(scorer: Scorer) -> None:
    with pytest.raises(UserError, match="lane must be one of"):
        explainer_for_lane("fast", scorer)
