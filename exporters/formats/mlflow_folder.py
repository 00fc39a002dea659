"""The MLflow side of a package: `MLmodel` and the environment files, written without importing MLflow.

The flavour is `python_function` with Clearsight's own loader module, so that MLflow opens the package without a pickle.
Format: https://mlflow.org/docs/latest/ml/model/ ("MLmodel" file), checked with MLflow 3.17.
"""

import json
import platform
import uuid
from collections.abc import Mapping
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

import yaml

from clearsight.runs.mlmodel import LOADER_MODULE
from clearsight.runs.package import SETTINGS_FILE, WEIGHTS_FILE
from clearsight.tasks import Task

__all__ = ["write_mlflow_files"]

_CLASSIFICATION_OUTPUTS: Final = ("probs", "labels", "visualizations", "attributions")
_DETECTION_OUTPUTS: Final = ("boxes",)

_REQUIRED: Final = ("numpy", "openvino", "pandas", "pillow", "safetensors", "timm", "torch", "torchvision")
_ONNX_RUNTIMES: Final = ("onnxruntime-gpu", "onnxruntime")  # the same runtime under two names


def write_mlflow_files(
    folder: Path, *, task: Task, model_name: str, run_id: str, is_finetuned: bool, created_at: datetime
) -> None:
    """Write `MLmodel`, `conda.yaml`, `python_env.yaml` and `requirements.txt` into `folder`."""
    python = platform.python_version()
    requirements = _requirements()
    mlmodel = {
        "flavors": {
            "python_function": {
                "loader_module": LOADER_MODULE,
                "artifacts": {
                    "model": {"path": WEIGHTS_FILE, "uri": WEIGHTS_FILE},
                    "settings": {"path": SETTINGS_FILE, "uri": SETTINGS_FILE},
                },
                "env": {"conda": "conda.yaml", "virtualenv": "python_env.yaml"},
                "python_version": python,
            }
        },
        "metadata": {
            "base_model_name": model_name,
            "base_model_task": task.mlflow_name,
            "is_acft_model": False,
            "is_finetuned_model": is_finetuned,
        },
        **_mlflow_version(),
        "model_size_bytes": sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()),
        "model_uuid": uuid.uuid4().hex,
        "run_id": run_id,
        "signature": _signature(_CLASSIFICATION_OUTPUTS if task.is_classification else _DETECTION_OUTPUTS),
        "utc_time_created": created_at.strftime("%Y-%m-%d %H:%M:%S.%f"),
    }
    conda = {
        "name": "clearsight",
        "channels": ["conda-forge"],
        "dependencies": [f"python={python}", "pip", {"pip": requirements}],
    }
    python_env = {
        "python": python,
        "build_dependencies": ["pip", "setuptools", "wheel"],
        "dependencies": ["-r requirements.txt"],
    }
    _write_yaml(folder / "MLmodel", mlmodel)
    _write_yaml(folder / "conda.yaml", conda)
    _write_yaml(folder / "python_env.yaml", python_env)
    (folder / "requirements.txt").write_text("".join(f"{line}\n" for line in requirements))


def _signature(outputs: tuple[str, ...]) -> dict[str, str | None]:
    """The signature of Azure's packages. `string` is nominal: the cells are lists and objects."""
    return {
        "inputs": json.dumps([{"type": "binary", "name": "image"}]),
        "outputs": json.dumps([{"type": "string", "name": name} for name in outputs]),
        "params": None,
    }


def _requirements() -> list[str]:
    found = {name: _installed(name) for name in (*_REQUIRED, *_ONNX_RUNTIMES)}
    lines = [f"{name}=={number}" for name, number in found.items() if number is not None]
    return [f"clearsight[score]=={version('clearsight')}", "mlflow", *sorted(lines)]


def _installed(distribution: str) -> str | None:
    try:
        return version(distribution).partition("+")[0]  # a local label such as +cpu is on no public index
    except PackageNotFoundError:
        return None


def _mlflow_version() -> dict[str, str]:
    number = _installed("mlflow") or _installed("mlflow-skinny")
    return {} if number is None else {"mlflow_version": number}


def _write_yaml(file: Path, document: Mapping[str, Any]) -> None:
    file.write_text(yaml.safe_dump(dict(document), sort_keys=False, allow_unicode=True))
