"""The routing table prepared for fast look-ups: hashes as bytes, cumulative weights, generations by name."""

import hashlib
import hmac
from bisect import bisect
from collections.abc import Mapping
from itertools import accumulate
from random import Random

from clearsight.serving.gateway.generation import Generation
from clearsight.serving.gateway.table import Endpoint

__all__ = ["Route"]

SCHEME = "bearer "


class Route:
    """One endpoint. `generations` holds the running generation of every deployment, by deployment name."""

    def __init__(self, name: str, endpoint: Endpoint, generations: Mapping[str, Generation]) -> None:
        self.name = name
        self.auth_mode = endpoint.auth_mode
        self.generations = generations
        self._hashes = [key_hash.encode() for key_hash in endpoint.key_hashes]
        self._live = [
            deployment
            for deployment, weight in endpoint.traffic.items()
            if weight and endpoint.deployments[deployment].ready
        ]
        self.has_traffic = any(endpoint.traffic.values())
        """Whether some deployment has traffic, ready or not."""
        self._weights = list(accumulate(endpoint.traffic[deployment] for deployment in self._live))
        self._pinnable = {name for name, deployment in endpoint.deployments.items() if deployment.ready}

    @property
    def is_healthy(self) -> bool:
        """Whether some deployment with traffic is ready."""
        return bool(self._live)

    def is_ready(self, deployment: str) -> bool:
        """Whether `deployment` is ready, with traffic or without."""
        return deployment in self._pinnable

    def accepts(self, authorization: str | None) -> bool:
        """Whether an Authorization header carries a valid credential.

        All hashes are compared, in constant time, so that the duration does not show which one matched.
        """
        if authorization is None or authorization[: len(SCHEME)].lower() != SCHEME:
            return False
        credential = authorization[len(SCHEME) :].strip().encode("utf-8", "surrogateescape")
        presented = hashlib.sha256(credential).hexdigest().encode()
        is_valid = False
        for key_hash in self._hashes:
            is_valid |= hmac.compare_digest(presented, key_hash)
        return is_valid

    def draw(self, random: Random) -> str | None:
        """A ready deployment, with a probability in proportion to its weight; None when none has traffic."""
        if len(self._live) < 2:
            return self._live[0] if self._live else None
        return self._live[bisect(self._weights, random.random() * self._weights[-1], 0, len(self._live) - 1)]
