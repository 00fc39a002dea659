"""The files of examples/ are valid, since users copy them, and count found objects correctly."""

import json
import runpy
from pathlib import Path
from typing import Any

import pytest

from clearsight.errors import InvalidDocument
from clearsight.runs.kinds import plan_job_file
from clearsight.runs.workspace import Workspace

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.parametrize("file", sorted(EXAMPLES.glob("*-job.yml")), ids=lambda file: file.stem)
def test_every_job_is_valid_except_for_missing_data(file: Path, tmp_path: Path) -> None:
    copy = tmp_path / "examples" / file.name
    copy.parent.mkdir()
    copy.write_text(file.read_text())
    with pytest.raises(InvalidDocument) as caught:
        plan_job_file(copy, {}, None, Workspace(tmp_path / "home"))
    assert {fault.code for fault in caught.value.faults} == {"BAD_DATA_REF"}
    assert len(caught.value.faults) == 2  # training and validation


@pytest.fixture
def found_objects(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    square = {"label": "can", "topX": 0.1, "topY": 0.1, "bottomX": 0.5, "bottomY": 0.5}
    triangle = {"label": "tin", "polygon": [[0.6, 0.6, 0.9, 0.6, 0.9, 0.9]]}
    records = [{"image_url": "a.jpg", "label": [square]}, {"image_url": "b.jpg", "label": [triangle]}]
    (tmp_path / "labels.jsonl").write_text("\n".join(map(json.dumps, records)))

    def run(answers: dict[str, list[Any]]) -> str:
        documents = [{"file": str(tmp_path / name), "boxes": boxes} for name, boxes in answers.items()]
        (tmp_path / "answers.json").write_text(json.dumps(documents))
        arguments = ["found_objects.py", "compare", str(tmp_path), str(tmp_path / "answers.json")]
        monkeypatch.setattr("sys.argv", arguments)
        runpy.run_path(str(EXAMPLES / "found_objects.py"), run_name="__main__")
        return capsys.readouterr().out

    return run


def answer(label: str, left: float, top: float, right: float, bottom: float) -> dict[str, Any]:
    return {"label": label, "score": 0.5, "box": {"topX": left, "topY": top, "bottomX": right, "bottomY": bottom}}


def test_the_demo_fails_if_no_object_is_found(found_objects: Any) -> None:
    with pytest.raises(SystemExit, match="at least one object must be found"):
        found_objects({"a.jpg": [], "b.jpg": [answer("can", 0.6, 0.6, 0.9, 0.9), answer("tin", 0.1, 0.1, 0.2, 0.2)]})


def test_an_object_counts_with_the_right_class_at_iou_one_half(found_objects: Any) -> None:
    answers = [answer("tin", 0.6, 0.6, 0.9, 0.75), answer("tin", 0.6, 0.6, 0.9, 0.76)]
    assert found_objects({"a.jpg": [], "b.jpg": answers}).startswith("1 of 2 objects found")
