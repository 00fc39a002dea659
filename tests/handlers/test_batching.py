import numpy as np
import pytest

from clearsight.handlers.backends import OpenOptions
from clearsight.handlers.scoring.batching import choose_rule, run_batches


class Exact:
    """Mean of every image: the same bits in any batch."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def run(self, inputs):
        [images_NCHW] = inputs
        self.sizes.append(len(images_NCHW))
        means = np.array([image.mean() for image in images_NCHW], np.float32)
        return means, np.stack([image[:, 0] for image in images_NCHW])


class Leaky(Exact):
    """A runtime whose last bits depend on the batch size."""

    def run(self, inputs):
        means, corners = super().run(inputs)
        return means, corners * np.float32(1 + len(inputs[0]) * 2e-7)


def images(count: int) -> np.ndarray:
    return np.random.default_rng(1).random((count, 3, 4, 6), np.float32)


def test_equal_bits_allow_batches_and_unequal_bits_do_not():
    assert choose_rule(Exact(), 4, 6, 8, OpenOptions()) == "together"
    assert choose_rule(Leaky(), 4, 6, 8, OpenOptions()) == "alone"
    assert choose_rule(Leaky(), 4, 6, 8, OpenOptions("cuda")) == "padded"
    assert choose_rule(Leaky(), 4, 6, 1, OpenOptions()) == "together"  # nothing to batch
    assert choose_rule(Leaky(), 4, 6, 8, OpenOptions(precision="bf16")) == "together"  # asked for speed


@pytest.mark.parametrize(
    ("rule", "count", "sizes"),
    [
        ("together", 1, [1]),
        ("together", 8, [8]),
        ("together", 11, [8, 3]),
        ("alone", 3, [1, 1, 1]),
        ("padded", 1, [8]),
        ("padded", 11, [8, 8]),
    ],
)
def test_a_rule_decides_the_sizes_of_calls(rule, count, sizes):
    backend = Exact()
    batch = images(count)
    outputs = run_batches(backend, batch, rule, 8)
    assert backend.sizes == sizes
    for found, expected in zip(outputs, Exact().run([batch]), strict=True):
        assert np.array_equal(found, expected)


@pytest.mark.parametrize("rule", ["alone", "padded"])
def test_a_runtime_that_leaks_between_neighbours_gives_equal_bits_under_its_rule(rule):
    batch = images(11)
    whole = run_batches(Leaky(), batch, rule, 8)
    alone = [run_batches(Leaky(), batch[index : index + 1], rule, 8) for index in range(11)]
    for number, output in enumerate(whole):
        assert np.array_equal(output, np.concatenate([outputs[number] for outputs in alone]))
