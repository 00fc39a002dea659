"""Azure's batch generator: a detector's contract graph for exactly N images, made from a package.

Azure's default graph takes one image; its samples make larger ones with a script, which has the same arguments
(https://learn.microsoft.com/azure/machine-learning/how-to-inference-onnx-automl-image-models).
"""

from pathlib import Path
from typing import Any

from clearsight.exporters.trained import BatchOptions, TrainedModel, export_of
from clearsight.networks.load import load_network
from clearsight.runs.package import ModelPackage

__all__ = ["write_batch_graph"]


def write_batch_graph(package: ModelPackage, file: Path, options: BatchOptions) -> dict[str, Any]:
    """Write the graph, compare it with the network on noise, and return its description.

    `file` must be a temporary path: it is incomplete while this runs, and stays when this fails. Raises `UserError`
    when the options do not fit the package, `ExportError` when the graph cannot be made or disagrees.
    """
    settings, network = package.settings(), load_network(package)
    model = TrainedModel(package.task, package.model_name, package.labels, network, settings)
    return export_of(model).write_batch_graph(file, options)
