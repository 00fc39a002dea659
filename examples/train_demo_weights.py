"""Makes the weights that examples/detection-job.yml starts from: yolov5 (nano), trained on drawn scenes of other seeds.

    python examples/train_demo_weights.py [FOLDER]      default: examples/weights

Draws 1000 scenes, trains 40 epochs on 800 of them from random weights with the job file of the demo, and writes the
weights of the best pass in float16. An hour on one core. Drawn scenes, the job and the workspace go to demo-output/.
"""

import os
import subprocess
import sys
from pathlib import Path

import click
from safetensors.torch import load_file, save_file

EXAMPLES = Path(__file__).parent
SCENES = Path("demo-output/weights-scenes")
NAME = "demo-weights"
SETTINGS = {
    "training_parameters.number_of_epochs": "40",
    "training_parameters.training_batch_size": "16",
    "training_parameters.evaluation_frequency": "6",
    "training_parameters.learning_rate": "0.01",
    "training_parameters.advanced_settings": (
        '{"x_pretrained": false, "x_model_size": "nano", "apply_mosaic_for_yolo": false}'
    ),
    "limits.timeout_minutes": "180",
}


def main() -> None:
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else EXAMPLES / "weights"
    flags = ("--num-images", "1000", "--seed", "4711", "--easy", "--task", "image_object_detection")
    run("clearsight", "data", "demo", "--output", str(SCENES), *flags)
    settings = dict(SETTINGS)
    for part in ("training", "validation"):
        folder = (SCENES / "detection" / f"{part}-mltable-folder").resolve()
        settings[f"{part}_data.path"] = os.path.relpath(folder, EXAMPLES.resolve())
    changes = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    run("clearsight", "job", "create", "--file", str(EXAMPLES / "detection-job.yml"), "--name", NAME, *changes)
    run("clearsight", "job", "download", "--name", NAME, "--output-name", "best_model", "--download-path", str(SCENES))
    [found] = SCENES.rglob("weights.safetensors")
    file = target / "yolov5n-drawn-scenes.safetensors"
    target.mkdir(exist_ok=True)
    weights = load_file(found)
    save_file({name: weight.half() if weight.is_floating_point() else weight for name, weight in weights.items()}, file)
    click.echo(f"{file}: {file.stat().st_size / 1e6:.1f} MB")


def run(*command: str) -> None:
    click.echo(f"$ {' '.join(command)}")
    subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
