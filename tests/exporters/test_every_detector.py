"""Each detector is built, trained for one step, packaged with both graphs in parity, and loaded."""

import functools
import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.numpy_helper
import onnxruntime
import pytest
import torch
from torch import nn

from clearsight.catalogue.models import MODELS
from clearsight.cli import root
from clearsight.console import run
from clearsight.documents.settings import RcnnSettings, SegmentationSettings, Settings, YoloSettings
from clearsight.errors import ExportError, InvalidPackage
from clearsight.exporters import detector
from clearsight.exporters.formats import contract
from clearsight.exporters.graphs import run_graph
from clearsight.exporters.write import write_package
from clearsight.networks.families.rcnn.batch import TrainingTarget, pad_together
from clearsight.networks.families.rcnn.options import RcnnOptions
from clearsight.networks.families.table import build_network, family_of
from clearsight.networks.families.yolov5.loss import Yolov5Loss
from clearsight.networks.families.yolov5.network import Yolov5
from clearsight.networks.load import load_network
from clearsight.runs.package import MANIFEST_FILE, ModelPackage
from clearsight.tasks import Task

DETECTOR_NAMES = [name for name, row in MODELS.items() if not row.tasks[0].is_classification]
LABELS = ("cell", "spot")
SMALL = RcnnOptions(64, 32, 64, 32, 64, 32)
HEIGHT, WIDTH = 96, 128
"""Of the images that Azure's graphs are traced with, pixels."""
SMALLEST = ("yolov5", "maskrcnn_resnet18_fpn", "fasterrcnn_resnet18_fpn", "retinanet_resnet50_fpn")
"""A model of each family, on its smallest backbone. Of Mask R-CNN, the fast suite exports the package of handlers."""
ONE_OF_EACH = [name if name == "yolov5" else pytest.param(name, marks=pytest.mark.slow) for name in SMALLEST]
EVERYWHERE = {"torchscript", "onnxruntime", "openvino", "train_artifacts"}


def settings_of(model_name: str) -> Settings:
    if model_name == "yolov5":
        return YoloSettings(img_size=96, model_size="small")
    if model_name.startswith("maskrcnn"):
        return SegmentationSettings(min_size=96, max_size=128)
    return RcnnSettings(min_size=96, max_size=128)


def build_and_step(model_name: str) -> nn.Module:
    """A network after one optimizer step; what random weights do to rounding is calmed as for classifiers."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        architecture = {"model_size": "nano", "options": asdict(SMALL)}
        network = build_network(model_name, len(LABELS), architecture=architecture).train()
        for block in network.modules():
            if hasattr(block, "downsample"):
                nn.init.constant_((block.bn3 if hasattr(block, "bn3") else block.bn2).weight, 0.2)
        images_NCHW = torch.rand(2, 3, 96, 128)
        boxes = [torch.tensor([[8.0, 8.0, 40.0, 60.0]]), torch.tensor([[50.0, 20.0, 90.0, 90.0]])]
        ids = [torch.tensor([0]), torch.tensor([1])]
        optimizer = torch.optim.SGD(network.parameters(), lr=1e-4)
        if isinstance(network, Yolov5):
            loss = Yolov5Loss(network.head.anchors, len(LABELS), 96)(network(images_NCHW), boxes, ids).total
        else:
            masks = torch.ones(1, 96, 128, dtype=torch.uint8)
            targets = [TrainingTarget(*pair, masks) for pair in zip(boxes, ids, strict=True)]
            images_NCHW, sizes = pad_together(list(images_NCHW))
            loss = torch.stack(list(network(images_NCHW, sizes, targets).values())).sum()
        loss.backward()
        optimizer.step()
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.reset_running_stats()
                module.momentum = None
        with torch.no_grad():
            network(images_NCHW) if isinstance(network, Yolov5) else network.backbone(images_NCHW)
    assert torch.isfinite(loss)
    return network


def write_detector(target: Path, model_name: str, images: list[Path], **changes: Any) -> ModelPackage:
    arguments: dict[str, Any] = {
        "task": Task.SEGMENTATION if model_name.startswith("maskrcnn") else Task.DETECTION,
        "model_name": model_name,
        "labels": LABELS,
        "network": changes.pop("network", None) or build_and_step(model_name),
        "settings": settings_of(model_name),
        "parity_images": images[:2],
        "run_id": "every_HD_0",
        "pretrained": {"source": "none"},
        "gate_bf16": False,
    }
    return write_package(target, **{**arguments, **changes})


@pytest.fixture
def small_contract(monkeypatch: pytest.MonkeyPatch) -> tuple[int, int]:
    monkeypatch.setattr(detector, "CONTRACT_HEIGHT", HEIGHT)
    monkeypatch.setattr(detector, "CONTRACT_WIDTH", WIDTH)
    return HEIGHT, WIDTH


@dataclass(frozen=True)
class Made:
    """A package with both graphs. Read only."""

    network: nn.Module
    package: ModelPackage
    contract: Path
    """The folder of Azure's graph."""


