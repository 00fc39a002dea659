"""A package is written complete, with its parity record, or not at all."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.numpy_helper
import onnxruntime
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from clearsight.bf16 import has_bf16_units
from clearsight.catalogue.models import MODELS
from clearsight.documents.settings import ClassificationSettings
from clearsight.errors import BadImage, Conflict, ExportError, InvalidPackage, UserError
from clearsight.exporters import serving_graphs, write
from clearsight.exporters.formats.onnx import NormalisedNetwork, export_onnx
from clearsight.exporters.formats.torchscript import export_torchscript
from clearsight.exporters.graphs import run_graph
from clearsight.exporters.write import write_package
from clearsight.images.decode import decode_image
from clearsight.networks.families.table import family_of
from clearsight.networks.load import load_network
from clearsight.networks.serving import GraphSignature
from clearsight.runs.package import ONNX_FILE, TORCHSCRIPT_FILE, ModelPackage
from clearsight.tasks import Task
from clearsight.vision.preprocess import preprocess

NO_WEIGHTS = {"source": "none", "file": None, "sha256": None, "tag": None, "licence": None}


class Thumbnail(nn.Module):
    """The smallest network with the shape of a classifier: pooled colours through one layer."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.fc = nn.Linear(3, num_classes)

    def forward(self, images_NCHW: torch.Tensor) -> torch.Tensor:
        logits_NK: torch.Tensor = self.fc(images_NCHW.mean(dim=(2, 3)))
        return logits_NK


def write_thumbnail(target: Path, image_files: list[Path], **changes: Any) -> ModelPackage:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = changes.pop("network", None) or Thumbnail(2)
    arguments: dict[str, Any] = {
        "task": Task.MULTI_CLASS,
        "model_name": "resnet18",  # what is traced is the network that is given; the name is only recorded
        "labels": ("dark", "light"),
        "network": network,
        "settings": ClassificationSettings(valid_resize_size=40, valid_crop_size=32),
        "parity_images": image_files,
        "run_id": "thumbnail_HD_0",
        "pretrained": NO_WEIGHTS,
        "train_artifacts": target.parent / "train_artifacts",
        "gate_bf16": False,
    }
    return write_package(target, **{**arguments, **changes})


def test_without_images_there_is_no_package(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="at least 1 picture"):
        write_thumbnail(tmp_path / "out" / "mlflow-model", [])
    assert list((tmp_path / "out").iterdir()) == []


def test_labels_of_a_package_differ(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="'dark' stands there twice"):
        write_thumbnail(tmp_path / "out" / "mlflow-model", [], labels=("dark", "dark"))
    assert not (tmp_path / "out").exists()


def test_a_package_holds_what_azures_folder_holds_and_no_pickle(tiny_package: ModelPackage) -> None:
    files = {str(file.relative_to(tiny_package.root)) for file in tiny_package.root.rglob("*") if file.is_file()}
    assert files == {
        "MLmodel",
        "conda.yaml",
        "python_env.yaml",
        "requirements.txt",
        "artifacts/labels.json",
        "artifacts/manifest.json",
        "artifacts/model.onnx",
        "artifacts/model.torchscript.pt",
        "artifacts/settings.json",
        "artifacts/weights.safetensors",
    }
    settings = json.loads(tiny_package.settings_file.read_text())
    assert settings["task_type"] == "image-classification"
    assert settings["model_name"] == "mobilenetv2"
    assert settings["labels"] == list(tiny_package.labels)
    assert settings["schema_version"] == 1
    assert (settings["valid_resize_size"], settings["valid_crop_size"]) == (72, 64)


def test_the_manifest_records_architecture_exporters_and_parity(tiny_package: ModelPackage) -> None:
    manifest = tiny_package.manifest
    assert manifest["architecture"] == {
        "library": "torchvision",
        "builder": "mobilenet_v2",
        "num_parameters": 2228996,  # 3 504 872 of the published network less 996 * 1281 of the last layer
    }
    assert manifest["graphs"][ONNX_FILE]["exporter"] == "torchscript"
    assert manifest["graphs"][ONNX_FILE]["opset"] >= 17
    assert manifest["graphs"][TORCHSCRIPT_FILE]["exporter"] == "torch.jit.trace"
    parity = manifest["parity"]
    assert parity["num_images"] == 16
    assert set(parity["backends"]) == {"torchscript", "onnxruntime", "openvino", "train_artifacts"}
    for backend in parity["backends"].values():
        assert 0 <= backend["max_abs_diff_probs"] <= 1e-4
        assert 0 <= backend["max_abs_diff_logits"] <= 1e-3 * max(1, parity["largest_logit"])


