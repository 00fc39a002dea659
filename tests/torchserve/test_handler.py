"""The adapter without a TorchServe, but with TorchServe's own Context and its own encoder of answers."""

import gc
import json
import logging
import struct
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from clearsight.handlers import torchserve
from clearsight.handlers.scoring import answering
from clearsight.handlers.scoring.answering import Reply
from clearsight.handlers.torchserve import LineFormatter, TorchServeHandler
from clearsight.handlers.worker.background import Background
from clearsight.handlers.worker.explain_lane import RequestOptions
from clearsight.tasks import Task
from clearsight.wire import lane_protocol

RequestAnswer = tuple[int, str, dict[str, str], bytes]


@pytest.fixture(scope="module")
def ts() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchServe leaves a file open
        import ts.service

        gc.collect()
    return ts.service


@pytest.fixture
def handler(monkeypatch: pytest.MonkeyPatch) -> TorchServeHandler:
    """Answers `[<length>]`; a body `status N` gets N, `big N` gets N bytes, `raise …` raises, `options` its options."""

    def answer_bodies(
        _: object, bodies: list[bytes], request_options: list[RequestOptions], explain: object, timeout_s: object
    ) -> list[Reply]:
        replies = []
        for body, options in zip(bodies, request_options, strict=True):
            word, _, rest = body.partition(b" ")
            if word == b"raise":
                raise ValueError(rest.decode("utf-8", "surrogateescape"))
            if word == b"memory":
                raise MemoryError("CUDA out of memory")
            if word == b"status":
                replies.append(Reply(int(rest), b'{"message":"as asked"}', 0))
            elif word == b"big":
                replies.append(Reply(200, b"x" * int(rest), 1))
            elif word == b"options":
                replies.append(Reply(200, json.dumps([options.explains_all, options.deadline]).encode(), 1))
            elif word == b"degraded":
                replies.append(Reply(200, b"[]", 1, is_degraded=True))
            elif word == b"told":
                replies.append(Reply(200, b"[]", 1, telemetry={"chunk": 8, "rows": [{"a": "é" * int(rest)}]}))
            elif word == b"lost":
                return []
            else:
                replies.append(Reply(200, b"[%d]" % len(body), 1))
        return replies

    monkeypatch.setattr(answering, "answer_bodies", answer_bodies)
    handler = TorchServeHandler()
    handler.max_answer_bytes = 1000
    return handler


@pytest.fixture
def ask(handler: TorchServeHandler, ts: Any) -> Callable[..., list[RequestAnswer]]:
    """Send a batch through the handler and TorchServe's encoder, and decode the frame as TorchServe's Java does."""

    def send(*bodies: Any, headers: dict[str, str] | None = None) -> list[RequestAnswer]:
        context = ts.Context("blue", "/nowhere", {}, 4, None, "0", True, None, {})
        context.request_processor = [ts.RequestProcessor(dict(headers or {})) for _ in bodies]
        rows = [body if isinstance(body, dict) else {"body": bytearray(body)} for body in bodies]
        returned = handler.handle(rows, context)
        assert all(type(answer) is bytes for answer in returned)
        frame = ts.create_predict_response(
            returned, {index: str(index) for index in range(len(bodies))}, "ok", 200, context
        )
        return decode(bytes(frame), len(bodies))

    return send


def decode(frame: bytes, num_items: int) -> list[RequestAnswer]:
    """Read TorchServe's response frame: lengths are counted in bytes."""
    position = 0

    def number() -> int:
        nonlocal position
        position += 4
        return int(struct.unpack("!i", frame[position - 4 : position])[0])

    def block() -> bytes:
        nonlocal position
        length = number()
        position += length
        return frame[position - length : position]

    assert number() == 200
    block()
    answers = []
    for index in range(num_items):
        assert block() == str(index).encode()
        content_type = block().decode("ascii")
        status = number()
        phrase = block().decode("ascii")
        headers = {block().decode("ascii"): block().decode("ascii") for _ in range(number())}
        assert headers["content-type"] == content_type
        answers.append((status, phrase, headers, block()))
    assert number() == -1
    assert position == len(frame)
    return answers