MakeOnce = Callable[[str], Made]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, drawn_images: list[Path]) -> MakeOnce:
    """Writes the package of a model once. The R-CNN families keep five boxes, however low their scores."""

    @functools.cache
    def make(model_name: str) -> Made:
        folder, network = tmp_path_factory.mktemp(model_name), build_and_step(model_name)
        changes: dict[str, Any] = {}
        if model_name != "yolov5":
            kind = type(settings_of(model_name))
            low = kind(min_size=96, max_size=128, box_score_thresh=0.0, box_detections_per_img=5)  # type: ignore[call-arg]
            changes = {"settings": low, "enable_onnx_normalization": True}
        contract = folder / "contract"
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(detector, "CONTRACT_HEIGHT", HEIGHT)
            patch.setattr(detector, "CONTRACT_WIDTH", WIDTH)
            package = write_detector(
                folder / "m", model_name, drawn_images, network=network, train_artifacts=contract, **changes
            )
        return Made(network, package, contract)

    return make


def require_whole_way(network: nn.Module, package: ModelPackage, backends: set[str]) -> None:
    assert set(package.manifest["parity"]["backends"]) == backends
    assert package.manifest["parity"]["largest_score"] > 0
    assert all(entry["num_boxes"] > 0 for entry in package.manifest["parity"]["backends"].values())
    loaded = load_network(package)
    assert not loaded.training
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, loaded.state_dict()[name]), name
    weights = package.weights_file.stat().st_size
    assert package.onnx_file.stat().st_size < 1.1 * weights  # no tensor twice
    assert package.torchscript_file.stat().st_size < 1.1 * weights


@pytest.mark.parametrize("model_name", ONE_OF_EACH)
def test_a_detector_learns_is_packaged_with_equal_graphs_and_loads(model_name: str, made: MakeOnce) -> None:
    require_whole_way(made(model_name).network, made(model_name).package, EVERYWHERE)


@pytest.mark.slow
@pytest.mark.parametrize("model_name", sorted({*DETECTOR_NAMES} - {*SMALLEST}))
def test_a_detector_on_another_backbone_goes_the_same_way(
    model_name: str, drawn_images: list[Path], tmp_path: Path
) -> None:
    network = build_and_step(model_name)
    package = write_detector(tmp_path / "mlflow-model", model_name, drawn_images, network=network)
    require_whole_way(network, package, EVERYWHERE - {"train_artifacts"})


def session_of(folder: Path) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model_name", "outputs", "labels"),
    [
        ("fasterrcnn_resnet18_fpn", ["boxes_0", "labels_0", "scores_0"], ["--bg--", *LABELS]),
        ("retinanet_resnet50_fpn", ["boxes_0", "scores_0", "labels_0"], list(LABELS)),
        ("maskrcnn_resnet18_fpn", ["boxes_0", "labels_0", "scores_0", "masks_0"], ["--bg--", *LABELS]),
    ],
)
def test_azures_graph_has_azures_names_shapes_and_numbers(
    model_name: str, outputs: list[str], labels: list[str], made: MakeOnce
) -> None:
    folder = made(model_name).contract
    assert json.loads((folder / "labels.json").read_text()) == labels
    session = session_of(folder)
    (node,) = session.get_inputs()
    free = model_name.startswith("maskrcnn")
    assert (node.name, node.shape) == ("input", [1, 3, *(("height", "width") if free else (HEIGHT, WIDTH))])
    assert [output.name for output in session.get_outputs()] == outputs
    sizes = [(HEIGHT, WIDTH), (64, 100)] if free else [(HEIGHT, WIDTH)]
    for height, width in sizes:
        image = np.random.default_rng(0).random((1, 3, height, width), dtype=np.float32)
        found = dict(zip(outputs, session.run(outputs, {"input": image}), strict=True))
        assert found["boxes_0"].shape == (5, 4)
        assert found["labels_0"].dtype == np.int64
        first = 1 if labels[0] == "--bg--" else 0
        assert first <= found["labels_0"].min() <= found["labels_0"].max() < len(labels)
        assert (np.diff(found["scores_0"]) <= 0).all()
        if free:
            assert found["masks_0"].shape == (5, 1, height, width)
            assert 0 <= found["masks_0"].min() <= found["masks_0"].max() <= 1