def test_the_network_is_left_as_it_came_and_its_tensors_are_the_weights(
    tmp_path: Path, drawn_images: list[Path]
) -> None:
    network = Thumbnail(2).train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    package = write_thumbnail(tmp_path / "m", drawn_images, network=network)
    assert network.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    saved = load_file(package.weights_file)
    assert saved.keys() == before.keys()
    assert all(torch.equal(tensor, before[name]) for name, tensor in saved.items())
    assert package.weights_file.stat().st_mode & 0o777 == 0o644


def test_weights_of_another_architecture_are_named_on_loading(tmp_path: Path, drawn_images: list[Path]) -> None:
    package = write_thumbnail(tmp_path / "m", drawn_images)  # says resnet18
    with pytest.raises(InvalidPackage, match=r"must hold the weights of resnet18 with 2 classes"):
        load_network(package)


def test_the_serving_graph_takes_any_batch_and_size(tiny_package: ModelPackage) -> None:
    session = onnxruntime.InferenceSession(str(tiny_package.onnx_file), providers=["CPUExecutionProvider"])
    (images,), (logits,) = session.get_inputs(), session.get_outputs()
    assert (images.name, images.type, images.shape) == ("images", "tensor(float)", ["batch", 3, "height", "width"])
    assert logits.name == "logits"
    for count in (1, 2, 7):
        assert session.run(None, {"images": np.zeros((count, 3, 64, 64), np.float32)})[0].shape == (count, 4)


def test_azures_graph_has_azures_names_and_gives_logits(tiny_package: ModelPackage, drawn_images: list[Path]) -> None:
    folder = tiny_package.root.parent / "train_artifacts"
    assert json.loads((folder / "labels.json").read_text()) == list(tiny_package.labels)
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])
    (images,), (logits,) = session.get_inputs(), session.get_outputs()
    assert (images.name, images.type, images.shape) == ("input1", "tensor(float)", ["batch", 3, 64, 64])
    assert (logits.name, logits.shape[0]) == ("output1", "batch")
    network = load_network(tiny_package)
    settings = tiny_package.settings()
    image_files = np.stack([preprocess(decode_image(file.read_bytes()), settings) for file in drawn_images[:7]])
    for count in (1, 2, 7):
        found = session.run(["output1"], {"input1": image_files[:count]})[0]
        with torch.inference_mode():
            expected = network(torch.from_numpy(image_files[:count])).numpy()
        assert found.shape == (count, 4)
        np.testing.assert_allclose(found, expected, atol=1e-4)