def test_an_empty_batch_has_no_answers(ask: Callable[..., list[RequestAnswer]]) -> None:
    assert ask() == []


def test_an_answer_has_the_mark_of_the_handler_and_its_duration(ask: Callable[..., list[RequestAnswer]]) -> None:
    [(status, _, headers, body)] = ask(b"hello")
    assert (status, body) == (200, b"[5]")
    assert headers["x-clearsight-answer"] == "1"
    assert headers["x-ms-run-function-failed"] == "False"
    assert float(headers["x-ms-run-fn-exec-ms"]) >= 0
    assert headers["content-type"] == "application/json"


def test_one_bad_item_among_four_fails_alone(ask: Callable[..., list[RequestAnswer]]) -> None:
    answers = ask(b"a", b"raise it", b"status 400", b"dddd")
    assert [status for status, *_ in answers] == [200, 500, 400, 200]
    assert [answers[0][3], answers[3][3]] == [b"[1]", b"[4]"]
    assert answers[1][2]["x-ms-run-function-failed"] == "True"
    assert answers[2][1] == "Bad Request"


@pytest.mark.parametrize("text", ["é", "\ud800", "a\r\nb", "[METRICS]x", "CUDA out of memory", "\x00"])
def test_a_fault_of_any_text_becomes_ascii_json_without_that_text(
    ask: Callable[..., list[RequestAnswer]], text: str
) -> None:
    [(status, phrase, headers, body)] = ask(b"raise " + text.encode("utf-8", "surrogatepass"))
    assert (status, phrase) == (500, "Internal Server Error")
    assert set(json.loads(body)) == {"message"}
    assert text.encode("utf-8", "surrogatepass") not in body + phrase.encode()
    assert all(isinstance(value, str) and value.isascii() for value in headers.values())


def test_exhausted_memory_and_a_lost_reply_fail_their_request_only(ask: Callable[..., list[RequestAnswer]]) -> None:
    assert [status for status, *_ in ask(b"memory", b"lost", b"a")] == [500, 500, 200]


def test_an_answer_over_the_limit_is_422_with_advice(ask: Callable[..., list[RequestAnswer]]) -> None:
    answers = ask(b"big 1000", b"big 1001", b"a")
    assert [status for status, *_ in answers] == [200, 422, 200]
    assert "at most 1000 bytes, but has 1001" in json.loads(answers[1][3])["message"]


def test_413_becomes_422(ask: Callable[..., list[RequestAnswer]]) -> None:
    assert [status for status, *_ in ask(b"status 413")] == [422]


@pytest.mark.parametrize("status", [299, 418, 499, 599])
def test_a_status_without_a_known_phrase_still_has_an_ascii_one(
    ask: Callable[..., list[RequestAnswer]], status: int
) -> None:
    [(got, phrase, _, _)] = ask(b"status %d" % status)
    assert (got, phrase.isascii()) == (status, True)


def test_describe_headers_change_nothing(ask: Callable[..., list[RequestAnswer]]) -> None:
    headers = {"describe": "True", "KFSERVING_EXPLAIN": "1", "Explain": "True"}
    assert [answer[3] for answer in ask(b"abc", b"options", headers=headers)] == [b"[3]", b"[false, null]"]


@pytest.mark.parametrize(
    ("lane", "headers", "request_options"),
    [
        ("all", {}, [False, None]),
        ("all", {"explain": "True"}, [True, None]),  # TorchServe's own, for /explanations and :explain
        ("explain", {"explain": "True", "x-clearsight-deadline": "12.500"}, [True, 12.5]),
        ("explain", {"explain": "no", "x-clearsight-deadline": "nan"}, [False, None]),
        ("explain", {"x-clearsight-deadline": "soon"}, [False, None]),
        ("predict", {"explain": "True", "x-clearsight-deadline": "12.5"}, [False, 12.5]),
    ],
)
def test_the_gateways_deadline_becomes_an_option_and_the_path_too_but_in_the_predict_lane(
    handler: TorchServeHandler,
    ask: Callable[..., list[RequestAnswer]],
    lane: str,
    headers: dict[str, str],
    request_options: list[Any],
) -> None:
    handler.lane = lane
    assert json.loads(ask(b"options", headers=headers)[0][3]) == request_options


