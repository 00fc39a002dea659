"""Builds the network of a package with its weights."""

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from clearsight.catalogue.models import find_row
from clearsight.errors import InvalidPackage, UserError
from clearsight.networks.families.table import family_of
from clearsight.runs.package import ModelPackage

__all__ = ["load_network"]


def load_network(package: ModelPackage) -> nn.Module:
    """Build the network of an opened package with its trained weights, on the CPU, in evaluation mode.

    A classifier takes images of the size that the package's settings name; a detector is built as the manifest's
    `architecture` says. Raises `InvalidPackage` when the architecture is unknown, or the weights belong to another.
    """
    network = _build(package)
    try:
        network.load_state_dict(load_file(package.weights_file), strict=True)
    except (RuntimeError, SafetensorError) as error:
        raise InvalidPackage(
            f"{package.weights_file} must hold the weights of {package.model_name} with {package.num_classes} classes, "
            f"but it does not: {str(error).splitlines()[0]}"
        ) from error
    return network.eval()


def _build(package: ModelPackage) -> nn.Module:
    settings = package.settings()
    try:
        row = find_row(package.model_name, package.task)
        architecture = package.manifest["architecture"]
        network: nn.Module = family_of(row.model_name).build(row, package.num_classes, architecture, settings.crop_size)
    except UserError as error:
        raise InvalidPackage(f"{package.manifest_file} must describe a network of this product: {error}") from error
    return network