def test_azures_graph_of_yolov5_gives_all_candidates(made: MakeOnce) -> None:
    yolov5 = made("yolov5")
    network, package, folder = yolov5.network, yolov5.package, yolov5.contract
    assert json.loads((folder / "labels.json").read_text()) == list(LABELS)
    session = session_of(folder)
    (node,), (output,) = session.get_inputs(), session.get_outputs()
    assert (node.name, node.shape, output.name) == ("input", [1, 3, 96, 96], "output")
    image = np.random.default_rng(0).random((1, 3, 96, 96), dtype=np.float32)
    found = session.run(["output"], {"input": image})[0]
    assert found.shape == (1, 3 * (12**2 + 6**2 + 3**2), 5 + len(LABELS))
    with torch.inference_mode():
        expected = network.eval()(torch.from_numpy(image)).numpy()
    np.testing.assert_allclose(found, expected, atol=2e-2, rtol=1e-3)
    mlmodel = (package.root / "MLmodel").read_text()
    assert '"boxes"' in mlmodel
    assert "probs" not in mlmodel


def altered(file: Path, change: Any) -> Path:
    """The graph with other weights."""
    graph = onnx.load(file)
    for tensor in graph.graph.initializer:
        values = onnx.numpy_helper.to_array(tensor)
        if values.ndim >= 2 and values.dtype == np.float32:
            tensor.CopyFrom(onnx.numpy_helper.from_array(change(tensor.name, values).astype(np.float32), tensor.name))
    target = file.with_name("altered.onnx")
    onnx.save(graph, target)
    return target


