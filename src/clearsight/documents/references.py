"""References to models and data in the forms of Azure, read as those of the workspace."""

import re
from typing import Final, Literal

__all__ = ["local_reference"]

_PATTERN: Final = re.compile(
    r"azureml:/(?:/registries/[^/]+|/locations/[^/]+/workspaces/[^/]+|/?subscriptions/.+/workspaces/[^/]+|)"
    r"/(?P<kind>models|data)/(?P<name>[^/:@]+)/(?:versions/(?P<version>[^/:@]+)|labels/(?P<label>[^/:@]+))/?",
    re.IGNORECASE,
)
"""Assets of registries, and the long forms of assets of a workspace that Azure's client prints."""


def local_reference(reference: str, kind: Literal["models", "data"] = "models") -> str | None:
    """`azureml:<name>:<version>` or `azureml:<name>@<label>` for a long form of Azure; None for any other text.

    There is one registry, the workspace's, so the registry or workspace that a long form names does not matter.
    """
    match = _PATTERN.fullmatch(reference)
    if match is None or match["kind"].lower() != kind:
        return None
    return f"azureml:{match['name']}" + (f":{match['version']}" if match["version"] else f"@{match['label']}")
