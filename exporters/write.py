"""Write a model package: weights, both graphs, settings, and the proof that the graphs agree.

The story, in order: temporary folder, weights, graphs, parity, MLflow files, manifest, rename. A failure leaves
nothing behind.
"""

import copy
import json
import re
import shutil
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from safetensors.torch import save_file
from torch import nn

from clearsight.errors import ExportError, UserError
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
from clearsight.handlers.precision_gate import precision_gate, record_gate
from clearsight.images import decode_image
from clearsight.networks.registry import NetworkSpec, spec_for
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

__all__ = ["GATE_IMAGES", "has_bf16_units", "write_package"]

GATE_IMAGES: Final = 64
"""Pictures for the accuracy gate of lower precisions."""


@dataclass(frozen=True, slots=True)
class _Model:
    """What is being written."""

    task: Task
    model_name: str
    labels: tuple[str, ...]
    network: nn.Module
    """A copy, on the CPU, in evaluation mode."""
    settings: ClassificationSettings

    @property
    def spec(self) -> NetworkSpec:
        return spec_for(self.model_name)


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
    gate_bf16: bool = True,
) -> ModelPackage:
    """Export a trained classification network as the package `target`, which appears complete or not at all.

    `network` gives logits_NK and is left as it came. `parity_images` are pictures of the run's validation set: at
    least 1, 16 wanted (of more, 16 evenly spread ones are taken). `pretrained` says where training started and is
    recorded. With `train_artifacts` that folder gets the graph of Azure's contract, `model.onnx` (`input1` ->
    `output1`, logits, any batch) and `labels.json`; `enable_onnx_normalization` puts mean and deviation inside that
    graph, which then takes values in [0, 1]. With `gate_bf16`, on a processor that announces bf16 matrix units, the
    accuracy of bf16 on up to 64 of the pictures is recorded; it enables nothing. An older package at `target` is
    replaced. Raises `ExportError` when a graph cannot be made or disagrees with the network.
    """
    if not task.is_classification:
        raise ExportError(f"packages are written for classification only, but got the task {task.value}")
    model = _Model(task, model_name, tuple(labels), copy.deepcopy(network).cpu().eval(), settings)
    work = target.with_name(f".{target.name}.{uuid.uuid4().hex}.tmp")
    folder, contract = work / "package", work / "train_artifacts"
    try:
        (folder / "artifacts").mkdir(parents=True)
        _write_weights(model.network, folder / WEIGHTS_FILE)
        graphs = _export_serving_graphs(model, folder)
        to_check = _open_serving_graphs(folder)
        if train_artifacts is not None:
            contract.mkdir()
            graphs["train_artifacts/model.onnx"] = _export_contract(model, contract, enable_onnx_normalization)
            to_check.append(_open_contract(model, contract, enable_onnx_normalization))
        images_NCHW = _preprocess_some(parity_images, settings)
        parity = check_parity(model.network, to_check, images_NCHW, task, len(model.labels))
        _write_documents(model, folder, run_id, pretrained, graphs, parity)
        if gate_bf16 and has_bf16_units() and find_spec("openvino") is not None:
            record_gate(ModelPackage.open(folder, verify=False), _gate_bf16(folder, parity_images))
        publish_package(folder, target)
        if train_artifacts is not None:
            train_artifacts.mkdir(parents=True, exist_ok=True)
            for file in contract.iterdir():
                shutil.move(file, train_artifacts / file.name)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return ModelPackage.open(target)


def _write_weights(network: nn.Module, file: Path) -> None:
    save_file({name: tensor.contiguous() for name, tensor in network.state_dict().items()}, file)
    file.chmod(0o644)  # safetensors creates it readable by its owner only


def _export_serving_graphs(model: _Model, folder: Path) -> dict[str, Any]:
    size = model.settings.valid_crop_size
    return {
        TORCHSCRIPT_FILE: export_torchscript(model.network, folder / TORCHSCRIPT_FILE, size),
        ONNX_FILE: export_onnx(
            model.network,
            folder / ONNX_FILE,
            size,
            input_name="images",
            output_name="logits",
            free_size=not model.spec.fixed_size,
        ),
    }


def _open_serving_graphs(folder: Path) -> list[Graph]:
    graphs = [run_torchscript(folder / TORCHSCRIPT_FILE), run_onnxruntime(folder / ONNX_FILE)]
    openvino = run_openvino(folder / ONNX_FILE)
    return graphs if openvino is None else [*graphs, openvino]


