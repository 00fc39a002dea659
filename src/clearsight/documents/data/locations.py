"""Locations of images and label files: every form of `image_url` is resolved to a path on this machine.

Forms: `azureml://subscriptions/…/datastores/<name>/paths/<path>`, `azureml://datastores/<name>/paths/<path>`,
`AmlDatastore://<name>/<path>`, `file:` URLs, plain paths, and any other URL (`wasbs://`, `abfss://`, `https://`)
whose beginning is mapped to a folder. Azure: "Prepare data for computer vision tasks with automated machine learning",
https://learn.microsoft.com/azure/machine-learning/reference-automl-images-schema
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final
from urllib.parse import unquote

from clearsight.errors import UserError

__all__ = ["DEFAULT_DATASTORE", "BadLocation", "resolve_location", "split_location"]

DEFAULT_DATASTORE: Final = "workspaceblobstore"
"""Name of the datastore that every Azure workspace has from the start; `AmlDatastore://` falls back to it."""

AZUREML = re.compile(
    r"azureml://(?:subscriptions/[^/]+/resourcegroups/[^/]+/(?:providers/[^/]+/)?workspaces/[^/]+/)?"
    r"datastores/(?P<datastore>[^/]+)/paths(?:/(?P<path>.*))?",
    re.IGNORECASE | re.DOTALL,
)
SCHEME = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]+):(?P<rest>.*)", re.DOTALL)


class BadLocation(UserError):
    """A location that cannot be resolved; `code` is the fault code of a data check."""

    def __init__(self, code: str, message: str) -> None:
        self.code = code
        super().__init__(message)


def resolve_location(url: str, base: Path, datastores: Mapping[str, Path], *, may_be_root: bool = False) -> Path:
    """Resolve `url` to a path, which need not exist. `base` is the folder of the file that names it.

    `datastores` maps a datastore name, or the beginning of a URL (`wasbs://images@account…/`), to a folder.
    Percent-encoding is decoded once for URL forms and never for plain paths. A mapped folder cannot be left by `..`;
    a plain path, which its author wrote for this machine, may use `..` freely. Only if `may_be_root` a URL may name the
    mapped folder itself. Raises `BadLocation`.
    """
    root, path = split_location(url, base, datastores, may_be_root=may_be_root)
    return root / path


def split_location(
    url: str, base: Path, datastores: Mapping[str, Path], *, may_be_root: bool = False
) -> tuple[Path, str]:
    """Like `resolve_location`, in two parts: the folder that a pattern must not touch, and the path below it."""
    if not url or "\0" in url:
        raise BadLocation("BAD_DATA", f"an image location must be a path or a URL, but got {url!r}")
    prefix = max((key for key in datastores if "://" in key and url.startswith(key)), key=len, default=None)
    if prefix is not None:
        below = url[len(prefix) :]
        if prefix.lower().startswith(("http:", "https:")):
            below = re.split("[?#]", below, maxsplit=1)[0]  # the signature of a signed URL is no part of its path
        return datastores[prefix], _inside(unquote(below), url, may_be_root)
    match = SCHEME.fullmatch(url)
    scheme = match["scheme"].lower() if match else ""
    rest = match["rest"] if match else ""
    if scheme == "file":
        return base, _file_path(rest, url)
    if scheme == "azureml":
        return _split_azureml(url, datastores, may_be_root)
    if scheme == "amldatastore" and rest.startswith("//"):
        return _split_aml_datastore(url, unquote(rest[2:]), datastores)
    if rest.startswith("//"):
        reason = "is not downloaded yet: " if scheme in ("http", "https") else "is not mapped: "
        raise BadLocation(
            "BAD_DATA_REF",
            f"{url!r} {reason}put the pictures into a folder and map the beginning of the URL to it"
            " under `datastores:` in the workspace's config.yaml",
        )
    return base, url


def _split_azureml(url: str, datastores: Mapping[str, Path], may_be_root: bool) -> tuple[Path, str]:
    match = AZUREML.fullmatch(url)
    if match is None:
        raise BadLocation(
            "BAD_DATA_REF",
            f"an azureml URL must read azureml://datastores/<name>/paths/<path>, long or short, but got {url!r}",
        )
    return _root(unquote(match["datastore"]), datastores), _inside(unquote(match["path"] or ""), url, may_be_root)


def _split_aml_datastore(url: str, path: str, datastores: Mapping[str, Path]) -> tuple[Path, str]:
    first, _, rest = path.partition("/")
    if first in datastores:
        return datastores[first], _inside(rest, url)
    if DEFAULT_DATASTORE in datastores:
        return datastores[DEFAULT_DATASTORE], _inside(path, url)
    raise _unmapped(first, datastores)


def _root(datastore: str, datastores: Mapping[str, Path]) -> Path:
    try:
        return datastores[datastore]
    except KeyError:
        raise _unmapped(datastore, datastores) from None


def _unmapped(datastore: str, datastores: Mapping[str, Path]) -> BadLocation:
    known = f"mapped are {', '.join(sorted(datastores))}" if datastores else "none is mapped"
    return BadLocation(
        "BAD_DATA_REF",
        f"datastore {datastore!r} must be mapped to a folder, but {known};"
        f" add `datastores: {{{datastore}: FOLDER}}` to the workspace's config.yaml",
    )


def _inside(path: str, url: str, may_be_root: bool = False) -> str:
    """Join the segments of `path` without `.` and `..`; refuse one that climbs out of its root."""
    segments: list[str] = []
    for segment in path.split("/"):
        if segment == "..":
            if not segments:
                raise BadLocation("BAD_DATA", f"a location must stay inside its datastore, but got {url!r}")
            segments.pop()
        elif segment not in ("", "."):
            segments.append(segment)
    if "\0" in path or not (segments or may_be_root):
        raise BadLocation("BAD_DATA", f"a location must name a file inside its datastore, but got {url!r}")
    return "/".join(segments)


def _file_path(rest: str, url: str) -> str:
    """Path of a `file:` URL: `file:///a`, `file://localhost/a`, `file:/a`, and relative `file:a` or `file:./a`."""
    path = rest
    if rest.startswith("//"):
        host, slash, below = rest[2:].partition("/")
        if host.lower() not in ("", "localhost"):
            raise BadLocation("BAD_DATA_REF", f"a file URL must name this machine (file:///path), but got {url!r}")
        path = slash + below
    path = unquote(path)
    if not path or "\0" in path:
        raise BadLocation("BAD_DATA", f"a file URL must hold a path, but got {url!r}")
    return path
