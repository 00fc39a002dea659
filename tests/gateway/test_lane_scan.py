"""The byte scan that chooses the lane, against a parse of both JSON layers."""

import base64
import json
import os
import time
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from clearsight.serving.gateway.lane_scan import MAX_HOPS, asks_for_explanation

KEY = "model_explainability"


def body_of(*rows, **params) -> bytes:
    return json.dumps({"input_data": {"columns": ["image"], "data": list(rows)}, **params}).encode()


def row(**keys) -> str:
    return json.dumps({"image_base64": "QUJD", **keys})


def pieces_of(body: bytes, cuts: list[int]) -> list[bytes | memoryview]:
    places = [0, *sorted(cut % (len(body) + 1) for cut in cuts), len(body)]
    pieces = [body[start:end] for start, end in pairwise(places)]
    return [memoryview(piece) if number % 2 else piece for number, piece in enumerate(pieces)]


@pytest.mark.parametrize(
    ("body", "asks"),
    [
        (b"", False),
        (b"{}", False),
        (body_of("QUJD"), False),
        (body_of(row(model_explainability=True)), True),
        (body_of(row(model_explainability=True, xai_parameters={"xai_algorithm": "xrai"})), True),
        (body_of("QUJD", params={KEY: True}), True),
        (body_of(row(model_explainability=False)), False),
        (body_of("QUJD", params={KEY: None}), False),
        (body_of(row(model_explainability=False), row(model_explainability=True)), True),
        (b'{"model_explainability" \r\n:\t true}', True),
        (b'{"model_explainability" \r\n:\t false}', False),
        (b'{"model_explainability":' + b" " * 40 + b"false}", True),  # too far behind: the explain lane predicts
        (body_of("a text that names model_explainability"), True),  # so it does here
        (b'{"model\\u005fexplainability": true}', False),  # escaped: the predict lane answers 421
        (b"model_explainabilit", False),
        (b"odel_explainability", False),
        (b"model_explainability", True),
        (b"_" * (MAX_HOPS + 4) + b"model_explainability", True),
        (b"_" * 100 + b"model_explainability_false" + b"_" * 100, True),
    ],
)
def test_the_key_counts_unless_its_value_is_false_or_null(body, asks):
    assert asks_for_explanation([body]) is asks
    assert asks_for_explanation([body[at : at + 1] for at in range(len(body))]) is asks


switches = st.sampled_from([True, False, None, ...])
texts = st.text(st.sampled_from('_modelxpainbty"\\{:é '), max_size=60)


@given(
    st.lists(st.tuples(switches, texts, texts), max_size=4), switches, st.lists(st.integers(0, 2000), max_size=12),
    st.sampled_from([None, 1, (",", ":")]), st.booleans(),
)  # fmt: skip
@example([(True, "", "")], ..., [30, 31, 60, 61], None, True)
def test_no_spelling_without_escapes_is_missed_however_the_body_is_cut(rows, switch, cuts, style, is_ascii):
    layout = {"ensure_ascii": is_ascii, **({"indent": style} if style == 1 else {"separators": style})}
    cells = []
    for value, before, after in rows:
        keys = {"image_base64": before, **({} if value is ... else {KEY: value}), "note": after}
        cells.append(json.dumps(keys, **layout))
    params = {} if switch is ... else {KEY: switch}
    document = {"input_data": {"columns": ["image"], "data": cells}, "params": params}
    body = json.dumps(document, **layout).encode()
    is_asked = switch is True or any(value is True for value, _, _ in rows)
    found = asks_for_explanation(pieces_of(body, cuts))
    if is_asked:
        assert found
    elif found:  # only a text that contains the key unescaped
        assert any(KEY in text for _, before, after in rows for text in (before, after))


@given(st.binary(max_size=400), st.lists(st.integers(0, 400), max_size=8))
def test_where_a_body_is_cut_changes_nothing(noise, cuts):
    for body in (noise, noise + b'model_explainability": true' + noise, noise + b'model_explainability":false' + noise):
        assert asks_for_explanation(pieces_of(body, cuts)) is asks_for_explanation([body])


def cpu_s(pieces: list[bytes]) -> float:
    """Least processor time of five runs, whatever else the machine does."""
    best = float("inf")
    for _ in range(5):
        started = time.process_time()
        asks_for_explanation(pieces)
        best = min(best, time.process_time() - started)
    return best


@pytest.mark.parametrize(
    "unit",
    [
        base64.encodebytes(os.urandom(3000)),
        base64.urlsafe_b64encode(os.urandom(3000)),
        b"_",
        b"model_explainabilitx",
        b'model_explainability":false,' * 100 + b"x" * 60_000,
    ],
)
def test_the_cost_grows_no_faster_than_the_body(unit):
    small, large = (unit * (size // len(unit)) for size in (1_000_000, 8_000_000))
    assert cpu_s(pieces_of(large, list(range(0, 8_000_000, 200_000)))) < 40 * cpu_s([small]) + 0.05
