"""Search and loading of pretrained weights."""

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from safetensors.torch import save_file

from clearsight import environment
from clearsight.catalogue.models import MODELS
from clearsight.documents.settings import ClassificationSettings
from clearsight.errors import UserError, WeightsMissing
from clearsight.images.decode import decode_image
from clearsight.networks import weight_search
from clearsight.networks.families.table import build_network, load_pretrained
from clearsight.networks.library_files import TorchvisionFile, library_file
from clearsight.vision.preprocess import preprocess

pytestmark = pytest.mark.usefixtures("no_network")


@pytest.fixture(scope="module")
def donor_state() -> dict[str, torch.Tensor]:
    """A MobileNetV2 with 3 classes, its tensors far from any initialisation."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        state = torchvision.models.mobilenet_v2(num_classes=3).state_dict()
    return {name: tensor + 1 for name, tensor in state.items()}


def test_an_empty_folder_and_no_network_give_one_line_with_both_ways_out(tmp_path: Path, no_network: list[str]) -> None:
    folder = tmp_path / "weights"
    folder.mkdir()
    with pytest.raises(WeightsMissing) as caught:
        load_pretrained(build_network("mobilenetv2", 2), "mobilenetv2", folder)
    message = str(caught.value)
    assert "\n" not in message
    for part in (
        str(folder),
        "Name or service not known",
        "x_weights_dir",
        "CLEARSIGHT_WEIGHTS",
        "x_pretrained: false",
    ):
        assert part in message
    assert no_network == ["https://download.pytorch.org/models/mobilenet_v2-7ebf99e0.pth"]
    assert not [file for file in tmp_path.rglob("*") if file.is_file()]


def test_names_and_cache_of_torchvisions_files_are_those_of_torchvision(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for row in MODELS.values():
        if row.library == "torchvision" and row.weights_tag is not None:
            url = torchvision.models.get_model_weights(row.builder)[row.weights_tag].url
            assert library_file(row).location == url
    for variables in ({"TORCH_HOME": str(tmp_path)}, {"XDG_CACHE_HOME": str(tmp_path)}, {}):
        for name in ("TORCH_HOME", "XDG_CACHE_HOME"):
            monkeypatch.delenv(name, raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        assert str(environment.torch_home() / "hub") == torch.hub.get_dir()


def test_offline_asks_for_no_download(monkeypatch: pytest.MonkeyPatch, no_network: list[str]) -> None:
    monkeypatch.setenv("CLEARSIGHT_OFFLINE", "1")
    with pytest.raises(WeightsMissing, match="CLEARSIGHT_OFFLINE forbids the download"):
        load_pretrained(build_network("mobilenetv2", 2), "mobilenetv2")
    assert no_network == []


def test_a_folder_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsMissing, match="nowhere does not"):
        load_pretrained(build_network("mobilenetv2", 2), "mobilenetv2", tmp_path / "nowhere")


def test_random_weights_come_only_on_request_and_change_nothing(no_network: list[str]) -> None:
    network = build_network("mobilenetv2", 2)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    record = load_pretrained(network, "mobilenetv2", pretrained=False)
    assert record.to_document() == {
        "source": "none",
        "file": None,
        "sha256": None,
        "tag": None,
        "licence": None,
        "new_head": True,
        "resized_positions": False,
        "backbone_only": False,
        "notice": None,
    }
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert no_network == []


def _save_torch(state: dict[str, torch.Tensor], file: Path) -> None:
    torch.save(state, file)


def _save_old_torch(state: dict[str, torch.Tensor], file: Path) -> None:
    """As old PyTorch wrote it: no zip, and no batch counters."""
    kept = {name: tensor for name, tensor in state.items() if not name.endswith("num_batches_tracked")}
    torch.save(kept, file, _use_new_zipfile_serialization=False)


@pytest.mark.parametrize(
    ("name", "save"),
    [
        ("mobilenetv2.safetensors", save_file),
        ("mobilenetv2_mine.pt", _save_torch),
        ("mobilenet_v2_imagenet1k.pth", _save_torch),
        ("mobilenet_v2-7ebf99e0.pth", _save_old_torch),
    ],
)
def test_a_file_of_the_folder_loads_whole_but_for_the_head(
    name: str,
    save: Callable[[dict[str, torch.Tensor], Path], None],
    donor_state: dict[str, torch.Tensor],
    tmp_path: Path,
) -> None:
    save(donor_state, tmp_path / name)
    (tmp_path / "LICENSE").write_text("\n  Some licence\nwith terms\n")
    network = build_network("mobilenetv2", 5)
    record = load_pretrained(network, "mobilenetv2", tmp_path)
    for key, tensor in network.state_dict().items():
        if key.endswith("num_batches_tracked"):
            continue
        if key.startswith("classifier.1."):
            assert tensor.shape[0] == 5
            assert tensor.abs().max() < 0.5  # the donor's are all near 1
        else:
            assert torch.equal(tensor, donor_state[key]), key
    assert record.source == "folder"
    assert record.file == name
    assert record.sha256 == hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()
    assert record.new_head
    assert record.tag is None  # the name may be the library's, the content is not
    assert record.licence == "Some licence (LICENSE)"


def test_an_equal_number_of_classes_keeps_the_head(donor_state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    save_file(donor_state, tmp_path / "mobilenetv2.safetensors")
    network = build_network("mobilenetv2", 3)
    record = load_pretrained(network, "mobilenetv2", tmp_path)
    assert not record.new_head
    assert record.licence is None
    assert torch.equal(network.state_dict()["classifier.1.weight"], donor_state["classifier.1.weight"])


def test_the_librarys_file_name_wins_then_the_model_name_then_the_builders(
    donor_state: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    names = ["mobilenet_v2-7ebf99e0.pth", "mobilenetv2_a.pth", "mobilenetv2_b.pth", "mobilenet_v2_a.pth"]
    for name in [*names, "mobilenetv2x.pth", "mobilenetv2_a.txt"]:
        torch.save(donor_state, tmp_path / name)
    for name in names:
        assert load_pretrained(build_network("mobilenetv2", 2), "mobilenetv2", tmp_path).file == name
        (tmp_path / name).unlink()
    with pytest.raises(WeightsMissing):
        load_pretrained(build_network("mobilenetv2", 2), "mobilenetv2", tmp_path)


def test_the_folder_of_the_environment_counts_when_the_job_names_none(
    donor_state: dict[str, torch.Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save(donor_state, tmp_path / "mobilenetv2.pth")
    monkeypatch.setenv("CLEARSIGHT_WEIGHTS", str(tmp_path))
    assert load_pretrained(build_network("mobilenetv2", 2), "mobilenetv2").source == "folder"


def test_the_librarys_cache_and_download_are_recorded_with_tag_and_licence(
    donor_state: dict[str, torch.Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = tmp_path / "served.pth"
    torch.save(donor_state, original)
    digits = hashlib.sha256(original.read_bytes()).hexdigest()[:8]
    published = TorchvisionFile(f"https://example.org/mobilenet_v2-{digits}.pth")
    monkeypatch.setattr(weight_search, "library_file", lambda spec: published)
    monkeypatch.setattr(
        torch.hub, "download_url_to_file", lambda url, dst, hash_prefix, progress: shutil.copy(original, dst)
    )
    for source in ("download", "cache"):
        record = load_pretrained(build_network("mobilenetv2", 2), "mobilenetv2")
        assert (record.source, record.tag, record.licence) == (source, "IMAGENET1K_V2", "BSD-3-Clause")


def test_another_architecture_is_refused_and_named(tmp_path: Path) -> None:
    torch.save({"conv1.weight": torch.zeros(64, 3, 7, 7)}, tmp_path / "mobilenetv2.pth")
    network = build_network("mobilenetv2", 2)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with pytest.raises(UserError, match=r"weights of mobilenetv2 .* 1 are unknown .*'classifier.1.bias'"):
        load_pretrained(network, "mobilenetv2", tmp_path)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def test_a_head_of_another_width_is_refused(donor_state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    torch.save({**donor_state, "classifier.1.weight": torch.zeros(3, 640)}, tmp_path / "mobilenetv2.pth")
    with pytest.raises(UserError, match=r"1 have another shape.*'classifier.1.weight'"):
        load_pretrained(build_network("mobilenetv2", 3), "mobilenetv2", tmp_path)


class _Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path(self.marker),))

    def __init__(self, marker: Path) -> None:
        self.marker = marker


@pytest.mark.parametrize("content", [b"", b"not a state dict", None])
def test_a_file_that_is_no_state_dict_is_refused_without_running_it(content: bytes | None, tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    if content is None:
        torch.save(_Bomb(marker), tmp_path / "mobilenetv2.pth")
    else:
        (tmp_path / "mobilenetv2.pth").write_bytes(content)
    with pytest.raises(UserError, match="must be a state dict"):
        load_pretrained(build_network("mobilenetv2", 2), "mobilenetv2", tmp_path)
    assert not marker.exists()


def test_shared_imagenet_weights_give_torchvisions_logits(shared_data: Path) -> None:
    file = shared_data / "weights" / "mobilenet_v2_imagenet1k.pth"
    photo = next(iter(sorted((shared_data / "fridge_multiclass").rglob("*.jpg"))))
    network = build_network("mobilenetv2", 1000)
    record = load_pretrained(network, "mobilenetv2", file.parent)
    assert (record.file, record.new_head) == (file.name, False)
    assert record.licence is not None
    assert record.licence.startswith("Apache License")
    oracle = torchvision.models.mobilenet_v2()
    oracle.load_state_dict(torch.load(file, weights_only=True))
    recipe = torchvision.models.MobileNet_V2_Weights.IMAGENET1K_V1.transforms()
    with torch.inference_mode():
        expected = oracle.eval()(recipe(Image.open(photo).convert("RGB"))[None])[0].numpy()
        image_CPP = preprocess(decode_image(photo.read_bytes()), ClassificationSettings())
        found = network.eval()(torch.from_numpy(image_CPP)[None])[0].numpy()
    assert found.argmax() == expected.argmax()
    np.testing.assert_allclose(found, expected, atol=0.2)  # logits span 30; decoder and resize differ by grey levels
