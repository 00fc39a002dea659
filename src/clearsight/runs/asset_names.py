"""Names, versions and references of what a workspace registers: models and data."""

import re
from dataclasses import dataclass
from typing import Final

from clearsight.errors import NotFound, UserError

__all__ = [
    "AssetReference",
    "is_asset_version",
    "parse_asset_reference",
    "require_asset_name",
    "require_asset_version",
    "version_number",
]

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,254}")  # Azure's rule for asset names
_VERSION: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,29}")  # Azure's rule for versions
_REFERENCE: Final = re.compile(r"azureml:(?P<name>[^:@/]+)(?:@(?P<label>[^:@/]+)|:(?P<version>[^:@/]+))")


@dataclass(frozen=True, slots=True)
class AssetReference:
    """`azureml:<name>:<version>` or `azureml:<name>@latest`."""

    name: str
    version: str | None
    """None: the latest."""


def parse_asset_reference(text: str, what: str) -> AssetReference | None:
    """Read a reference to `what` (a noun for messages); None for any other text. Raises `NotFound` for other labels."""
    match = _REFERENCE.fullmatch(text)
    if match is None:
        return None
    if match["label"] not in (None, "latest"):
        raise NotFound(f"the only label of {what} is 'latest', but got {match['label']!r} in {text}")
    return AssetReference(match["name"], match["version"])


def require_asset_name(what: str, name: str) -> str:
    """Return a name. Raises `UserError` for one that Azure does not allow; `what` is its noun for the message."""
    return _require(_NAME, f"{what} name", name)


def require_asset_version(what: str, version: str) -> str:
    """Return a version. Raises `UserError` for one that Azure does not allow; `what` is its noun for the message."""
    return _require(_VERSION, f"{what} version", version)


def is_asset_version(version: str) -> bool:
    """Whether a text can be a version."""
    return _VERSION.fullmatch(version) is not None


def version_number(version: str) -> int:
    """The number that a version is; 0 for a version of other characters."""
    return int(version) if version.isdecimal() else 0


def _require(pattern: re.Pattern[str], what: str, value: str) -> str:
    if pattern.fullmatch(value) is None:
        raise UserError(
            f"{what} must start with a letter or digit and hold letters, digits, '.', '_', '-', but got {value!r}"
        )
    return value
