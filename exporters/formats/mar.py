"""The `.mar` archive: a zip that stock TorchServe loads when `clearsight` is installed beside it."""

import os
import zipfile
from collections.abc import Mapping
from pathlib import Path

from clearsight.documents.deployment.layout import ServingLayout
from clearsight.errors import UserError
from clearsight.files import written_by_way_of
from clearsight.handlers.torchserve_folder import HandlerConfig, QueueLimits, archive_files
from clearsight.runs.package import ModelPackage

__all__ = ["write_mar"]


def write_mar(package: ModelPackage, path: Path, model_name: str) -> None:
    """Write the whole package and the handler's name into one archive: one worker, no batching, all cores.

    The archive holds no code: the handler is found by its dotted name in TorchServe's Python. Equal
    packages give equal bytes (entries are sorted and have a fixed time). The file is replaced atomically.
    """
    if not model_name.replace("-", "").replace("_", "").isalnum() or not model_name.isascii():
        raise UserError(f"model_name must be ASCII letters, digits, '-' and '_', but got {model_name!r}")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with written_by_way_of(temporary, path):
            with zipfile.ZipFile(temporary, "w") as archive:
                for name, content in _descriptions(package, model_name).items():
                    archive.writestr(_entry(name), content)
                for file in sorted(file for file in package.root.rglob("*") if file.is_file()):
                    with archive.open(_entry(f"package/{file.relative_to(package.root).as_posix()}"), "w") as target:
                        target.write(file.read_bytes())
            temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _descriptions(package: ModelPackage, model_name: str) -> Mapping[str, str]:
    created_on = str(package.manifest["created_at"])
    return archive_files(model_name, created_on, ServingLayout(), QueueLimits(), HandlerConfig())


def _entry(name: str) -> zipfile.ZipInfo:
    """A stored entry with a fixed date: weights do not shrink, and equal packages give equal archives."""
    entry = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
    entry.external_attr = 0o644 << 16
    return entry
