"""Zoom, shift and mirror a scene."""

import cv2
import numpy as np

from clearsight.training.detection.data.scene import Scene
from clearsight.vision.letterbox import GREY

__all__ = ["flip", "random_affine"]


def random_affine(scene: Scene, size: int, scale: float, translate: float, random: np.random.Generator) -> Scene:
    """A `size` x `size` view of a scene, zoomed by 1 ± `scale` and shifted by up to `translate` * `size`.

    yolov5's random affine; rotation and shear, which its classic recipe sets to zero, are left out. What lies outside
    the scene is grey.
    """
    factor = random.uniform(1 - scale, 1 + scale)
    middle_x, middle_y = size * random.uniform(0.5 - translate, 0.5 + translate, 2)
    left, top = middle_x - factor * scene.width / 2, middle_y - factor * scene.height / 2
    # OpenCV's coordinates refer to the middle of a pixel, the coordinates of scenes to its upper left corner.
    to_middle = (factor - 1) / 2
    matrix_23 = np.array([[factor, 0, left + to_middle], [0, factor, top + to_middle]])
    image_HWC = cv2.warpAffine(
        scene.image_HWC, matrix_23, (size, size), flags=cv2.INTER_LINEAR, borderValue=(GREY, GREY, GREY)
    )
    objects = scene.objects.moved(left, top, factor, factor).cut(size, size)
    return Scene(np.asarray(image_HWC, np.uint8), objects)


def flip(scene: Scene) -> Scene:
    """Mirror a scene: left and right are exchanged."""
    image_HWC = np.asarray(cv2.flip(scene.image_HWC, 1), np.uint8)
    return Scene(image_HWC, scene.objects.mirrored(scene.width))
