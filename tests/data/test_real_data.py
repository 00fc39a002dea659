"""Photographs in the layouts that their authors published."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from clearsight.training.cli_data import data
from clearsight.training.mltable import MLTABLE_TEXT

SHARED = Path(__file__).parents[3] / "shared" / "data"

pytestmark = pytest.mark.skipif(not SHARED.is_dir(), reason="the shared photographs are not there")


@pytest.mark.parametrize("layout", ["folders", "csv"])
def test_the_fridge_photographs_convert_and_pass_the_check(layout: str, tmp_path: Path) -> None:
    source = SHARED / "fridge_multiclass"
    source = source if layout == "folders" else source / "labels.csv"
    result = CliRunner().invoke(data, ["convert", "--from", layout, str(source), "--output", str(tmp_path)])
    assert result.exit_code == 0, result.output
    counts: dict[str, int] = {}
    for folder in ("training-mltable-folder", "validation-mltable-folder"):
        args = ["check", str(tmp_path / folder), "--task", "image_classification", "--output", "json"]
        document = json.loads(CliRunner().invoke(data, args).stdout)
        assert document["faults"] == []
        for name, count in document["records_per_class"].items():
            counts[name] = counts.get(name, 0) + count
    assert counts == {"can": 16, "carton": 16, "milk_bottle": 19, "water_bottle": 17}


def test_the_blood_smears_convert_with_several_labels(tmp_path: Path) -> None:
    args = ["convert", "--from", "csv", str(SHARED / "bccd" / "multilabel.csv"), "--output", str(tmp_path)]
    result = CliRunner().invoke(data, [*args, "--images", str(SHARED / "bccd" / "JPEGImages")])
    assert json.loads(result.stdout)["task"] == "image_classification_multilabel"
    train = (tmp_path / "training-mltable-folder" / "train_annotations.jsonl").read_text().splitlines()
    validation = (tmp_path / "validation-mltable-folder" / "validation_annotations.jsonl").read_text().splitlines()
    assert len(train) + len(validation) == 159
    assert json.loads(train[1])["label"] == ["Platelets", "RBC", "WBC"]


def test_decoding_finds_the_file_that_was_cut_off(tmp_path: Path) -> None:
    names = ["gray_16bit.png", "truncated.jpg", "bad_exif.jpg", "cmyk.jpg"]
    lines = [json.dumps({"image_url": str(SHARED / "tricky" / name), "label": "x"}) for name in names]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    (tmp_path / "MLTable").write_text(MLTABLE_TEXT.format(file_name="a.jsonl"))
    args = ["check", str(tmp_path), "--task", "image_classification", "--output", "json"]
    assert json.loads(CliRunner().invoke(data, args).stdout)["faults"] == []
    [fault] = json.loads(CliRunner().invoke(data, [*args, "--decode"]).stdout)["faults"]
    assert fault["target"].endswith("a.jsonl:2")