def test_normalisation_can_live_inside_azures_graph(tmp_path: Path, drawn_images: list[Path]) -> None:
    settings = ClassificationSettings(40, 32, mean=(0.5, 0.25, 0.0), std=(0.5, 0.25, 1.0))
    write_thumbnail(tmp_path / "m", drawn_images, settings=settings, enable_onnx_normalization=True)
    graph = run_graph("onnxruntime", tmp_path / "train_artifacts" / "model.onnx")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layer = Thumbnail(2).fc
    # An image of one colour in [0, 1]; by hand: ((c - mean) / std) through the layer.
    [found] = graph.run([np.full((1, 3, 32, 32), 0.75, np.float32)])
    expected = layer(torch.tensor([[0.5, 2.0, 0.75]]))
    np.testing.assert_allclose(found, expected.detach().numpy(), atol=1e-5)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("", False),
        ("flags\t\t: fpu avx512f amx_int8 avx512_bf16_x\n", False),
        ("processor\t: 0\nflags\t\t: fpu avx512_bf16 sse\n", True),
        ("processor\t: 0\nflags\t\t: fpu amx_bf16\nmodel name\t: other\n", True),
    ],
)
def test_bf16_units_are_those_the_processor_announces(content: str, expected: bool, tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text(content)
    assert has_bf16_units(tmp_path / "cpuinfo") is expected
    assert not has_bf16_units(tmp_path / "nowhere")


def test_the_gate_of_bf16_is_recorded_where_the_processor_announces_it(
    tmp_path: Path, drawn_images: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(write, "has_bf16_units", lambda: True)
    package = write_thumbnail(tmp_path / "m", drawn_images[:15], gate_bf16=True)
    gate = package.manifest["precision_gates"]["bf16"]
    assert not gate["passed"]
    assert "at least 16 pictures, but got 15" in gate["reason"]
    seen: list[list[Path]] = []

    def measured(folder: Path, image_files: list[Path]) -> dict[str, Any]:
        ModelPackage.open(folder)  # complete before it is measured
        seen.append(image_files)
        return {"precision": "bf16", "num_images": len(image_files), "passed": True}

    monkeypatch.setattr(write, "precision_gate", measured)
    package = write_thumbnail(tmp_path / "m", drawn_images * 13, gate_bf16=True)
    assert package.manifest["precision_gates"]["bf16"] == {"precision": "bf16", "num_images": 64, "passed": True}
    assert set(seen[0]) == set(drawn_images)
    monkeypatch.setattr(write, "has_bf16_units", lambda: False)
    assert write_thumbnail(tmp_path / "m", drawn_images, gate_bf16=True).manifest["precision_gates"] == {}


def test_fewer_images_than_wanted_are_recorded(tmp_path: Path, drawn_images: list[Path]) -> None:
    package = write_thumbnail(tmp_path / "m", drawn_images[:3])
    assert package.manifest["parity"]["num_images"] == 3
    assert package.manifest["parity"]["wanted_images"] == 16


def test_an_unreadable_parity_image_leaves_nothing_behind(tmp_path: Path, drawn_images: list[Path]) -> None:
    (tmp_path / "broken.png").write_bytes(b"\x89PNG")
    with pytest.raises(BadImage):
        write_thumbnail(tmp_path / "out" / "m", [*drawn_images[:2], tmp_path / "broken.png"])
    assert list((tmp_path / "out").iterdir()) == []


def test_a_graph_that_disagrees_leaves_nothing_behind_and_keeps_the_older_package(
    tmp_path: Path, drawn_images: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "out" / "m"
    older = write_thumbnail(target, drawn_images)
    before = {file: file.read_bytes() for file in (tmp_path / "out").rglob("*") if file.is_file()}

    def export_and_corrupt(module: nn.Module, example: Any, file: Path, signature: GraphSignature) -> dict[str, Any]:
        record = export_onnx(module, example, file, signature)
        graph = onnx.load(file)
        for tensor in graph.graph.initializer:
            if tensor.name.endswith("fc.bias"):
                values = onnx.numpy_helper.to_array(tensor) + np.array([0.1, 0], np.float32)
                tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
        onnx.save(graph, file)
        return record

    monkeypatch.setattr(serving_graphs, "export_onnx", export_and_corrupt)
    with pytest.raises(ExportError, match="onnxruntime must agree with the network"):
        write_thumbnail(target, drawn_images)
    assert {file: file.read_bytes() for file in (tmp_path / "out").rglob("*") if file.is_file()} == before
    assert ModelPackage.open(target).manifest == older.manifest


def test_a_later_package_replaces_an_older_one_but_nothing_else(tmp_path: Path, drawn_images: list[Path]) -> None:
    first = write_thumbnail(tmp_path / "m", drawn_images)
    second = write_thumbnail(tmp_path / "m", drawn_images, run_id="second_HD_0")
    assert (first.run_id, second.run_id) == ("thumbnail_HD_0", "second_HD_0")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["m", "train_artifacts"]
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").touch()
    with pytest.raises(Conflict, match="choose another"):
        write_thumbnail(tmp_path / "thesis", drawn_images)
    assert (tmp_path / "thesis" / "chapter.txt").is_file()


def test_labels_must_match_the_networks_outputs(tmp_path: Path, drawn_images: list[Path]) -> None:
    with pytest.raises(ExportError, match="must answer 3 logits per picture"):
        write_thumbnail(tmp_path / "m", drawn_images, labels=("a", "b", "c"))
    assert not (tmp_path / "m").exists()


class Untraceable(nn.Module):
    def forward(self, images_NCHW: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("no forward\npass")


def test_a_network_that_cannot_be_exported_says_why(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="cannot be exported to TorchScript: no forward"):
        export_torchscript(Untraceable(), (torch.zeros(1),), tmp_path / "m.pt")
    signature = family_of("resnet18").signature(MODELS["resnet18"])
    with pytest.raises(ExportError, match="cannot be exported to ONNX: torchscript: RuntimeError: no forward"):
        export_onnx(Untraceable(), (torch.zeros(1),), tmp_path / "m.onnx", signature, exporters=("torchscript",))
    assert list(tmp_path.iterdir()) == []


def test_a_normalised_network_takes_values_from_zero_to_one() -> None:
    network = NormalisedNetwork(nn.Identity(), (0.5, 0.0, 1.0), (0.5, 1.0, 2.0))
    found = network(torch.ones(1, 3, 1, 1)).flatten().tolist()
    assert found == [1.0, 1.0, 0.0]


@pytest.mark.slow
def test_the_second_exporter_writes_the_same_graph(tiny_package: ModelPackage, tmp_path: Path) -> None:
    network = load_network(tiny_package)
    example = (torch.zeros(2, 3, 64, 64),)
    record = export_onnx(
        network,
        example,
        tmp_path / "m.onnx",
        family_of("resnet18").signature(MODELS["resnet18"]),
        exporters=("dynamo",),
    )
    assert record["exporter"] == "dynamo"
    graph, first = run_graph("onnxruntime", tmp_path / "m.onnx"), run_graph("onnxruntime", tiny_package.onnx_file)
    random = np.random.default_rng(0)
    for shape in [(1, 3, 64, 64), (5, 3, 96, 80)]:
        batch = random.normal(size=shape).astype(np.float32)
        np.testing.assert_allclose(graph.run([batch])[0], first.run([batch])[0], atol=1e-4)
