import base64
import gzip
import json
import tracemalloc
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clearsight.errors import BadImage, BadRequest, ClearsightError, TooLarge
from clearsight.wire.answers import ClassificationAnswer
from clearsight.wire.cells import XaiRequest, resolve_cell
from clearsight.wire.encoding import encode_answers
from clearsight.wire.errors import error_body, row_error
from clearsight.wire.requests import MAX_ROWS, parse_request, read_request

# The 8 x 4 image of Azure's documentation style examples, with the newline that encodebytes writes.
PNG_TEXT = (
    "iVBORw0KGgoAAAANSUhEUgAAAAgAAAAECAIAAAA8r+mnAAAAG0lEQVR42mNkYPj/n4GRAQMw/mfA"
    "\nDpgYSJUAAAwLAwVVg6ebAAAAAElFTkSuQmCC\n"
)
PNG = base64.b64decode(PNG_TEXT)
BARE = PNG_TEXT.replace("\n", "")


def body(input_data: object, **rest: object) -> bytes:
    return json.dumps({"input_data": input_data, **rest}).encode()


def xai(image: str = PNG_TEXT, **rest: object) -> str:
    return json.dumps({"image_base64": image, **rest})


class TestParseRequest:
    def test_no_rows_give_no_cells(self):
        assert parse_request(body({"columns": ["image"], "data": []})) == []
        assert parse_request(body({"columns": ["image"], "index": [], "data": []}, params={})) == []
        assert parse_request(body([])) == []

    def test_every_form_of_the_request_gives_the_same_cells(self, check_rows):
        def check(request_body):
            assert parse_request(request_body) == ["a", "b"]

        check_rows(
            check,
            [
                body({"columns": ["image"], "data": ["a", "b"]}),
                body({"columns": ["image"], "data": [["a"], ["b"]], "index": [0, 1]}),
                body({"columns": ["image"], "data": ["a", "b"], "index": [0, 1]}),
                body({"columns": ["image"], "data": ["a", ["b"]], "index": ["x", "y"]}),
                body({"columns": ["id", "image", "more"], "data": [[1, "a", None], [2, "b", {}]]}),
                body(["a", "b"]),
                body([["a"], ["b"]]),
                body(["a", "b"], params=None),
                body(["a", "b"], params={"temperature": 1}),
                b"\xef\xbb\xbf" + body(["a", "b"]),
                b" \n" + body(["a", "b"]) + b"\n ",
            ],
        )

    def test_every_form_of_an_instance_gives_the_same_cells(self, check_rows):
        """The bodies of KServe's samples for TorchServe, and of TensorFlow Serving's REST API."""

        def check(instances):
            rows = read_request(json.dumps({"instances": instances}).encode())
            assert (rows.cells, rows.has_instances) == (["a", "b"], True)

        check_rows(
            check,
            [
                ["a", "b"],
                [{"data": "a"}, {"data": "b", "target": 0}],
                [{"b64": "a"}, {"b64": "b"}],
                [{"image": {"b64": "a"}}, {"image": "b"}],
                [{"image_bytes": {"b64": "a"}, "key": "1"}, {"image_bytes": {"b64": "b"}, "key": "2"}],
            ],
        )
        explain = {"image_base64": "a", "model_explainability": True}
        assert read_request(json.dumps({"instances": [explain]}).encode()).cells == [explain]
        assert read_request(b'{"instances": []}').cells == []
        both = read_request(body(["a"], instances=["b"]))
        assert (both.cells, both.has_instances) == (["a"], False)

    def test_a_broken_instance_is_named(self, check_rows):
        def check(instances, message):
            with pytest.raises(BadRequest) as caught:
                parse_request(json.dumps({"instances": instances}).encode())
            assert message in str(caught.value)

        check_rows(
            check,
            [
                ("a", "'instances' must be a list"),
                ({"data": "a"}, "'instances' must be a list"),
                (["a", {}], "row 1, column 'image': an instance must be base64 text"),
                ([{"picture": "a"}], "but got an object with the keys picture"),
                ([{"data": "a", "image": "a"}], "but got an object with the keys data, image"),
                (["a"] * (MAX_ROWS + 1), f"at most {MAX_ROWS} rows"),
                (None, "A value is not provided for the 'input_data' parameter."),
            ],
        )

    def test_a_compressed_body_is_read(self):
        plain = body([base64.b64encode(bytes(range(256)) * 500).decode(), "b"])
        for level in (0, 1, 9):
            assert parse_request(gzip.compress(plain, level)) == parse_request(plain)

    def test_a_compressed_body_that_cannot_be_read_says_why(self, check_rows):
        packed = gzip.compress(body(["a" * 5000]))

        def check(request_body, message):
            with pytest.raises(BadRequest) as caught:
                parse_request(request_body)
            assert message in str(caught.value)

        check_rows(
            check,
            [
                (packed[:-1], "is cut off"),
                (packed[:2], "is cut off"),
                (packed[:-8] + bytes(8), "cannot be decompressed"),
                (b"\x1f\x8b\xff" + packed[3:], "cannot be decompressed"),
                (packed + packed, "one gzip member"),
                (gzip.compress(b""), "POST body is empty"),
                (gzip.compress(packed), "could not be decoded as JSON"),
                (zlib.compress(body(["a"])), "could not be decoded as JSON"),
            ],
        )

    def test_a_body_that_grows_beyond_expectation_is_not_decompressed_to_its_end(self):
        """64 MB from 0.3 MB: at most 8 times the size is read."""
        bomb = gzip.compress(bytes(2**26), 1)
        tracemalloc.start()
        try:
            with pytest.raises(TooLarge, match="send it without compression"):
                parse_request(bomb)
            assert tracemalloc.get_traced_memory()[1] < 40 * len(bomb)
        finally:
            tracemalloc.stop()

    def test_a_broken_envelope_is_a_bad_request_with_azures_words(self, check_rows):
        def check(request_body, message):
            with pytest.raises(BadRequest) as caught:
                parse_request(request_body)
            assert message in str(caught.value)
            assert str(caught.value).isascii()
            assert caught.value.status == 400

        check_rows(
            check,
            [
                (b"", "POST body is empty."),
                (b"  \n", "POST body is empty."),
                (b"{", "POST body could not be decoded as JSON: "),
                (b"\xff\xfe", "POST body could not be decoded as JSON: "),
                (b'{"input_data": NaN}', "POST body could not be decoded as JSON: "),
                (b'{"input_data": ["\\ud800"]}', "POST body could not be decoded as JSON: "),
                (b"[" * 100_000, "POST body could not be decoded as JSON: "),
                (b"[1]", "POST body should be a JSON dictionary."),
                (b'"text"', "POST body should be a JSON dictionary."),
                (b"null", "POST body should be a JSON dictionary."),
                (b"{}", "A value is not provided for the 'input_data' parameter."),
                (b'{"input_data": null}', "A value is not provided for the 'input_data' parameter."),
                (b'{"dataframe_split": {}}', "A value is not provided for the 'input_data' parameter."),
                (body("text"), "'input_data' must be an object"),
                (body({"data": ["a"]}), "'columns' of 'input_data' must be a list that holds 'image', but got null"),
                (body({"columns": [], "data": []}), "but got []"),
                (body({"columns": ["images"], "data": ["a"]}), "but got ['images']"),
                (body({"columns": "image", "data": ["a"]}), "'columns' of 'input_data'"),
                (body({"columns": ["image"]}), "'data' of 'input_data' must be a list"),
                (body({"columns": ["image"], "data": "a"}), "'data' of 'input_data' must be a list"),
                (body({"columns": ["image"], "data": ["a"], "index": []}), "has 0 for 1 rows"),
                (body({"columns": ["image"], "data": [], "index": [0]}), "has 1 for 0 rows"),
                (body({"columns": ["image"], "data": ["a"], "index": 0}), "'index' of 'input_data' must be a list"),
                (body({"columns": ["image"], "data": ["a", ["b", "c"]]}), "row 1, column 'image': "),
                (body({"columns": ["image"], "data": [[]]}), "row 0, column 'image': "),
                (body({"columns": ["image", "x"], "data": ["a"]}), "row 0, column 'image': "),
                (body(["a"], params=[]), "'params' must be a JSON object"),
                (body(["a"] * (MAX_ROWS + 1)), "at most 100 rows"),
            ],
        )

    def test_the_most_rows_are_allowed(self):
        assert len(parse_request(body(["a"] * MAX_ROWS))) == MAX_ROWS

    def test_explanation_keys_in_params_apply_to_plain_cells_only(self):
        own = xai(model_explainability=False)
        parameters = {"xai_algorithm": "xrai"}
        params = {"model_explainability": True, "xai_parameters": parameters}
        plain, already = parse_request(body([PNG_TEXT, own], params=params))
        assert resolve_cell(plain) == XaiRequest(PNG, parameters)
        assert resolve_cell(already) == PNG

    @settings(deadline=None, max_examples=50)
    @given(
        st.recursive(
            st.none() | st.booleans() | st.floats() | st.text(),
            lambda inner: (
                st.lists(inner)
                | st.dictionaries(st.sampled_from(["input_data", "columns", "data", "index", "params", "image"]), inner)
            ),
        )
    )
    def test_any_json_gives_cells_or_a_bad_request(self, document):
        try:
            cells = parse_request(json.dumps(document).encode())
        except BadRequest:
            return
        assert isinstance(cells, list)