@pytest.mark.parametrize("model_name", ["yolov5", pytest.param("fasterrcnn_resnet18_fpn", marks=pytest.mark.slow)])
def test_weights_changed_by_a_hundredth_are_found(
    model_name: str, drawn_images: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    random = np.random.default_rng(0)
    changed = []

    def open_altered(folder: Path) -> list[Any]:
        file = altered(
            folder / "artifacts/model.onnx", lambda _, values: values * (1 + random.normal(0, 0.01, values.shape))
        )
        changed.append(file)
        return [run_graph("onnxruntime", file)]

    monkeypatch.setattr(detector, "open_serving_graphs", open_altered)
    with pytest.raises(ExportError, match="onnxruntime must"):
        write_detector(tmp_path / "out" / "m", model_name, drawn_images)
    assert len(changed) == 1
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.slow
def test_the_contracts_graph_is_compared_below_its_own_threshold(
    drawn_images: list[Path], small_contract: tuple[int, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No box of this network reaches 0.99, so that a broken graph gives the right answer: none."""
    settings = RcnnSettings(min_size=96, max_size=128, box_score_thresh=0.99)
    broken = contract.RcnnContract.forward

    def swap_classes(self: Any, images_NCHW: torch.Tensor) -> tuple[torch.Tensor, ...]:
        boxes, labels, scores = broken(self, images_NCHW)
        return boxes, 3 - labels, scores

    monkeypatch.setattr(contract.RcnnContract, "forward", swap_classes)
    with pytest.raises(ExportError, match="train_artifacts must find what the network finds"):
        write_detector(
            tmp_path / "out" / "m",
            "fasterrcnn_resnet18_fpn",
            drawn_images,
            settings=settings,
            train_artifacts=tmp_path / "contract",
        )
    assert not (tmp_path / "contract").exists()


@pytest.fixture
def export(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run `clearsight model export` on the package `m`: what it prints on stdout, or with `fails` on stderr."""
    monkeypatch.setenv("CLEARSIGHT_HOME", str(tmp_path / "workspace"))

    def run_export(*args: object, fails: int = 0, stream: str = "out") -> str:
        given = ["-p", str(tmp_path / "m"), "-f", "onnx", "-o", str(tmp_path / "batch" / "model.onnx"), *map(str, args)]
        code = run(root, ["model", "export", *given])
        printed = capsys.readouterr()
        assert code == fails, printed.err
        return " ".join((printed.err if fails or stream == "err" else printed.out).split())

    return run_export


@pytest.mark.slow
def test_a_graph_of_two_images_takes_two_images(
    drawn_images: list[Path], tmp_path: Path, export: Callable[..., str]
) -> None:
    write_detector(tmp_path / "m", "fasterrcnn_resnet18_fpn", drawn_images)
    folder = tmp_path / "batch"
    assert "takes one picture already" in export("--batch-size", 1, stream="err")
    assert list(folder.iterdir()) == []
    assert "img_size is for yolov5" in export("--batch-size", 2, "--img-size", 64, fails=1)
    assert "--height needs --batch-size" in export("--height", 64, fails=2)
    export("--batch-size", 2, "--height", 96, "--width", 128, "--box-score-thresh", 0.0, "--box-detections-per-img", 4)
    assert [file.name for file in folder.iterdir()] == ["model.onnx"]
    session = session_of(folder)
    names = ["boxes_0", "labels_0", "scores_0", "boxes_1", "labels_1", "scores_1"]
    assert [node.name for node in session.get_outputs()] == names
    images = np.random.default_rng(0).random((3, 3, 96, 128), dtype=np.float32)
    first = session.run(names, {"input": images[:2]})
    swapped = session.run(names, {"input": images[1::-1].copy()})
    assert first[0].shape == (4, 4)
    np.testing.assert_allclose(first[2], swapped[5], atol=1e-5)  # each answer is of its own image
    assert not np.allclose(first[2], first[5], atol=1e-5)
    for count in (1, 3):
        with pytest.raises(Exception, match="invalid dimensions"):
            session.run(names, {"input": images[:count]})


@pytest.mark.slow
def test_a_graph_of_four_images_of_yolov5(made: MakeOnce, tmp_path: Path, export: Callable[..., str]) -> None:
    shutil.copytree(made("yolov5").package.root, tmp_path / "m")
    assert "multiples of 32 for yolov5" in export("--batch-size", 4, "--height", 100, fails=1)
    assert "model_size must be nano" in export("--batch-size", 4, "--model-size", "large", fails=1)
    assert list((tmp_path / "batch").iterdir()) == []
    export("--batch-size", 4, "--img-size", 64, "--model-size", "nano", "--box-score-thresh", 0.1)
    session = session_of(tmp_path / "batch")
    assert session.get_inputs()[0].shape == [4, 3, 64, 64]
    images = np.zeros((4, 3, 64, 64), np.float32)
    assert session.run(["output"], {"input": images})[0].shape == (4, 3 * (8**2 + 4**2 + 2**2), 5 + len(LABELS))
    with pytest.raises(Exception, match="invalid dimensions"):
        session.run(["output"], {"input": images[:3]})


def test_a_package_that_describes_no_network_of_ours_is_named(made: MakeOnce, tmp_path: Path) -> None:
    root = Path(shutil.copytree(made("yolov5").package.root, tmp_path / "m"))
    file = root / MANIFEST_FILE
    document = json.loads(file.read_text())
    for changed, message in [({}, "must name its model_size"), ({"model_size": "small"}, "must hold the weights of")]:
        file.write_text(json.dumps({**document, "architecture": changed}))
        with pytest.raises(InvalidPackage, match=message):
            load_network(ModelPackage.open(root))


@pytest.mark.slow
@pytest.mark.full_size
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    "model_name", ["yolov5", "fasterrcnn_resnet50_fpn", "retinanet_resnet50_fpn", "maskrcnn_resnet50_fpn"]
)
def test_a_detector_of_full_size_is_exported(model_name: str, drawn_images: list[Path], tmp_path: Path) -> None:
    """Azure's sizes and torchvision's numbers of proposals."""
    settings = {"yolov5": YoloSettings(), "maskrcnn_resnet50_fpn": SegmentationSettings()}
    network = build_network(model_name, len(LABELS)).eval()
    family_of(model_name).serving_module(network)
    package = write_detector(
        tmp_path / "m",
        model_name,
        drawn_images,
        network=network,
        settings=settings.get(model_name, RcnnSettings()),
        train_artifacts=tmp_path / "contract",
    )
    assert set(package.manifest["parity"]["backends"]) == EVERYWHERE