def test_job_commands_run_in_the_explain_lane_only(
    handler: TorchServeHandler, ask: Callable[..., list[RequestAnswer]]
) -> None:
    def order(text: str, body: bytes = b"{}") -> tuple[str, int, dict[str, str], bytes]:
        [(status, _, headers, answer)] = ask(body, headers={"x-clearsight-job": text, "explain": "True"})
        return headers.get("x-clearsight-job", ""), status, headers, answer

    assert order("start 1", b"abc")[::3] == ("", b"[3]")
    handler.lane, handler.background = "explain", Background()
    assert order("poll 1")[:2] == ("unknown", 200)
    for job_id, body, status in (("1", b"degraded", 200), ("2", b"status 422", 422), ("3", b"raise it", 500)):
        state = order(f"start {job_id}", body)
        while state[0] in ("running", "busy"):  # busy: the thread of the job before is about to end
            state = order(f"start {job_id}", body) if state[0] == "busy" else order(f"poll {job_id}")
        [(expected, _, headers, answer)] = ask(body)
        assert (state[:2], state[3]) == (("done", expected), answer)
        assert expected == status
        assert state[2].get("x-explanation-degraded") == headers.get("x-explanation-degraded")
    assert order("poll 1")[0] == "unknown"
    assert order("end 3")[0] == "unknown"
    assert order("poll 3")[0] == "unknown"


def test_a_wrong_lane_and_a_degraded_explanation_have_headers(ask: Callable[..., list[RequestAnswer]]) -> None:
    wrong, degraded, plain = ask(b"status 421", b"degraded", b"a")
    assert (wrong[0], wrong[2]["x-clearsight-lane"], wrong[2]["x-clearsight-answer"]) == (421, "explain", "1")
    assert (degraded[0], degraded[2]["x-explanation-degraded"]) == (200, "1")
    assert not {"x-clearsight-lane", "x-explanation-degraded"} & set(plain[2])
    assert "x-explanation-degraded" not in wrong[2]


def test_the_cost_of_explanations_is_an_ascii_header_unless_it_is_too_long(
    ask: Callable[..., list[RequestAnswer]],
) -> None:
    told, too_long, plain = ask(b"told 1", b"told 3000", b"a")
    assert told[2]["x-clearsight-explained"] == '{"chunk":8,"rows":[{"a":"\\u00e9"}]}'
    assert [status for status, *_ in (told, too_long)] == [200, 200]
    assert "x-clearsight-explained" not in {**too_long[2], **plain[2]}


def test_a_body_that_torchserve_has_parsed_is_written_again(ask: Callable[..., list[RequestAnswer]]) -> None:
    answers = ask({"body": {"a": 1}}, {"data": "text"}, {"body": {"a": "\ud800"}}, {"data": b"raw"})
    assert [answer[3] for answer in answers] == [b"[8]", b"[4]", b"[15]", b"[3]"]


def test_a_form_is_415_and_an_empty_body_goes_to_the_scorer(ask: Callable[..., list[RequestAnswer]]) -> None:
    answers = ask({"picture": bytearray(b"x")}, {})
    assert [(answer[0], answer[3][:1]) for answer in answers] == [(415, b"{"), (200, b"[")]


def test_no_logged_text_can_start_a_line_of_its_own() -> None:
    formatter = LineFormatter("%(levelname)s: %(message)s")
    record = logging.LogRecord("x", logging.ERROR, "f", 1, "a\n[METRICS]Forged.Count:1\r\u2028b\x1b[31m", None, None)
    lines = formatter.format(record).split("\n")
    assert all(line.startswith("clearsight | ") for line in lines)
    assert "\x1b" not in formatter.format(record)
    assert len(lines) == 4


