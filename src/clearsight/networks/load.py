"""From a package back to a network."""

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from clearsight.errors import InvalidPackage
from clearsight.networks.registry import build_network
from clearsight.package import ModelPackage
from clearsight.settings import ClassificationSettings

__all__ = ["load_network"]


def load_network(package: ModelPackage) -> nn.Module:
    """Build the network of an opened package with its trained weights, on the CPU, in evaluation mode.

    It takes pictures of the size that the package's settings name. Raises `InvalidPackage` when the weights belong to
    another architecture.
    """
    settings = package.settings()
    crop_size = settings.valid_crop_size if isinstance(settings, ClassificationSettings) else None
    network = build_network(package.model_name, package.num_classes, crop_size)
    try:
        network.load_state_dict(load_file(package.weights_file), strict=True)
    except (RuntimeError, SafetensorError) as error:
        raise InvalidPackage(
            f"{package.weights_file} must hold the weights of {package.model_name} with {package.num_classes} classes, "
            f"but it does not: {str(error).splitlines()[0]}"
        ) from error
    return network.eval()
