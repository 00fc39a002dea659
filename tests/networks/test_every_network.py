"""Each model is built, trained for one step, packaged, loaded and scored on every runtime."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from clearsight.catalogue.models import ModelRow, models_of
from clearsight.documents.settings import ClassificationSettings
from clearsight.exporters.write import write_package
from clearsight.handlers.scoring.scorer import load_scorer
from clearsight.images.decode import decode_image
from clearsight.networks.families.table import build_network
from clearsight.networks.load import load_network
from clearsight.runs.package import ModelPackage
from clearsight.tasks import Task
from clearsight.vision.preprocess import preprocess
from clearsight.wire.answers import Answer

MODELS = models_of(Task.MULTI_CLASS)
LABELS = ("a", "b", "c")
FAST = ("mobilenetv2", "resnet18", "seresnext", "vits16r224")
"""One network of each kind of block; the others are slow tests."""


def build_and_step(
    model_name: str, settings: ClassificationSettings, rgb_images: list[Path]
) -> tuple[nn.Module, float]:
    """A network after one optimizer step, and the largest change of a parameter of its first layer.

    Batch-norm statistics are those of the images after the step: with those of random weights a deep network answers
    1 or 0 to everything, and any two runtimes would agree.
    """
    images_NCHW = np.stack([preprocess(decode_image(file.read_bytes()), settings) for file in rgb_images])
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = build_network(model_name, len(LABELS), settings.valid_crop_size)
        _calm_residuals(network)
        first = next(network.parameters())
        before = first.detach().clone()
        optimizer = torch.optim.SGD(network.parameters(), lr=0.001)
        images = torch.from_numpy(images_NCHW)
        logits_NK = network.train()(images)
        nn.functional.cross_entropy(logits_NK, torch.arange(len(rgb_images)) % len(LABELS)).backward()
        optimizer.step()
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.reset_running_stats()
                module.momentum = None
        with torch.no_grad():
            network(images)
    return network, float((first.detach() - before).abs().max())


def _calm_residuals(network: nn.Module) -> None:
    """Scale each residual block by a fifth: a hundred random layers at full weight amplify rounding."""
    for block in network.modules():
        if hasattr(block, "downsample"):
            last = block.bn3 if hasattr(block, "bn3") else block.bn2
            nn.init.constant_(last.weight, 0.2)


def require_whole_way(
    spec: ModelRow, crop_size: int, rgb_images: list[Path], folder: Path, backends: tuple[str, ...]
) -> None:
    """Also compares the graphs on all runtimes, which is what writing a package does; `backends` load it to score."""
    settings = ClassificationSettings(
        crop_size + 8, crop_size, mean=spec.mean, std=spec.std, interpolation=spec.interpolation
    )
    network, change = build_and_step(spec.model_name, settings, rgb_images)
    assert change > 0
    package = write_package(
        folder / "mlflow-model",
        task=Task.MULTI_CLASS,
        model_name=spec.model_name,
        labels=LABELS,
        network=network,
        settings=settings,
        parity_images=rgb_images,
        run_id="every_HD_0",
        pretrained={"source": "none"},
        train_artifacts=folder / "train_artifacts",
        gate_bf16=False,
    )
    assert set(package.manifest["parity"]["backends"]) == {"torchscript", "onnxruntime", "openvino", "train_artifacts"}

    loaded = load_network(package)
    assert not loaded.training
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, loaded.state_dict()[name]), name

    cells = [file.read_bytes() for file in rgb_images]
    expected_NK: np.ndarray | None = None
    for backend in backends:
        scorer = load_scorer(package, backend, device="cpu", num_threads=1, max_batch_size=4)
        together = scorer.score(cells)
        alone = [answer for cell in cells for answer in scorer.score([cell])]
        assert all(isinstance(answer, Answer) for answer in together), together
        assert together == alone, f"{backend} ({scorer.batch_rule})"
        probs_NK = np.array([answer.probs for answer in together])  # type: ignore[union-attr]
        if expected_NK is None:
            expected_NK = probs_NK
            assert np.ptp(probs_NK, axis=0).max() > 1e-3  # images differ, or the comparison says nothing
        np.testing.assert_allclose(probs_NK, expected_NK, atol=1e-4, err_msg=backend)


@pytest.mark.parametrize(
    "model_name", [pytest.param(name, marks=[] if name in FAST else [pytest.mark.slow]) for name in MODELS]
)
def test_a_network_learns_is_packaged_and_answers_as_itself(
    model_name: str, narrow: Callable[[str], ModelRow], drawn_images: list[Path], tmp_path: Path
) -> None:
    require_whole_way(narrow(model_name), 32, drawn_images[:6], tmp_path, ("eager", "openvino"))


@pytest.mark.slow
@pytest.mark.full_size
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("model_name", MODELS)
def test_a_network_of_full_size_goes_the_same_way(model_name: str, drawn_images: list[Path], tmp_path: Path) -> None:
    spec = MODELS[model_name]
    require_whole_way(spec, spec.crop_size, drawn_images[:4], tmp_path, ("eager", "openvino"))


def test_a_package_loads_for_the_size_its_settings_name(tiny_package: ModelPackage) -> None:
    network = load_network(tiny_package)
    assert network(torch.zeros(1, 3, 64, 64)).shape == (1, tiny_package.num_classes)
