"""Response bodies, byte for byte, against the files of `tests/golden/wire`.

`pytest tests/wire/test_golden_answers.py --rewrite-golden` writes them anew: what a change of the wire looks like to
its clients is then read in the diff.
"""

from pathlib import Path

import pytest

from clearsight.errors import BadImage, TooLarge
from clearsight.wire.answers import ClassificationAnswer, DetectedObject, DetectionAnswer, ObjectExplanation
from clearsight.wire.encoding import encode_answers
from clearsight.wire.errors import error_body, row_error

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "wire"

FRIDGE = ("can", "carton", "milk_bottle", "water_bottle")
SCRIPTS = ("Straße", "牛乳瓶", "🥛", 'a "quoted"\nlabel')
SQUARE = (0.25, 0.25, 0.75, 0.25, 0.75, 0.75, 0.25, 0.75)
TRIANGLE = (0.0, 0.0, 0.25, 0.0, 0.125, 0.0625)
PNG = b"\x89PNG\r\n\x1a\n"

BODIES = {
    "no_rows": lambda: encode_answers([]),
    "classification": lambda: encode_answers(
        [
            ClassificationAnswer((0.01, 0.02, 0.95, 0.02), FRIDGE),
            ClassificationAnswer((1.0, 0.0, 1e-9, 0.3333333432674408), FRIDGE),
        ]
    ),
    "multilabel": lambda: encode_answers([ClassificationAnswer((0.98, 0.5, 0.03, 1.0), SCRIPTS)]),
    "detection": lambda: encode_answers(
        [
            DetectionAnswer(
                (
                    DetectedObject((0.0, 0.5, 0.25, 1.0), "can", 0.97),
                    DetectedObject((0.1234567, 0.25, 0.75, 0.875), "Straße", 0.3000001),
                )
            ),
            DetectionAnswer(()),
        ]
    ),
    "segmentation": lambda: encode_answers(
        [
            DetectionAnswer(
                (
                    DetectedObject((0.25, 0.25, 0.75, 0.75), "can", 0.97, (SQUARE,)),
                    DetectedObject(
                        (0.0, 0.0, 0.75, 0.75),
                        "carton",
                        0.5,
                        (SQUARE, TRIANGLE),
                        {"size": [4, 8], "counts": "52203"},
                    ),
                )
            )
        ]
    ),
    "explanation": lambda: encode_answers(
        [
            ClassificationAnswer(
                (0.25, 0.75),
                ("can", "Straße"),
                visualizations=PNG,
                attributions=b"[[[0.5,-1.0]]]",
                explanation_details={"algorithm": "xrai", "target": "Straße", "n_steps": 50, "completeness": None},
            ),
            ClassificationAnswer((0.5, 0.5), ("can", "Straße"), visualizations=(PNG, b""), attributions=()),
            ClassificationAnswer((0.5, 0.5), ("can", "Straße")),
        ]
    ),
    "object_explanation": lambda: encode_answers(
        [
            DetectionAnswer(
                (
                    DetectedObject((0.25, 0.25, 0.75, 0.75), "can", 0.97),
                    DetectedObject((0.0, 0.5, 0.25, 1.0), "carton", 0.5),
                ),
                (
                    ObjectExplanation(0, PNG, b"[[0.5]]", {"algorithm": "d_rise", "masks_used": 500}),
                    ObjectExplanation(1),
                ),
            )
        ]
    ),
    "error": lambda: error_body("POST body is empty."),
    "error_of_a_row": lambda: error_body(str(row_error(1, BadImage("the image 'Straße.png' is broken\n")))),
    "error_of_a_large_row": lambda: error_body(str(row_error(0, TooLarge("at most 100 MiB")))),
}


@pytest.mark.parametrize("name", BODIES)
def test_a_body_is_that_of_its_golden_file(name, pytestconfig):
    file, body = GOLDEN / f"{name}.json", BODIES[name]()
    if pytestconfig.getoption("rewrite_golden"):
        file.write_bytes(body)
    assert body == file.read_bytes()


def test_each_golden_file_is_of_a_body():
    assert {file.stem for file in GOLDEN.iterdir()} == set(BODIES)
