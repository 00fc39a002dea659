"""Write a model package: weights, both graphs, settings, and the proof that the graphs agree.

The story, in order: temporary folder, weights, graphs, parity, MLflow files, manifest, rename. A failure leaves
nothing behind.
"""

import copy
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.torch import save_file
from torch import nn

from clearsight.errors import ExportError
from clearsight.exporters.mlflow_folder import write_mlflow_files
from clearsight.exporters.onnx import NormalisedNetwork, export_onnx
from clearsight.exporters.parity import (
    WANTED_IMAGES,
    Graph,
    check_parity,
    run_onnxruntime,
    run_openvino,
    run_torchscript,
)
from clearsight.exporters.torchscript import export_torchscript
from clearsight.images import decode_image
from clearsight.networks.registry import spec_for
from clearsight.package import (
    GUARDED_FILES,
    LABELS_FILE,
    MANIFEST_FILE,
    ONNX_FILE,
    SCHEMA_VERSION,
    SETTINGS_FILE,
    TORCHSCRIPT_FILE,
    WEIGHTS_FILE,
    Manifest,
    ModelPackage,
    publish_package,
    sha256_of,
)
from clearsight.settings import ClassificationSettings, to_document
from clearsight.tasks import Task
from clearsight.vision.preprocess import preprocess
from clearsight.workspace import write_atomically

__all__ = ["write_package"]


def write_package(
    target: Path,
    *,
    task: Task,
    model_name: str,
    labels: Sequence[str],
    network: nn.Module,
    settings: ClassificationSettings,
    parity_images: Sequence[Path],
    run_id: str,
    pretrained: Mapping[str, Any],
    train_artifacts: Path | None = None,
    enable_onnx_normalization: bool = False,
) -> ModelPackage:
    """Export a trained classification network as the package `target`, which appears complete or not at all.

    `network` gives logits_NK and is left as it came. `parity_images` are pictures of the run's validation set: at
    least 1, 16 wanted (evenly spread ones are taken). `pretrained` says where training started and is recorded.
    With `train_artifacts` the folder also gets the graph of Azure's contract, `model.onnx` (`input1` -> `output1`,
    logits, any batch) and `labels.json`; `enable_onnx_normalization` puts mean and deviation inside that graph.
    An existing package at `target` is replaced. Raises `ExportError` when a graph cannot be made or disagrees.
    """
    if not task.is_classification:
        raise ExportError(f"packages are written for classification only, but got the task {task.value}")
    network = copy.deepcopy(network).cpu().eval()
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        (temporary / "artifacts").mkdir(parents=True)
        contract = _fill(
            temporary,
            task=task,
            model_name=model_name,
            labels=tuple(labels),
            network=network,
            settings=settings,
            parity_images=parity_images,
            run_id=run_id,
            pretrained=pretrained,
            with_contract=train_artifacts is not None,
            normalise=enable_onnx_normalization,
        )
        if train_artifacts is not None and contract is not None:
            train_artifacts.mkdir(parents=True, exist_ok=True)
            write_atomically(train_artifacts / "labels.json", json.dumps(list(labels), ensure_ascii=False))
            shutil.move(contract, train_artifacts / f".model.onnx.{os.getpid()}.tmp")
            (train_artifacts / f".model.onnx.{os.getpid()}.tmp").replace(train_artifacts / "model.onnx")
        publish_package(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return ModelPackage.open(target)


def _fill(
    folder: Path,
    *,
    task: Task,
    model_name: str,
    labels: tuple[str, ...],
    network: nn.Module,
    settings: ClassificationSettings,
    parity_images: Sequence[Path],
    run_id: str,
    pretrained: Mapping[str, Any],
    with_contract: bool,
    normalise: bool,
) -> Path | None:
    spec = spec_for(model_name)
    size = settings.valid_crop_size
    created_at = datetime.now(UTC)
    weights = folder / WEIGHTS_FILE
    save_file({name: tensor.contiguous() for name, tensor in network.state_dict().items()}, weights)
    weights.chmod(0o644)  # safetensors creates it readable by its owner only
    graphs = {
        TORCHSCRIPT_FILE: export_torchscript(network, folder / TORCHSCRIPT_FILE, size),
        ONNX_FILE: export_onnx(
            network,
            folder / ONNX_FILE,
            size,
            input_name="images",
            output_name="logits",
            free_size=not spec.fixed_size,
        ),
    }
    to_check = [run_torchscript(folder / TORCHSCRIPT_FILE), run_onnxruntime(folder / ONNX_FILE)]
    if (openvino := run_openvino(folder / ONNX_FILE)) is not None:
        to_check.append(openvino)
    contract = folder.with_name(f"{folder.name}.onnx") if with_contract else None
    if contract is not None:
        graphs["train_artifacts/model.onnx"] = {
            **export_onnx(
                NormalisedNetwork(network, settings.mean, settings.std).eval() if normalise else network,
                contract,
                size,
                input_name="input1",
                output_name="output1",
                free_size=False,
            ),
            "normalisation_inside": normalise,
        }
        graph = run_onnxruntime(contract, "train_artifacts")
        prepare = _undo_normalisation(settings) if normalise else None
        to_check.append(Graph(graph.name, graph.run, graph.runtime, prepare))
    images_NCHW = _preprocess_some(parity_images, settings)
    parity = check_parity(network, to_check, images_NCHW, task, len(labels))
    document = {
        **to_document(settings),
        "task_type": task.mlflow_name,
        "model_name": model_name,
        "labels": list(labels),
        "schema_version": SCHEMA_VERSION,
    }
    (folder / SETTINGS_FILE).write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n")
    (folder / LABELS_FILE).write_text(json.dumps(list(labels), ensure_ascii=False) + "\n")
    manifest = Manifest.model_validate(
        {
            "schema_version": SCHEMA_VERSION,
            "product_version": version("clearsight"),
            "created_at": created_at.isoformat(timespec="seconds"),
            "run_id": run_id,
            "task": task.value,
            "model_name": model_name,
            "num_classes": len(labels),
            "architecture": {
                "library": spec.library,
                "builder": spec.builder,
                "num_parameters": sum(parameter.numel() for parameter in network.parameters()),
            },
            "pretrained": dict(pretrained),
            "settings": to_document(settings),
            "files": {
                name: {"sha256": sha256_of(folder / name), "num_bytes": (folder / name).stat().st_size}
                for name in GUARDED_FILES
            },
            "graphs": graphs,
            "parity": dict(parity),
        }
    )
    (folder / MANIFEST_FILE).write_text(json.dumps(manifest.model_dump(mode="json"), indent=2) + "\n")
    write_mlflow_files(
        folder,
        task=task,
        model_name=model_name,
        run_id=run_id,
        is_finetuned=pretrained.get("source") != "none",
        created_at=created_at,
    )
    return contract


def _preprocess_some(files: Sequence[Path], settings: ClassificationSettings) -> npt.NDArray[np.float32]:
    step = max(1, len(files) // WANTED_IMAGES)
    chosen = files[::step][:WANTED_IMAGES]
    images = [
        preprocess(decode_image(file.read_bytes(), exif_orientation=settings.exif_orientation), settings)
        for file in chosen
    ]
    if not images:
        return np.empty((0, 3, settings.valid_crop_size, settings.valid_crop_size), np.float32)
    return np.stack(images)


def _undo_normalisation(settings: ClassificationSettings) -> Any:
    mean = np.asarray(settings.mean, np.float32).reshape(1, 3, 1, 1)
    std = np.asarray(settings.std, np.float32).reshape(1, 3, 1, 1)
    return lambda images_NCHW: (images_NCHW * std + mean).astype(np.float32)