@pytest.fixture
def quiet_logging() -> Any:
    """`initialize` sets up the logging of a worker; put back what the tests had."""
    loggers = [logging.getLogger(name) for name in ("clearsight", "py.warnings", "")]
    before = [(logger, logger.handlers[:], logger.propagate, logger.level) for logger in loggers]
    yield
    logging.captureWarnings(False)
    for logger, handlers, propagate, level in before:
        logger.handlers, logger.propagate = handlers, propagate
        logger.setLevel(level)


@pytest.mark.usefixtures("quiet_logging")
def test_a_package_that_cannot_be_loaded_leaves_one_line_and_a_file(tmp_path: Path, ts: Any) -> None:
    config = {"clearsight": {"package": "none", "diagnostic_file": str(tmp_path / "new" / "error.txt")}}
    context = ts.Context("blue", str(tmp_path), {}, 1, None, "0", True, None, config)
    with pytest.raises(RuntimeError, match="cannot load the model: InvalidPackage") as error:
        TorchServeHandler().initialize(context)
    assert "\n" not in str(error.value)
    assert (tmp_path / "new" / "error.txt").read_text().startswith("InvalidPackage: ")


@pytest.mark.usefixtures("quiet_logging")
@pytest.mark.parametrize(
    ("lane", "task", "is_preloaded"),
    [
        (None, Task.MULTI_CLASS, True),  # of a .mar archive
        (None, Task.MULTI_LABEL, True),
        (None, Task.DETECTION, False),
        ("explain", Task.DETECTION, True),
        ("predict", Task.MULTI_CLASS, False),
    ],
)
def test_a_worker_that_will_explain_loads_what_that_needs_at_its_start(
    lane: str | None, task: Task, is_preloaded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    preloaded: list[object] = []
    monkeypatch.setattr("clearsight.handlers.worker.explain_lane.preload", preloaded.append)
    monkeypatch.setattr("clearsight.handlers.torchserve._leave_cores_to_others", lambda: None)
    handler = TorchServeHandler()
    handler.scorer = SimpleNamespace(task=task)  # type: ignore[assignment]
    handler._choose_lane({"lane": lane}, 60.0)
    assert len(preloaded) == is_preloaded


def test_threads_are_set_from_the_configuration_and_logged(
    tmp_path: Path, ts: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given: dict[str, Any] = {}

    class Scorer:
        package = type("Package", (), {"model_name": "tiny"})
        backend = precision = "x"
        task = Task.DETECTION

        def warm_up(self) -> None:
            given["warm"] = True

    def load_scorer(path: Path, **options: Any) -> Scorer:
        given.update(options, path=path)
        return Scorer()

    monkeypatch.setattr("clearsight.handlers.scoring.scorer.load_scorer", load_scorer)
    config = {"minWorkers": 2, "clearsight": {"package": "/abs/package", "num_threads": 3, "backend": "onnxruntime"}}
    TorchServeHandler().initialize(ts.Context("blue", str(tmp_path), {}, 1, None, "0", True, None, config))
    assert given == {
        "path": Path("/abs/package"),
        "backend": "onnxruntime",
        "device": "auto",
        "precision": "f32",
        "num_threads": 3,
        "cache_dir": None,
        "warm": True,
    }
    assert (
        "clearsight | INFO clearsight.torchserve: loaded tiny: backend x, precision x, 3 threads"
        in capsys.readouterr().out
    )


def test_the_module_imports_neither_heavy_modules_nor_torchserves_base_handler() -> None:
    """Of this package it imports only the names shared with the gateway, from a module that imports only `typing`."""
    source, shared = Path(torchserve.__file__).read_text(), Path(lane_protocol.__file__).read_text()
    top = [line for line in source.splitlines() if line.startswith(("import ", "from "))]
    assert [line for line in top if "clearsight" in line] == ["from clearsight.wire.lane_protocol import ("]
    assert not [line for line in top if "torch" in line.split()[1]]
    imports = [line for line in shared.splitlines() if line.startswith(("import ", "from "))]
    assert imports == ["from typing import Final, Literal"]
    assert "base_handler" not in source
