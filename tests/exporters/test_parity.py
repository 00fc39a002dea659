"""The parity check of classifiers refuses graphs with other outputs."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnx.numpy_helper
import pytest
import torch
from torch import nn

from clearsight.errors import ExportError
from clearsight.exporters.graphs import Graph, run_eager, run_graph
from clearsight.exporters.parity.classification import check_parity
from clearsight.exporters.serving_graphs import open_serving_graphs
from clearsight.networks.load import load_network
from clearsight.runs.package import ModelPackage
from clearsight.tasks import Task

Floats = npt.NDArray[np.float32]


class Means(nn.Module):
    """Logits: the mean of each channel."""

    def forward(self, images_NCHW: torch.Tensor) -> torch.Tensor:
        return images_NCHW.mean(dim=(2, 3))


def images(count: int) -> Floats:
    return np.random.default_rng(0).normal(size=(count, 3, 4, 4)).astype(np.float32)


def shifted(by: float, name: str = "shifted") -> Graph:
    """A graph whose first logit is off by a constant."""

    def run(inputs: Sequence[Floats]) -> tuple[Floats, ...]:
        [images_NCHW] = inputs
        return (images_NCHW.mean(axis=(2, 3)) + np.array([by, 0, 0], np.float32),)

    return Graph(name, run, "numpy")


def test_no_image_is_an_error() -> None:
    with pytest.raises(ExportError, match="at least 1 picture, but got none"):
        check_parity(Means(), [shifted(0)], images(0), Task.MULTI_CLASS, 3)


@pytest.mark.parametrize("count", [1, 2, 8, 9, 10, 20])
def test_every_image_is_compared_once_alone_or_in_a_batch(count: int) -> None:
    sizes: list[int] = []

    def run(inputs: Sequence[Floats]) -> tuple[Floats, ...]:
        sizes.append(len(inputs[0]))
        return (inputs[0].mean(axis=(2, 3)),)

    report = check_parity(Means(), [Graph("counted", run, "numpy")], images(count), Task.MULTI_CLASS, 3)
    assert report["num_images"] == sum(sizes) == count
    assert sizes[0] == 1
    assert max(sizes) <= 8


def test_the_report_gives_the_largest_differences_per_graph() -> None:
    flat = np.zeros((1, 3, 4, 4), np.float32)
    report = check_parity(Means(), [shifted(2e-4, "a"), shifted(0, "b")], flat, Task.MULTI_LABEL, 3)
    # The slope of the logistic function at 0 is 1/4.
    assert report["backends"]["a"]["max_abs_diff_logits"] == pytest.approx(2e-4)
    assert report["backends"]["a"]["max_abs_diff_probs"] == pytest.approx(5e-5)
    assert report["backends"]["b"]["max_abs_diff_probs"] == 0


# At logits of 0 the slope of softmax over three classes is 2/9, of the logistic function 1/4.
@pytest.mark.parametrize(("task", "slope"), [(Task.MULTI_CLASS, 2 / 9), (Task.MULTI_LABEL, 1 / 4)])
def test_probabilities_may_differ_by_the_tolerance_and_not_by_more(task: Task, slope: float) -> None:
    flat = np.zeros((2, 3, 4, 4), np.float32)
    check_parity(Means(), [shifted(0.98e-4 / slope)], flat, task, 3)
    with pytest.raises(ExportError, match=r"shifted must agree with the network within 0\.0001 on probabilities"):
        check_parity(Means(), [shifted(1.02e-4 / slope)], flat, task, 3)


def test_logits_are_compared_where_probabilities_are_saturated() -> None:
    saturated = np.zeros((1, 3, 4, 4), np.float32)
    saturated[:, 0] = 40
    with pytest.raises(ExportError, match=r"0\.04 on logits, but the largest differences are .* and 0\.0999"):
        check_parity(Means(), [shifted(0.1)], saturated, Task.MULTI_CLASS, 3)


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (lambda inputs: (inputs[0].mean(axis=(2, 3)) * np.nan,), "differences are nan"),
        (lambda inputs: (inputs[0].mean(axis=(2, 3))[:, :2],), r"shape \(3, 3\), but got \(3, 2\)"),
    ],
)
def test_not_a_number_and_a_wrong_shape_are_differences(run: object, message: str) -> None:
    with pytest.raises(ExportError, match=message):
        check_parity(Means(), [Graph("odd", run, "numpy")], images(3), Task.MULTI_CLASS, 3)  # type: ignore[arg-type]


def test_a_network_that_answers_nan_or_another_number_of_classes_is_not_exported() -> None:
    with pytest.raises(ExportError, match="4 logits per picture"):
        check_parity(Means(), [], images(3), Task.MULTI_CLASS, 4)
    with pytest.raises(ExportError, match="not finite"):
        check_parity(Means(), [], images(3) * np.float32(np.nan), Task.MULTI_CLASS, 3)


def test_all_runtimes_agree_on_a_package_at_other_batches_and_sizes_too(tiny_package: ModelPackage) -> None:
    graphs = open_serving_graphs(tiny_package.root)
    assert [graph.name for graph in graphs] == ["torchscript", "onnxruntime", "openvino"]
    eager = run_eager(load_network(tiny_package))
    random = np.random.default_rng(1)
    for shape in [(7, 3, 64, 64), (2, 3, 96, 80)]:
        batch = random.normal(size=shape).astype(np.float32)
        [expected] = eager([batch])
        for graph in graphs:
            np.testing.assert_allclose(graph.run([batch])[0], expected, atol=1e-4, err_msg=f"{graph.name} {shape}")


def test_an_altered_onnx_initializer_is_found(tiny_package: ModelPackage, tmp_path: Path) -> None:
    graph = onnx.load(tiny_package.onnx_file)
    weight = next(item for item in graph.graph.initializer if item.name.endswith("classifier.1.weight"))
    values = onnx.numpy_helper.to_array(weight).copy()
    values[0, 0] += 1.0
    weight.CopyFrom(onnx.numpy_helper.from_array(values, weight.name))
    onnx.save(graph, tmp_path / "altered.onnx")
    batch = np.random.default_rng(1).normal(size=(16, 3, 64, 64)).astype(np.float32)
    with pytest.raises(ExportError, match="onnxruntime must agree"):
        check_parity(
            load_network(tiny_package),
            [run_graph("onnxruntime", tmp_path / "altered.onnx")],
            batch,
            tiny_package.task,
            tiny_package.num_classes,
        )
