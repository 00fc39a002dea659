"""Runs images in batches such that an image's outputs do not depend on the other images of the batch.

A runtime may choose another kernel for another batch size, and then the last bits of an image's outputs change with its
neighbours. Measured on CPU at float32 (ResNet-18, MobileNetV2; OpenVINO 2026.4, ONNX Runtime 1.31, torch 2.13):
OpenVINO and ONNX Runtime give the same bits in every batch size, torch does not (up to 1e-6). This is a property of
runtime, network and machine, so it is measured when a package is loaded, and decides the rule:

- `together`: the bits are the same, so images are batched.
- `alone`: the bits differ, so every image is its own call. On the CPU that costs torch 10 to 20 %.
- `padded`: on a GPU, which single calls would leave idle: every call has exactly `max_batch_size` images, padded with
  zeros.
"""

from typing import Final, Literal

import numpy as np

from clearsight.handlers.backends import Array, Backend, Floats, OpenOptions

__all__ = ["BatchRule", "choose_rule", "run_batches"]

BatchRule = Literal["together", "alone", "padded"]

_SETTLING_RUNS: Final = 2
"""Calls after which a runtime has finished optimising for a shape (TorchScript profiles the first two)."""


def choose_rule(backend: Backend, height: int, width: int, max_batch_size: int, options: OpenOptions) -> BatchRule:
    """Choose by comparing the outputs of noise images, bit by bit: alone, three together, in the largest batch."""
    if options.precision != "f32":
        return "together"  # equal bits are promised for f32 only; lower precisions are chosen for speed
    if options.device == "cuda":
        return "padded"
    noise_NCHW = np.random.default_rng(0).standard_normal((max_batch_size, 3, height, width), np.float32)
    for _ in range(_SETTLING_RUNS):
        backend.run([noise_NCHW[:1]])
    together = backend.run([noise_NCHW])
    for start, stop in ((0, 1), (max_batch_size - 1, max_batch_size), (0, min(3, max_batch_size))):
        some = backend.run([np.ascontiguousarray(noise_NCHW[start:stop])])
        if not all(np.array_equal(part, whole[start:stop]) for part, whole in zip(some, together, strict=True)):
            return "alone"
    return "together"


def run_batches(backend: Backend, images_NCHW: Floats, rule: BatchRule, max_batch_size: int) -> tuple[Array, ...]:
    """Compute a graph's outputs for any number of images (at least one); the first axis of each is the image."""
    step = 1 if rule == "alone" else max_batch_size
    parts = []
    for start in range(0, len(images_NCHW), step):
        batch_NCHW = images_NCHW[start : start + step]
        if rule == "padded" and len(batch_NCHW) < step:
            padding = np.zeros((step - len(batch_NCHW), *batch_NCHW.shape[1:]), np.float32)
            outputs = backend.run([np.concatenate([batch_NCHW, padding])])
            parts.append(tuple(output[: len(batch_NCHW)] for output in outputs))
        else:
            parts.append(backend.run([batch_NCHW]))
    if len(parts) == 1:
        return parts[0]
    return tuple(np.concatenate(outputs) for outputs in zip(*parts, strict=True))
