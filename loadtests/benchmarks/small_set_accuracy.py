"""Accuracy of what a job exports from a few dozen photographs, on photographs that took no part in the job.

    python -m loadtests.benchmarks.small_set_accuracy PHOTOS --weights FOLDER [--job FILE] [--halves 10]

PHOTOS holds one folder of images per class. Each time a random half of them is split into training and validation and
goes through the job; the other half is classified by the exported package, by the weights of the job's last pass, and
by a linear probe: logistic regression on the pooled features of the pretrained network, fitted on the training images,
and for comparison on the validation images too, which a probe does not need.
The counts of all halves are pooled. The exported package must be at most a point below the last pass, and not below
the probe. A half takes about a minute on two idle cores.

Shapes in names: N images, C features.
"""

import argparse
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from safetensors.torch import load_file
from sklearn.linear_model import LogisticRegression
from torch import nn

from clearsight.documents.settings import ClassificationSettings
from clearsight.executor import Inline
from clearsight.images.decode import decode_image
from clearsight.networks.families.table import build_network, load_pretrained
from clearsight.networks.load import load_network
from clearsight.runs.job_run import run_job
from clearsight.runs.kinds import plan_job_file
from clearsight.runs.package import ModelPackage
from clearsight.runs.run_folder import RunFolder
from clearsight.runs.start import start_job
from clearsight.runs.stop_requests import StopRequests
from clearsight.runs.workspace import Workspace
from clearsight.tasks import Task
from clearsight.training.data.converters import ConversionRequest, Entry, split_by_fraction, write_folders
from clearsight.training.data.converters.class_folders import read_class_folders
from clearsight.training.data.converters.data_folders import TRAINING_FOLDER, VALIDATION_FOLDER
from clearsight.vision.preprocess import preprocess

__all__ = ["HalfRow", "measure_half"]

_MOST_BELOW_LAST: Final = 0.01
"""By how much the exported package may be less accurate than the last pass."""


@dataclass(frozen=True, slots=True)
class HalfRow:
    """Counts of one half: images that are classified, and how many of them rightly."""

    num_images: int
    exported: int
    last_pass: int
    linear_probe: int
    linear_probe_of_all: int
    """Of the probe that is fitted on the validation images too."""
    claimed: float
    """Accuracy on the validation images of the job, in [0, 1]."""


def measure_half(entries: Sequence[Entry], job_file: Path, weights: Path, seed: int, work: Path) -> HalfRow:
    """Train on a random half of the images, drawn by the seed, and classify the other half."""
    seen, unseen = split_by_fraction(entries, 0.5, seed, Task.MULTI_CLASS)
    training, validation = split_by_fraction(seen, 0.2, seed, Task.MULTI_CLASS)
    write_folders(work, training, validation)
    trial, claimed = _run_job(job_file, weights, seed, work)
    package = ModelPackage.open(trial.package)
    settings = package.settings()
    assert isinstance(settings, ClassificationSettings)
    exported = load_network(package)
    last = load_network(package)
    checkpoints = (trial.outputs / "checkpoints").glob("*.safetensors")
    last.load_state_dict(load_file(max(checkpoints, key=lambda file: int(file.stem.rpartition("_")[2]))))
    inputs = _inputs(unseen, settings)
    truth_N = np.array([package.labels.index(entry.label) for entry in unseen])
    right = [int((_predict(network, inputs) == truth_N).sum()) for network in (exported, last)]

    pretrained = build_network(package.model_name, package.num_classes)
    load_pretrained(pretrained, package.model_name, weights)
    features = _features(pretrained, inputs)
    for part in (training, seen):
        probe = LogisticRegression(max_iter=2000)
        probe.fit(_features(pretrained, _inputs(part, settings)), [entry.label for entry in part])
        right.append(int((probe.predict(features) == [entry.label for entry in unseen]).sum()))
    return HalfRow(len(unseen), *right, claimed)


def _run_job(job_file: Path, weights: Path, seed: int, work: Path) -> tuple[RunFolder, float]:
    """Run the job on the data folders below `work`; return its trial and the accuracy that it claims."""
    workspace, name = Workspace(work / "workspace"), f"half_{seed}"
    overrides = {
        "training_data.path": str(work / TRAINING_FOLDER),
        "validation_data.path": str(work / VALIDATION_FOLDER),
        "training_parameters.random_seed": seed,
        "training_parameters.checkpoint_frequency": 1,
        "training_parameters.advanced_settings.x_weights_dir": str(weights.absolute()),
    }
    plan = plan_job_file(job_file, overrides, name, workspace)
    with warnings.catch_warnings(), start_job(plan, workspace):
        warnings.simplefilter("ignore")  # of torch's exporters and of MLflow
        result = run_job(workspace, name, Inline(), lambda event: None, StopRequests())
    if result["status"] != "Completed":
        raise SystemExit(f"{name}: {result['status']}: {result['properties']['message']}")
    return RunFolder(workspace.runs / result["best_child_run_id"]), result["metrics"]["accuracy"]


def _inputs(entries: Sequence[Entry], settings: ClassificationSettings) -> torch.Tensor:
    arrays = [preprocess(decode_image(entry.image.read_bytes()), settings) for entry in entries]
    return torch.from_numpy(np.stack(arrays))


def _predict(network: nn.Module, inputs: torch.Tensor) -> np.ndarray:
    with torch.inference_mode():
        return network.eval()(inputs).argmax(dim=1).numpy()


def _features(network: nn.Module, inputs: torch.Tensor) -> np.ndarray:
    """Pooled features (N, C): what the last linear layer of a classifier takes."""
    [*_, head] = [module for module in network.modules() if isinstance(module, nn.Linear)]
    kept: list[torch.Tensor] = []
    hook = head.register_forward_pre_hook(lambda module, arguments: kept.append(arguments[0]))
    with torch.inference_mode():
        network.eval()(inputs)
    hook.remove()
    return torch.cat(kept).numpy()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--weights", type=Path, required=True, help="folder with weights of the job's model")
    parser.add_argument("--job", type=Path, default=Path("examples/fridge-job.yml"))
    parser.add_argument("--halves", type=int, default=10)
    arguments = parser.parse_args()
    entries = read_class_folders(ConversionRequest(arguments.photos)).entries
    rows = []
    for seed in range(arguments.halves):
        with tempfile.TemporaryDirectory() as work:
            rows.append(measure_half(entries, arguments.job, arguments.weights, seed, Path(work)))
    table = Table(title="Right answers on images that took no part", title_justify="left")
    for column in ("half", "images", "exported", "last pass", "linear probe", "probe of all", "claimed by the job"):
        table.add_column(column, justify="right")
    for seed, row in enumerate(rows):
        counts = (row.num_images, row.exported, row.last_pass, row.linear_probe, row.linear_probe_of_all)
        table.add_row(str(seed), *map(str, counts), f"{row.claimed:.1%}")
    total = sum(row.num_images for row in rows)
    names = ("exported", "last_pass", "linear_probe", "linear_probe_of_all")
    shares = [sum(getattr(row, name) for row in rows) / total for name in names]
    table.add_row("pooled", str(total), *(f"{share:.1%}" for share in shares), "")
    Console(width=120).print(table)
    if shares[0] < shares[1] - _MOST_BELOW_LAST or shares[0] < shares[2]:
        raise SystemExit("the exported packages must be at most a point below the last pass, and not below the probe")


if __name__ == "__main__":
    main()
