"""Draws a scene with a known object, and checks that the heat of an explanation lies on it; used by examples/demo.sh.

    python examples/explained_scene.py draw FOLDER             scene.jpg, object.png (white: the object), request.json
    python examples/explained_scene.py check FOLDER PACKAGE    reads answer.json, writes explanation.png

`check` exits with 1 unless the label is right and the object gets at least twice the heat that its share of the area
would get by chance.
"""

import base64
import io
import json
import sys
from pathlib import Path

import click
import numpy as np
from PIL import Image

from clearsight.demo.scene import draw_scene
from clearsight.documents.settings import ClassificationSettings
from clearsight.handlers.drawing.explanation_image import heat_map
from clearsight.runs.model_registry import ModelRegistry
from clearsight.runs.package import ModelPackage
from clearsight.runs.workspace import Workspace
from clearsight.testing.localisation import mass_inside
from clearsight.vision.preprocess import resize_and_crop

LABEL = "milk_bottle"
SEED = (0, 7)
HEIGHT, WIDTH = 240, 320
MIN_HEAT_OVER_AREA = 2.0


def main() -> None:
    command, folder, *package = sys.argv[1:]
    if command == "draw":
        draw(Path(folder))
    else:
        check(Path(folder), *package)


def draw(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    scene = draw_scene(np.random.default_rng(SEED), HEIGHT, WIDTH, (LABEL,))
    stream = io.BytesIO()
    Image.fromarray(scene.image_HW3).save(stream, "JPEG", quality=90)
    (folder / "scene.jpg").write_bytes(stream.getvalue())
    Image.fromarray(np.rint(255 * scene.objects[0].visible_HW).astype(np.uint8)).save(folder / "object.png")
    cell = {
        "image_base64": base64.b64encode(stream.getvalue()).decode(),
        "model_explainability": True,
        "xai_parameters": {
            "xai_algorithm": "guided_gradcam",
            "visualizations": True,
            "attributions": True,
            "attributions_format": "float32_base64",
        },
    }
    request = {"input_data": {"columns": ["image"], "data": [json.dumps(cell)]}}
    (folder / "request.json").write_text(json.dumps(request))


def check(folder: Path, package: str) -> None:
    settings = ModelPackage.open(ModelRegistry(Workspace.default()).resolve(package)).settings()
    if not isinstance(settings, ClassificationSettings):
        sys.exit(f"error: the package must be a classifier's, but got {package}")
    [answer] = json.loads((folder / "answer.json").read_text())
    (folder / "explanation.png").write_bytes(base64.b64decode(answer["visualizations"]))
    label = answer["labels"][int(np.argmax(answer["probs"]))]
    numbers = answer["attributions"]
    values_3PP = np.frombuffer(base64.b64decode(numbers["data"]), np.float32).reshape(numbers["shape"])
    object_HW3 = np.asarray(Image.open(folder / "object.png").convert("RGB"))
    mask_PP = resize_and_crop(object_HW3, settings)[:, :, 0] >= 128
    area, heat = float(mask_PP.mean()), mass_inside(heat_map(values_3PP), mask_PP)
    click.echo(f"{label}, which is a {LABEL}: {heat:.0%} of the heat lies on the object, which covers {area:.0%}")
    if label != LABEL or heat < MIN_HEAT_OVER_AREA * area:
        sys.exit(f"error: the label must be {LABEL}, and its heat at least {MIN_HEAT_OVER_AREA:g} times its area")


if __name__ == "__main__":
    main()
