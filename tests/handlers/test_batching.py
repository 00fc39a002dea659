import numpy as np
import pytest

from clearsight.handlers.batching import choose_rule, run_batches


class Exact:
    """Mean of every picture: the same bits in any batch."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def run(self, images_NCHW):
        self.sizes.append(len(images_NCHW))
        return np.array([[image.mean(), image[0, 0, 0]] for image in images_NCHW], np.float32)


class Leaky(Exact):
    """A runtime whose last bits depend on the batch size."""

    def run(self, images_NCHW):
        return super().run(images_NCHW) * np.float32(1 + len(images_NCHW) * 2e-7)


def images(count: int) -> np.ndarray:
    return np.random.default_rng(1).random((count, 3, 4, 4), np.float32)


def test_equal_bits_allow_batches_and_unequal_bits_do_not():
    assert choose_rule(Exact(), 4, 8, "cpu") == "together"
    assert choose_rule(Leaky(), 4, 8, "cpu") == "alone"
    assert choose_rule(Leaky(), 4, 8, "cuda") == "padded"
    assert choose_rule(Leaky(), 4, 1, "cpu") == "together"  # nothing to batch


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
    logits = run_batches(backend, batch, rule, 8)
    assert backend.sizes == sizes
    assert np.array_equal(logits, Exact().run(batch))


@pytest.mark.parametrize("rule", ["alone", "padded"])
def test_a_runtime_that_leaks_between_neighbours_gives_equal_bits_under_its_rule(rule):
    batch = images(11)
    whole = run_batches(Leaky(), batch, rule, 8)
    alone = np.concatenate([run_batches(Leaky(), batch[index : index + 1], rule, 8) for index in range(11)])
    assert np.array_equal(whole, alone)
