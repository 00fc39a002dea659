"""The `MLmodel` file of a package: what MLflow loads, and with which module.

`mlflow.pyfunc.load_model` imports the module that this file names, puts the folder under its key `code` on the search
path, and hands the folder under its key `data` to the module (MLflow 3.17, `mlflow/pyfunc/__init__.py`): whoever may
write the file may run code. Packages therefore have one flavour with four keys.
"""

from pathlib import Path
from typing import Any, Final

import yaml

from clearsight.errors import InvalidPackage

__all__ = ["LOADER_MODULE", "check_loader", "read_flavors"]

LOADER_MODULE: Final = "clearsight.handlers.mlflow_pyfunc"

_FLAVOR: Final = "python_function"
_KEYS: Final = frozenset(("loader_module", "artifacts", "env", "python_version"))
_MAX_BYTES: Final = 1024 * 1024  # real files hold a kilobyte


def read_flavors(file: Path) -> dict[str, Any]:
    """The mapping `flavors` of an `MLmodel` file, as written. Raises `InvalidPackage` when there is none."""
    try:
        if file.stat().st_size > _MAX_BYTES:
            raise InvalidPackage(f"{file} must hold at most {_MAX_BYTES} bytes, but it holds {file.stat().st_size}")
        document = yaml.safe_load(file.read_bytes())
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise InvalidPackage(f"{file} must be a YAML file, but it cannot be read: {reason}") from error
    flavors = document.get("flavors") if isinstance(document, dict) else None
    if not isinstance(flavors, dict):
        raise InvalidPackage(f"{file} must hold the mapping 'flavors', but it does not; export the package again")
    return {str(name): flavor for name, flavor in flavors.items()}


def check_loader(file: Path) -> None:
    """Check that MLflow would load the package with Clearsight's module, and nothing else. Raises `InvalidPackage`."""
    flavors = read_flavors(file)
    flavor = flavors.get(_FLAVOR)
    if set(flavors) != {_FLAVOR} or not isinstance(flavor, dict):
        raise InvalidPackage(f"{file} must have the one flavor {_FLAVOR}, but it has {sorted(flavors)}")
    if flavor.get("loader_module") != LOADER_MODULE:
        raise InvalidPackage(
            f"{file} must name the loader_module {LOADER_MODULE}, but it names {flavor.get('loader_module')!r}: "
            "MLflow would run that code; export or download the package again"
        )
    if surplus := sorted(str(key) for key in flavor.keys() - _KEYS):
        raise InvalidPackage(
            f"the flavor {_FLAVOR} of {file} must have the keys {', '.join(sorted(_KEYS))} and no others, but it has "
            f"{', '.join(surplus)}; export or download the package again"
        )
