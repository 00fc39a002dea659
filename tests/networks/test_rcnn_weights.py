"""Pretrained weights of detectors: of the whole network where there are some, else of the backbone."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision  # type: ignore[import-untyped]
from torchvision.models.detection import FasterRCNN  # type: ignore[import-untyped]
from torchvision.models.detection._utils import overwrite_eps  # type: ignore[import-untyped]
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone  # type: ignore[import-untyped]

from clearsight.catalogue import models
from clearsight.errors import UserError, WeightsMissing
from clearsight.networks.families.rcnn.detector import Detector
from clearsight.networks.families.table import build_network, load_pretrained
from clearsight.networks.library_files import TorchvisionFile

NAME, COCO_NAME = "fasterrcnn_resnet18_fpn", "fasterrcnn_resnet50_fpn"
COCO_FILE = "fasterrcnn_resnet50_fpn_coco-258fb6c6.pth"

pytestmark = pytest.mark.usefixtures("no_network")


@pytest.fixture(scope="module")
def donor() -> Any:
    """Torchvision's Faster R-CNN with 3 classes and norms as its published weights have them; variances are small."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = FasterRCNN(resnet_fpn_backbone(backbone_name="resnet18", weights=None), 4)
        for name, buffer in network.named_buffers():
            if name.endswith("running_var"):
                buffer.uniform_(1e-4, 1e-2)
            if name.endswith(("bn2.weight", "downsample.1.weight")):
                buffer.fill_(0.01)
    overwrite_eps(network, 0.0)
    return network.eval()


@pytest.fixture
def small_coco_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """A row with published weights, on a small backbone."""
    monkeypatch.setitem(models._ROWS, COCO_NAME, replace(models.MODELS[COCO_NAME], backbone="resnet18"))


def equal_tensors(network: Detector, state: dict[str, torch.Tensor]) -> set[str]:
    own = network.state_dict()
    return {name for name in own.keys() & state.keys() if torch.equal(own[name], state[name])}


@pytest.mark.usefixtures("small_coco_row")
@pytest.mark.parametrize("num_classes", [3, 2])
def test_published_weights_answer_as_in_torchvision_and_their_head_stays_when_it_fits(
    num_classes: int, donor: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file has its older names of layers, as published ones do."""
    state = donor.state_dict()
    older = {name.replace("rpn.head.conv.0.0.", "rpn.head.conv."): tensor for name, tensor in state.items()}
    assert older.keys() != state.keys()
    torch.save(older, tmp_path / COCO_FILE)
    monkeypatch.setattr(TorchvisionFile, "is_published", lambda *_: True)
    network = build_network(COCO_NAME, num_classes)

    record = load_pretrained(network, COCO_NAME, tmp_path)
    assert (record.source, record.file, record.tag) == ("folder", COCO_FILE, "COCO_V1")
    assert record.licence == "BSD-3-Clause"
    assert record.new_head is (num_classes != 3)
    assert not record.backbone_only

    differing = state.keys() - equal_tensors(network, state)
    assert {name for name in differing if not name.endswith("running_var")} == (
        {name for name in state if "box_predictor" in name} if num_classes != 3 else set()
    )
    image = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected, found = donor.backbone(image), network.eval().backbone(image)
    for level, maps in expected.items():
        torch.testing.assert_close(found[level], maps, rtol=1e-4, atol=1e-4 * float(maps.abs().max()))


def test_a_backbones_weights_leave_the_rest_at_random_and_norms_frozen(tmp_path: Path) -> None:
    state = {name: tensor + 1 for name, tensor in torchvision.models.resnet18(num_classes=5).state_dict().items()}
    torch.save(state, tmp_path / "resnet18_mine.pth")
    network = build_network(NAME, 2)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}

    record = load_pretrained(network, NAME, tmp_path)
    assert (record.source, record.file, record.tag) == ("folder", "resnet18_mine.pth", None)
    assert record.new_head
    assert record.backbone_only

    body = {f"backbone.body.{name}": tensor for name, tensor in state.items() if not name.startswith("fc.")}
    assert equal_tensors(network, body) == body.keys()
    assert equal_tensors(network, before) == before.keys() - body.keys()
    assert not network.train().backbone.body.bn1.training  # type: ignore[union-attr]


def test_a_file_named_after_the_model_comes_before_its_backbones(donor: Any, tmp_path: Path) -> None:
    torch.save(torchvision.models.resnet18(num_classes=5).state_dict(), tmp_path / "resnet18-f37072fd.pth")
    torch.save(donor.state_dict(), tmp_path / f"{NAME}.pth")
    network = build_network(NAME, 3)
    record = load_pretrained(network, NAME, tmp_path)
    assert (record.file, record.tag, record.new_head, record.backbone_only) == (f"{NAME}.pth", None, False, False)
    assert equal_tensors(network, donor.state_dict()) == donor.state_dict().keys()


def test_random_weights_come_only_on_request_and_norms_learn(no_network: list[str]) -> None:
    network = build_network(NAME, 2)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    assert load_pretrained(network, NAME, pretrained=False).source == "none"
    assert equal_tensors(network, before) == before.keys()
    assert network.backbone.body.bn1.training  # type: ignore[union-attr]
    assert all(parameter.requires_grad for parameter in network.parameters())
    assert no_network == []


@pytest.mark.parametrize(("model_name", "file"), [(NAME, "resnet18-f37072fd.pth"), (COCO_NAME, COCO_FILE)])
def test_nothing_found_gives_one_line_that_names_the_file(
    model_name: str, file: str, tmp_path: Path, no_network: list[str]
) -> None:
    with pytest.raises(WeightsMissing) as caught:
        load_pretrained(build_network(NAME, 2), model_name, tmp_path)
    assert "\n" not in str(caught.value)
    for part in (f"weights of {model_name} must", f"holds no {file}", f"Put {file}", "x_pretrained: false"):
        assert part in str(caught.value)
    assert [address.rpartition("/")[2] for address in no_network] == [file]


def test_weights_of_another_architecture_are_refused(donor: Any, tmp_path: Path) -> None:
    torch.save(torchvision.models.resnet34(num_classes=5).state_dict(), tmp_path / "resnet18_wrong.pth")
    with pytest.raises(UserError, match=r"weights of fasterrcnn_resnet18_fpn .*, but 0 tensors are missing and 9"):
        load_pretrained(build_network(NAME, 2), NAME, tmp_path)
    torch.save(donor.state_dict(), tmp_path / "maskrcnn_resnet18_fpn.pth")
    with pytest.raises(UserError, match=r"but \d+ tensors are missing and 0 are unknown, for example 'roi_heads.mask"):
        load_pretrained(build_network("maskrcnn_resnet18_fpn", 2), "maskrcnn_resnet18_fpn", tmp_path)
