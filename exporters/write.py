"""Writes a model package: weights, both graphs, settings, and the comparison of the graphs with the network.

Steps, in order: temporary folder, weights, graphs, parity, MLflow files, manifest, rename. A failure leaves no files.
"""

import copy
import json
import shutil
import uuid
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from safetensors.torch import save_file
from torch import nn

from clearsight.bf16 import has_bf16_units
from clearsight.catalogue.models import find_row
from clearsight.documents.settings import Settings, to_document
from clearsight.errors import UserError
from clearsight.exporters.formats.mlflow_folder import write_mlflow_files
from clearsight.exporters.serving_graphs import export_serving_graphs
from clearsight.exporters.trained import TrainedModel, evenly, export_of
from clearsight.handlers.backends import able_backends
from clearsight.handlers.tuning.precision_gate import precision_gate, record_gate
from clearsight.networks.families.table import family_of
from clearsight.runs.package import (
    GUARDED_FILES,
    LABELS_FILE,
    MANIFEST_FILE,
    SCHEMA_VERSION,
    SETTINGS_FILE,
    WEIGHTS_FILE,
    Manifest,
    ModelPackage,
    publish_package,
    repeated_label,
    sha256_of,
)
from clearsight.tasks import Task

__all__ = ["GATE_IMAGES", "write_package"]

_SETTINGS_SCHEMA_VERSION: Final = 1

GATE_IMAGES: Final = 64
"""Images for the accuracy gate of lower precisions."""

_GATE_IMAGES_OF_DETECTORS: Final = 16
"""Images for the accuracy gate of detectors: each has many objects, and takes ten times as long."""


def write_package(
    target: Path,
    *,
    task: Task,
    model_name: str,
    labels: Sequence[str],
    network: nn.Module,
    settings: Settings,
    parity_images: Sequence[Path],
    run_id: str,
    pretrained: Mapping[str, Any],
    train_artifacts: Path | None = None,
    enable_onnx_normalization: bool = False,
    gate_bf16: bool = True,
) -> ModelPackage:
    """Export a trained network as the package `target`, which appears complete or not at all.

    `network` is not changed. `parity_images` are images of the run's validation set: at least 1, 16 wanted for
    classifiers and 4 for detectors (of more, that many evenly spread ones are taken). `pretrained` says where training
    started and is recorded. With `train_artifacts` that folder gets the graph of Azure's contract, `model.onnx`, and
    `labels.json`; `enable_onnx_normalization` puts mean and std inside that graph, which then takes values in [0, 1].
    With `gate_bf16`, on a processor that announces bf16 matrix units, the accuracy of bf16 on up to 64 of the images
    (16 for detectors) is recorded; it enables nothing. An older package at `target` is replaced. Raises
    `UserError` when two labels are equal, `ExportError` when a graph cannot be made or disagrees with the network.
    """
    if (label := repeated_label(labels)) is not None:
        raise UserError(f"labels of a package must be different class names, but {label!r} stands there twice")
    model = TrainedModel(task, model_name, tuple(labels), copy.deepcopy(network).cpu().eval(), settings)
    row, export = find_row(model_name), export_of(model)
    family = family_of(model_name)
    work = target.with_name(f".{target.name}.{uuid.uuid4().hex}.tmp")
    folder, contract = work / "package", work / "train_artifacts"
    try:
        (folder / "artifacts").mkdir(parents=True)
        _write_weights(model.network, folder / WEIGHTS_FILE)
        module, example = family.serving_module(model.network), family.example_inputs(settings.crop_size)
        graphs = export_serving_graphs(module, example, family.signature(row), folder)
        if train_artifacts is not None:
            contract.mkdir()
            graphs["train_artifacts/model.onnx"] = export.write_contract(contract, enable_onnx_normalization)
        contract_or_none = None if train_artifacts is None else contract
        parity = export.check(folder, contract_or_none, enable_onnx_normalization, parity_images)
        architecture = {"library": row.library, "builder": row.builder, **family.architecture(model.network)}
        _write_documents(model, folder, run_id, architecture, pretrained, graphs, parity)
        if gate_bf16 and has_bf16_units() and able_backends("cpu", "bf16"):
            count = GATE_IMAGES if task.is_classification else _GATE_IMAGES_OF_DETECTORS
            record_gate(ModelPackage.open(folder, verify=False), _gate_bf16(folder, evenly(parity_images, count)))
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


def _write_documents(
    model: TrainedModel[Any, Any],
    folder: Path,
    run_id: str,
    architecture: Mapping[str, Any],
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
        "schema_version": _SETTINGS_SCHEMA_VERSION,
    }
    (folder / SETTINGS_FILE).write_text(json.dumps(settings, indent=2, ensure_ascii=False) + "\n")
    (folder / LABELS_FILE).write_text(json.dumps(list(model.labels), ensure_ascii=False) + "\n")
    write_mlflow_files(
        folder,
        task=model.task,
        model_name=model.model_name,
        run_id=run_id,
        is_finetuned=pretrained.get("source") != "none",
        created_at=created_at,
    )
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
                **architecture,
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


def _gate_bf16(folder: Path, files: Sequence[Path]) -> dict[str, Any]:
    """Run the gate. If it cannot run (too few images), its result says so, and the package is still written."""
    try:
        return precision_gate(folder, files)
    except UserError as error:
        return {"precision": "bf16", "num_images": len(files), "passed": False, "reason": str(error)}
