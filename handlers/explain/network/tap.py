"""Watch what a module of a network puts out, without hooks."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import nn

__all__ = ["Tap", "recorded"]

_RECORDS: ContextVar[dict[str, torch.Tensor] | None] = ContextVar("records", default=None)


class Tap(nn.Module):
    """Stands in a network for good, in place of `inner`, and hands its output to whoever records in this thread."""

    def __init__(self, inner: nn.Module, name: str) -> None:
        super().__init__()
        self.inner = inner
        self.name = name

    def forward(self, *args: torch.Tensor, **options: object) -> torch.Tensor:
        output: torch.Tensor = self.inner(*args, **options)
        records = _RECORDS.get()
        if records is not None:
            if torch.is_grad_enabled() and not output.requires_grad:
                # Nothing before here is differentiated: the graph starts with this tensor.
                output.requires_grad_()
            records[self.name] = output
        return output


@contextmanager
def recorded() -> Iterator[dict[str, torch.Tensor]]:
    """Collect the outputs of all taps, by name, in the order in which they came."""
    records: dict[str, torch.Tensor] = {}
    token = _RECORDS.set(records)
    try:
        yield records
    finally:
        _RECORDS.reset(token)
