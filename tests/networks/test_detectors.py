"""Detectors by name: what is built, frozen and loaded."""

from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from clearsight.catalogue.models import MODELS, find_row
from clearsight.errors import UserError, WeightsMissing
from clearsight.networks.families.rcnn.detector import Detector
from clearsight.networks.families.rcnn.options import DEFAULT, LIGHT
from clearsight.networks.families.table import build_network, load_pretrained
from clearsight.networks.families.yolov5.network import SIZES, Yolov5, build_yolov5
from clearsight.tasks import Task


@pytest.fixture
def small() -> Yolov5:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return build_yolov5("small", 2)


@pytest.fixture(autouse=True)
def no_folder_of_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CLEARSIGHT_WEIGHTS", raising=False)


def test_an_unknown_name_suggests_the_near_one() -> None:
    with pytest.raises(UserError, match=r"got 'yolo5'; did you mean 'yolov5'\?"):
        find_row("yolo5", Task.DETECTION)
    with pytest.raises(UserError, match="model_name must be one of"):
        find_row("resnet18", Task.DETECTION)


def test_a_detector_is_built_again_from_what_a_package_remembers() -> None:
    assert sum(not row.tasks[0].is_classification for row in MODELS.values()) == 12
    with torch.device("meta"):
        nano = build_network("yolov5", 2, architecture={"model_size": "nano", "builder": "x"})
        assert isinstance(nano, Yolov5)
        assert nano.size == SIZES["nano"]
        light = build_network("fasterrcnn_resnet18_fpn", 2, architecture={"options": asdict(LIGHT)})
    assert isinstance(light, Detector)
    assert light.rpn._post_nms_top_n["testing"] == 128


@pytest.mark.parametrize(
    ("model_name", "architecture", "message"),
    [
        ("yolov5", {}, "must name its model_size"),
        ("yolov5", {"model_size": "huge"}, "got 'huge'"),
        ("retinanet_resnet50_fpn", {}, "must have options"),
        ("retinanet_resnet50_fpn", {"options": {"proposals": 3}}, "must have options"),
        (
            "retinanet_resnet50_fpn",
            {"options": {**asdict(DEFAULT), "proposals": 0}},
            "numbers above 0",
        ),
    ],
)
def test_an_incomplete_architecture_is_named(model_name: str, architecture: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build_network(model_name, 2, architecture=architecture)


def test_layers_freeze_from_the_input_on() -> None:
    assert find_row("yolov5").frozen_prefixes(0) == ()
    assert find_row("yolov5").frozen_prefixes(2) == ("model.0.", "model.1.")
    assert find_row("maskrcnn_resnet18_fpn").frozen_prefixes(1) == ("backbone.body.conv1.", "backbone.body.bn1.")
    with pytest.raises(UserError, match="must be 0 to 5 for retinanet_resnet50_fpn, but got 6"):
        find_row("retinanet_resnet50_fpn").frozen_prefixes(6)
    with pytest.raises(UserError, match="must be 0 to 10 for yolov5, but got 11"):
        find_row("yolov5").frozen_prefixes(11)


def test_yolov5_without_weights_starts_at_random_with_one_notice(small: Yolov5, tmp_path: Path) -> None:
    before = {name: tensor.clone() for name, tensor in small.state_dict().items()}
    for folder in (None, tmp_path):
        record = load_pretrained(small, "yolov5", folder)
        assert (record.source, record.new_head) == ("none", True)
        assert "yolov5s*.safetensors or yolov5*.safetensors" in str(record.notice)
    assert load_pretrained(small, "yolov5", tmp_path, pretrained=False).notice is None
    assert all(torch.equal(tensor, before[name]) for name, tensor in small.state_dict().items())
    with pytest.raises(WeightsMissing, match="must exist"):
        load_pretrained(small, "yolov5", tmp_path / "nowhere")


def test_yolov5_takes_a_state_dict_of_its_size_and_drops_a_head_of_other_classes(small: Yolov5, tmp_path: Path) -> None:
    given = {
        name: tensor for name, tensor in build_yolov5("small", 5).state_dict().items() if "num_batches" not in name
    }
    given["model.24.anchors"] += 1
    save_file(given, tmp_path / "yolov5s-mine.safetensors")
    save_file(dict(build_yolov5("nano", 5).state_dict()), tmp_path / "yolov5n.safetensors")
    (tmp_path / "LICENSE.yolov5s").write_text("My own terms\n")
    head = small.head.m[0].weight.clone()
    record = load_pretrained(small, "yolov5", tmp_path)
    assert (record.source, record.file, record.new_head) == ("folder", "yolov5s-mine.safetensors", True)
    assert record.licence == "My own terms (LICENSE.yolov5s)"
    assert torch.equal(small.head.m[0].weight, head)
    for name, tensor in small.state_dict().items():
        if name in given and not name.startswith("model.24.m."):
            assert torch.equal(tensor, given[name]), name

    other = build_yolov5("small", 5)
    assert not load_pretrained(other, "yolov5", tmp_path).new_head
    assert torch.equal(other.head.m[0].weight, given["model.24.m.0.weight"])


def test_yolov5_refuses_weights_of_another_size(small: Yolov5, tmp_path: Path) -> None:
    save_file(dict(build_yolov5("nano", 2).state_dict()), tmp_path / "yolov5.safetensors")
    with pytest.raises(UserError, match=r"must hold weights of yolov5 small, but 0 tensors are missing"):
        load_pretrained(small, "yolov5", tmp_path)