class TestResolveCell:
    def test_every_kind_of_cell_gives_the_image_file(self, check_rows):
        def check(cell):
            assert resolve_cell(cell) == PNG

        check_rows(
            check,
            [
                PNG_TEXT,
                BARE,
                BARE.encode(),
                PNG_TEXT.encode(),
                bytearray(PNG_TEXT.encode()),
                PNG,
                memoryview(PNG),
                [PNG_TEXT],
                [[PNG]],
                (PNG_TEXT,),
                f"  \t{PNG_TEXT}\r\n",
                PNG_TEXT.replace("\n", "\r\n"),
                " ".join(BARE),
                f"data:image/png;base64,{PNG_TEXT}",
                f"data:image/png;charset=x;base64,{BARE}",
                xai(),
                xai(model_explainability=False),
                xai(model_explainability=None, xai_parameters={"xai_algorithm": 7}),
                f"\n {xai()}",
                xai().encode(),
                {"image_base64": PNG_TEXT},
                {"image_base64": PNG},
                {"image_base64": [BARE]},
                {"image_base64": PNG_TEXT, "model_explainability": False},
            ],
        )

    def test_bytes_with_a_signature_are_the_image_even_when_ascii(self, check_rows):
        def check(signature):
            assert resolve_cell(signature + b"abcd") == signature + b"abcd"

        check_rows(
            check, [b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"BM", b"II*\0", b"MM\0*", b"RIFF1234WEBP", b"1234ftypavif"]
        )

    def test_anything_else_is_a_bad_request_that_says_what_came(self, check_rows):
        def check(cell, message):
            with pytest.raises(BadRequest) as caught:
                resolve_cell(cell)
            assert message in str(caught.value)
            assert str(caught.value).isascii()

        check_rows(
            check,
            [
                (None, "null"),
                (7, "the number 7"),
                (float("nan"), "the number nan"),
                (True, "true"),
                ([], "a list of 0"),
                (["a", "b"], "a list of 2"),
                (object(), "object"),
                (b"", "empty picture"),
                ("", "empty picture"),
                (" \n", "empty picture"),
                (b"\x00\x01\x80", "begin with 00 01 80"),
                (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic\x80", "but got HEIC"),
                ("not base64!", "must be base64 text"),
                ("QUJD====", "must be base64 text"),
                ("QUJDR", "must be base64 text"),
                ("-_+/", "must be base64 text"),
                ("b'QUJDRA", "must be base64 text"),
                ("b'QUJDRA\"", "must be base64 text"),
                ("QUJ=RA", "must be base64 text"),
                ("Straße", "must be ASCII"),
                ("data:image/png;base64,", "empty picture"),
                ("data:image/png,abc", "must be base64 text"),
                ("http://host/picture.jpg", "switched off"),
                ("HTTPS://host/picture.jpg", "switched off"),
                ("{", "must be JSON"),
                ('{"a": 1}', "must hold 'image_base64'"),
                ({}, "must hold 'image_base64'"),
                ({"image_base64": None}, "must hold 'image_base64'"),
                ({"image_base64": 5}, "the number 5"),
                ({"image_base64": {"image_base64": BARE}}, "an object"),
                ({"image_base64": "http://host/a.png"}, "switched off"),
                ({"image_base64": BARE, "model_explainability": "true"}, "must be true or false"),
                ({"image_base64": BARE, "model_explainability": 1}, "must be true or false"),
                ({"image_base64": BARE, "model_explainability": True, "xai_parameters": []}, "'xai_parameters'"),
            ],
        )

    def test_an_explanation_request_keeps_its_parameters(self):
        parameters = {"xai_algorithm": "integrated_gradients", "n_steps": 20, "own": None}
        cell = xai(model_explainability=True, xai_parameters=parameters)
        assert resolve_cell(cell) == XaiRequest(PNG, parameters)
        assert resolve_cell(xai(model_explainability=True)) == XaiRequest(PNG, {})

    def test_deep_nesting_does_not_overflow(self):
        cell: object = BARE
        for _ in range(5000):
            cell = [cell]
        assert resolve_cell(cell) == PNG

    @settings(deadline=None, max_examples=50)
    @given(st.binary(min_size=1, max_size=400))
    def test_whatever_encodebytes_writes_is_read_back(self, data):
        assert resolve_cell(base64.encodebytes(data).decode()) == data

    @settings(deadline=None, max_examples=100)
    @given(st.binary(min_size=1, max_size=400))
    def test_the_url_alphabet_missing_padding_and_pythons_text_of_bytes_are_read(self, data):
        standard, url = base64.b64encode(data), base64.urlsafe_b64encode(data)
        for text in (url, standard.rstrip(b"="), url.rstrip(b"="), base64.encodebytes(data).rstrip(b"=\n")):
            assert resolve_cell(text.decode()) == data
            assert resolve_cell(str(text)) == data  # b'…'
            assert resolve_cell(xai(text.decode())) == data
        assert resolve_cell(str(base64.encodebytes(data))) == data
        assert resolve_cell(f"data:image/png;base64,{url.decode()}") == data


class TestAnswers:
    def test_no_rows_are_an_empty_list(self):
        assert encode_answers([]) == b"[]"

    def test_multi_class_matches_azures_golden_response(self):
        golden = json.loads(
            '[{"probs": [0.01, 0.02, 0.95, 0.02], "labels": ["can", "carton", "milk_bottle", "water_bottle"]}]'
        )
        answer = ClassificationAnswer((0.01, 0.02, 0.95, 0.02), ("can", "carton", "milk_bottle", "water_bottle"))
        written = encode_answers([answer])
        assert json.loads(written) == golden
        assert list(json.loads(written)[0]) == ["probs", "labels"]

    def test_multi_label_rows_come_in_order(self):
        labels = ("can", "carton")
        written = encode_answers([ClassificationAnswer((0.98, 0.03), labels), ClassificationAnswer((0.5, 1.0), labels)])
        assert written == (
            b'[{"probs":[0.98,0.03],"labels":["can","carton"]},{"probs":[0.5,1.0],"labels":["can","carton"]}]'
        )

    def test_labels_of_any_script_are_escaped_to_ascii(self):
        labels = ('Bier"flasche\n', "牛乳瓶", "🥛", "\ud800")
        written = encode_answers([ClassificationAnswer((0.25,) * 4, labels)])
        assert written.isascii()
        assert tuple(json.loads(written)[0]["labels"]) == labels

    def test_numbers_that_are_not_finite_are_our_fault_not_an_answer(self, check_rows):
        def check(prob):
            with pytest.raises(ClearsightError) as caught:
                encode_answers([ClassificationAnswer((prob, 0.5), ("a", "b"))])
            assert caught.value.status == 500

        check_rows(check, [float("nan"), float("inf"), -float("inf")])

    def test_error_bodies_are_ascii_json(self):
        assert json.loads(error_body('a "quoted" Ü\n')) == {"message": 'a "quoted" Ü\n'}
        assert error_body("Ü\ud800").isascii()

    def test_a_row_error_names_the_row_and_keeps_the_kind(self):
        error = row_error(1, BadImage("broken"))
        assert (type(error), str(error)) == (BadImage, "row 1, column 'image': broken")
        assert row_error(0, TooLarge("big")).status == 413
        assert type(row_error(0, "text")) is BadRequest
