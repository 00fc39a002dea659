"""Bytes to network input: ours against the recipe with Pillow and torchvision's transforms, one thread each.

Images are drawn scenes at two common sizes, saved as JPEG; both ways take turns, so that they see the same machine.
The difference of the resized images is measured on the same images.
"""

import io
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from PIL import Image
from torchvision import transforms

from clearsight.documents.settings import ClassificationSettings
from clearsight.images.decode import decode_image
from clearsight.vision.preprocess import preprocess, resize_and_crop

__all__ = ["PreprocessingRow", "measure_preprocessing"]

SIZES_WH = ((640, 480), (1920, 1080))
ROUNDS = 8


@dataclass(frozen=True, slots=True)
class PreprocessingRow:
    """Medians in ms; differences after resize and crop, in grey levels of 0 to 255."""

    size: str
    ours_ms: float
    recipe_ms: float
    ratio: float
    mean_difference: float
    max_difference: float


def measure_preprocessing(images: list[bytes]) -> list[PreprocessingRow]:
    """Time both ways on `images` (any format, any size), saved as JPEG at each size of `SIZES_WH`."""
    settings = ClassificationSettings()
    resize = transforms.Compose(
        [transforms.Resize(settings.valid_resize_size), transforms.CenterCrop(settings.valid_crop_size)]
    )
    normalise = transforms.Compose([transforms.ToTensor(), transforms.Normalize(settings.mean, settings.std)])

    def ours(data: bytes) -> object:
        return preprocess(decode_image(data), settings)

    def recipe(data: bytes) -> object:
        return normalise(resize(Image.open(io.BytesIO(data)).convert("RGB")))

    threads = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    try:
        rows = []
        for width, height in SIZES_WH:
            jpegs = [_as_jpeg(image, width, height) for image in images]
            ours_ms, recipe_ms = _interleaved(ours, recipe, jpegs)
            differences = [
                np.abs(
                    resize_and_crop(decode_image(data), settings).astype(np.int16)
                    - np.asarray(resize(Image.open(io.BytesIO(data)).convert("RGB")), np.int16)
                )
                for data in jpegs
            ]
            rows.append(
                PreprocessingRow(
                    size=f"{width}x{height}",
                    ours_ms=ours_ms,
                    recipe_ms=recipe_ms,
                    ratio=recipe_ms / ours_ms,
                    mean_difference=float(np.mean([difference.mean() for difference in differences])),
                    max_difference=float(max(difference.max() for difference in differences)),
                )
            )
        return rows
    finally:
        torch.set_num_threads(threads[0])
        cv2.setNumThreads(threads[1])


def _as_jpeg(image: bytes, width: int, height: int) -> bytes:
    file = io.BytesIO()
    Image.open(io.BytesIO(image)).convert("RGB").resize((width, height), Image.Resampling.LANCZOS).save(
        file, "JPEG", quality=90
    )
    return file.getvalue()


def _interleaved(
    first: Callable[[bytes], object], second: Callable[[bytes], object], inputs: list[bytes]
) -> tuple[float, float]:
    """Median ms per call of both, in turn, a pass over all inputs each; the first round warms up and does not count.

    Not call by call: what one way frees, the other would have to fault in again, which no serving loop does.
    """
    times: tuple[list[float], list[float]] = ([], [])
    for round_number in range(ROUNDS + 1):
        for function, measured in zip((first, second), times, strict=True):
            for data in inputs:
                start = time.perf_counter()
                function(data)
                if round_number:
                    measured.append((time.perf_counter() - start) * 1000)
    return statistics.median(times[0]), statistics.median(times[1])
