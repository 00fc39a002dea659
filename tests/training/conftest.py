import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import yaml

from clearsight.documents.job import resolve_parameters
from clearsight.runs.record import JobRecord, write_record
from clearsight.runs.run_folder import RunFolder, RunStatus
from clearsight.runs.trial_spec import Setting, TrialSpec
from clearsight.runs.workspace import Workspace
from clearsight.tasks import Task


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Networks of these sizes are slower on two threads, most of all beside other tests."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


MLTABLE = """paths:
  - file: ./annotations.jsonl
transformations:
  - read_json_lines: {encoding: utf8, invalid_lines: error}
  - convert_column_types:
      - {columns: image_url, column_type: stream_info}
"""

TEXTURES = ("dots", "checks", "columns", "rows")


def _texture(name: str, random: np.random.Generator) -> np.ndarray:
    """A 72 x 72 image of one texture in two random colours, with noise: uint8 (72, 72, 3)."""
    y, x = np.mgrid[0:72, 0:72] + int(random.integers(0, 12))
    masks = {
        "rows": y % 12 < 6,
        "columns": x % 12 < 6,
        "checks": (y // 6 + x // 6) % 2 == 0,
        "dots": (y % 12 - 6) ** 2 + (x % 12 - 6) ** 2 < 9,
    }
    dark, light = random.integers(0, 110, 3), random.integers(140, 256, 3)
    image_HWC = np.where(masks[name][..., None], light, dark) + random.normal(0, 8, (72, 72, 3))
    return np.clip(image_HWC, 0, 255).astype(np.uint8)


def _write_table(folder: Path, names: list[list[str]], multi_label: bool, random: np.random.Generator) -> None:
    folder.mkdir(parents=True)
    (folder / "MLTable").write_text(MLTABLE)
    with (folder / "annotations.jsonl").open("w") as lines:
        for index, labels in enumerate(names):
            halves = [_texture(name, random) for name in labels] or [np.full((72, 72, 3), 128, np.uint8)]
            cv2.imwrite(str(folder / f"{index}.png"), np.concatenate(halves, axis=1))
            label = labels if multi_label else labels[0]
            lines.write(json.dumps({"image_url": f"{index}.png", "label": label}) + "\n")


@pytest.fixture(scope="session")
def texture_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """96 small images of four textures, multi-class: a data folder with label file and MLTable. Read only."""
    folder = tmp_path_factory.mktemp("textures") / "data"
    names = [[TEXTURES[index % 4]] for index in range(96)]
    _write_table(folder, names, multi_label=False, random=np.random.default_rng(5))
    return folder


@pytest.fixture(scope="session")
def texture_pairs_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 images of zero to two textures side by side, multi-label. Read only."""
    folder = tmp_path_factory.mktemp("pairs") / "data"
    pairs = [[], ["dots"], ["dots", "rows"], ["columns"]]
    _write_table(folder, [pairs[index % 4] for index in range(24)], multi_label=True, random=np.random.default_rng(6))
    return folder


WriteJob = Callable[..., Path]
MakeJob = Callable[..., RunFolder]


@pytest.fixture(scope="session")
def write_job() -> WriteJob:
    """Writes `job.yml` of a small job without pretrained weights into a folder; keywords are training parameters."""

    def write(folder: Path, data: Path, **parameters: Any) -> Path:
        document = {
            "type": "automl",
            "task": "image_classification",
            "experiment_name": "textures",
            "target_column_name": "label",
            "training_data": {"type": "mltable", "path": os.path.relpath(data, folder)},
            "validation_data_size": 0.25,
            "tags": {"team": "vision"},
            "outputs": {"best_model": {"type": "mlflow_model", "path": "copy"}},
            "training_parameters": {
                "model_name": "resnet18",
                "training_crop_size": 64,
                "validation_crop_size": 64,
                "validation_resize_size": 72,
                "training_batch_size": 8,
                "momentum": 0.5,
                "warmup_cosine_lr_warmup_epochs": 0,
                "random_seed": 1,
                "advanced_settings": {"x_pretrained": False, "x_min_crop_scale": 0.5},
                **parameters,
            },
        }
        file = folder / "job.yml"
        file.write_text(yaml.safe_dump(document))
        return file

    return write


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "ws")


@pytest.fixture
def make_job(workspace: Workspace) -> MakeJob:
    """Writes the folders of a job as another process would have left them; nothing is trained.

    Keywords are those of the job's status; the trial has the same state.
    """

    def make(
        name: str = "fridge", experiment_name: str = "e", created_at: str = "2026-01-01", **status: Any
    ) -> RunFolder:
        resolved = resolve_parameters(Task.MULTI_CLASS, {"number_of_epochs": 4, "training_batch_size": 8}, "resnet18")
        spec = TrialSpec(
            run_id=f"{name}_HD_0",
            job_name=name,
            task=Task.MULTI_CLASS,
            target_column="label",
            training_data=workspace.root / "data",
            validation_data=None,
            validation_size=0.2,
            split_seed=0,
            datastores={},
            hyperparameters={key: Setting(value=one.value, origin=one.origin) for key, one in resolved.items()},
            deterministic=True,
            pretrained=False,
            weights_dir=None,
            min_crop_scale=0.08,
            log_verbosity="error",
        )
        record = JobRecord(
            name=name,
            display_name=None,
            description=None,
            experiment_name=experiment_name,
            task=Task.MULTI_CLASS,
            primary_metric="accuracy",
            tags={},
            properties={},
            created_at=created_at,
            trials=[spec.run_id],
            best_model_path=None,
            document={},
        )
        folder, trial = RunFolder(workspace.runs / name), RunFolder(workspace.runs / spec.run_id)
        trial.root.mkdir(parents=True)
        trial.spec_file.write_text(spec.model_dump_json())
        trial.write_status(RunStatus(**status))
        folder.root.mkdir()
        write_record(folder, record)
        folder.write_status(RunStatus(**status))
        return folder

    return make
