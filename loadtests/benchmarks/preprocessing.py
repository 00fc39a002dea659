"""Bytes to network input: Clearsight against the recipe with Pillow and torchvision's transforms, one thread each.

Images are drawn scenes at two common sizes, saved as JPEG. Both ways take turns. The difference of the resized images
is measured too.
"""

import io
from dataclasses import dataclass

import numpy as np
from PIL import Image
from torchvision import transforms

from clearsight.documents.settings import ClassificationSettings
from clearsight.images.decode import decode_image
from clearsight.vision.preprocess import preprocess, resize_and_crop
from loadtests.benchmarks.images import resized_jpeg
from loadtests.benchmarks.timing import interleaved_medians_ms, one_thread

__all__ = ["PreprocessingRow", "measure_preprocessing"]

SIZES_WH = ((640, 480), (1920, 1080))
ROUNDS = 8


@dataclass(frozen=True, slots=True)
class PreprocessingRow:
    """Median ms per image; differences after resize and crop, in grey levels of 0 to 255."""

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

    rows = []
    with one_thread():
        for width, height in SIZES_WH:
            jpegs = [resized_jpeg(image, width, height) for image in images]
            # A pass over all images each: call by call, each would pay for the memory that the other has freed.
            passes_ms = interleaved_medians_ms(
                [lambda jpegs=jpegs: list(map(ours, jpegs)), lambda jpegs=jpegs: list(map(recipe, jpegs))], ROUNDS
            )
            ours_ms, recipe_ms = (pass_ms / len(jpegs) for pass_ms in passes_ms)
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
