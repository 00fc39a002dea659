"""Traffic tables: how the requests of an endpoint are split among its deployments, in whole percent."""

import re
from collections.abc import Mapping
from typing import Any

from clearsight.errors import Fault, InvalidDocument

__all__ = ["parse_traffic", "read_percentages", "traffic_faults"]


def parse_traffic(value: Any, subject: str = "traffic") -> dict[str, int]:
    """Read a traffic table: names in lower case, whole numbers, zero entries dropped. Raises InvalidDocument."""
    traffic, messages = read_percentages(value)
    messages += traffic_faults(traffic, mirror=subject == "mirror_traffic")
    if messages:
        raise InvalidDocument(subject, [Fault("BAD_VALUE", subject, message) for message in messages])
    return traffic


def traffic_faults(traffic: Mapping[str, int], mirror: bool = False) -> list[str]:
    """What is wrong with the numbers of a traffic table: live traffic sums to 0 or 100, a mirror is one share <= 50."""
    total = sum(traffic.values())
    if mirror:
        if len(traffic) > 1 or total > 50:
            return [f"must hold one deployment with at most 50, but got {dict(traffic)}"]
        return []
    if total not in (0, 100):
        return [f"percentages must sum to 0 or 100, but sum to {total}"]
    return []


def read_percentages(value: Any) -> tuple[dict[str, int], list[str]]:
    """The table as `parse_traffic` gives it, and what is wrong with its entries; sums are not checked."""
    if not isinstance(value, Mapping):
        return {}, [f"must map deployments to percentages, but got {value!r}"]
    traffic: dict[str, int] = {}
    faults = []
    for name, share in value.items():
        is_whole = (isinstance(share, int) and not isinstance(share, bool)) or (
            isinstance(share, str) and re.fullmatch(r"[+-]?[0-9]{1,9}", share.strip())
        )
        if not is_whole or not 0 <= int(share) <= 100:
            faults.append(f"the percentage of {name!s} must be a whole number from 0 to 100, but got {share!r}")
        elif str(name).lower() in traffic:
            faults.append(f"{name!s} must stand only once")
        else:
            traffic[str(name).lower()] = int(share)
    return {name: share for name, share in traffic.items() if share}, faults