def _export_contract(model: _Model, folder: Path, normalise: bool) -> dict[str, Any]:
    """Write the files that Azure's clients read: the graph with their tensor names, and the labels."""
    (folder / "labels.json").write_text(json.dumps(list(model.labels), ensure_ascii=False) + "\n")
    network = model.network
    if normalise:
        network = NormalisedNetwork(network, model.settings.mean, model.settings.std).eval()
    size = model.settings.valid_crop_size
    options: dict[str, Any] = {"input_name": "input1", "output_name": "output1", "free_size": False}
    return {**export_onnx(network, folder / "model.onnx", size, **options), "normalisation_inside": normalise}


def _open_contract(model: _Model, folder: Path, normalise: bool) -> Graph:
    graph = run_onnxruntime(folder / "model.onnx", "train_artifacts")
    if not normalise:
        return graph
    mean = np.asarray(model.settings.mean, np.float32).reshape(1, 3, 1, 1)
    std = np.asarray(model.settings.std, np.float32).reshape(1, 3, 1, 1)
    return replace(graph, prepare=lambda images_NCHW: images_NCHW * std + mean)


def _write_documents(
    model: _Model,
    folder: Path,
    run_id: str,
    pretrained: Mapping[str, Any],
    graphs: Mapping[str, Any],
    parity: Mapping[str, Any],
) -> None:
    created_at = datetime.now(UTC)
    settings = {
        **to_document(model.settings),
        "task_type": model.task.mlflow_name,
        "model_name": model.model_name,
        "labels": list(model.labels),
        "schema_version": SCHEMA_VERSION,
    }
    (folder / SETTINGS_FILE).write_text(json.dumps(settings, indent=2, ensure_ascii=False) + "\n")
    (folder / LABELS_FILE).write_text(json.dumps(list(model.labels), ensure_ascii=False) + "\n")
    manifest = Manifest.model_validate(
        {
            "schema_version": SCHEMA_VERSION,
            "product_version": version("clearsight"),
            "created_at": created_at.isoformat(timespec="seconds"),
            "run_id": run_id,
            "task": model.task.value,
            "model_name": model.model_name,
            "num_classes": len(model.labels),
            "architecture": {
                "library": model.spec.library,
                "builder": model.spec.builder,
                "num_parameters": sum(parameter.numel() for parameter in model.network.parameters()),
            },
            "pretrained": dict(pretrained),
            "settings": to_document(model.settings),
            "files": {
                name: {"sha256": sha256_of(folder / name), "num_bytes": (folder / name).stat().st_size}
                for name in GUARDED_FILES
            },
            "graphs": dict(graphs),
            "parity": dict(parity),
        }
    )
    (folder / MANIFEST_FILE).write_text(json.dumps(manifest.model_dump(mode="json"), indent=2) + "\n")
    write_mlflow_files(
        folder,
        task=model.task,
        model_name=model.model_name,
        run_id=run_id,
        is_finetuned=pretrained.get("source") != "none",
        created_at=created_at,
    )


def has_bf16_units(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether the processor announces instructions that multiply bf16 matrices (x86: AMX or AVX512-BF16)."""
    try:
        return re.search(r"^flags\s*:.*\b(amx_bf16|avx512_bf16)\b", cpuinfo.read_text(), re.MULTILINE) is not None
    except OSError:  # not Linux
        return False


def _gate_bf16(folder: Path, files: Sequence[Path]) -> dict[str, Any]:
    """Run the gate; that it cannot run (too few pictures) is a result too, and does not cost the package."""
    try:
        return precision_gate(folder, _evenly(files, GATE_IMAGES))
    except UserError as error:
        return {"precision": "bf16", "num_images": len(files), "passed": False, "reason": str(error)}


def _evenly(files: Sequence[Path], count: int) -> list[Path]:
    """At most `count` of the files, from the whole length of the list."""
    if len(files) <= count:
        return list(files)
    return [files[index * len(files) // count] for index in range(count)]


def _preprocess_some(files: Sequence[Path], settings: ClassificationSettings) -> npt.NDArray[np.float32]:
    images = [
        preprocess(decode_image(file.read_bytes(), exif_orientation=settings.exif_orientation), settings)
        for file in _evenly(files, WANTED_IMAGES)
    ]
    if not images:
        return np.empty((0, 3, settings.valid_crop_size, settings.valid_crop_size), np.float32)
    return np.stack(images)
