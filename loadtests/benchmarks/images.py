"""The JPEG images that benchmarks use."""

import io

import numpy as np
from PIL import Image

from clearsight.demo.scene import draw_scene

__all__ = ["draw_jpegs", "resized_jpeg"]


def draw_jpegs(count: int) -> list[bytes]:
    """Drawn scenes of 640x480 as JPEG: about 60 KB each."""
    images = []
    for seed in range(count):
        file = io.BytesIO()
        scene = draw_scene(np.random.default_rng(seed), 480, 640, ("can", "carton"))
        Image.fromarray(scene.image_HW3).save(file, "JPEG", quality=92)
        images.append(file.getvalue())
    return images


def resized_jpeg(image: bytes, width: int, height: int) -> bytes:
    """An image of any format and size as JPEG of that size."""
    file = io.BytesIO()
    resized = Image.open(io.BytesIO(image)).convert("RGB").resize((width, height), Image.Resampling.LANCZOS)
    resized.save(file, "JPEG", quality=90)
    return file.getvalue()
