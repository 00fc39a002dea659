"""What the images of one request may cost: pixels to decode, memory while they are decoded, and time.

A request of a few kilobytes can announce images whose decoding takes minutes, so that limits of a single image do not
protect a worker. The cost of a request is known from the headers of its images, before the first is decoded; its time
is looked at before each decode and each call of the network.
"""

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Final

from clearsight.errors import UserError
from clearsight.handlers.explain.deadline import OutOfTime
from clearsight.images.headers import MAX_PIXELS, ImageHeader

__all__ = ["MAX_REQUEST_COST", "PixelGate", "RequestBudget", "RequestTooCostly", "decode_cost"]

MAX_REQUEST_COST: Final = 1_250_000_000
"""Greatest cost of the images of one request, in pixels of a baseline JPEG: 100 photographs of 12.5 megapixels. One
core decodes them in about 10 s."""

_COST_PER_PIXEL: Final[Mapping[str, float]] = MappingProxyType(
    {"jpeg": 1.0, "bmp": 1.0, "gif": 2.0, "tiff": 2.0, "png": 4.0, "webp": 4.0, "avif": 6.0}
)
"""CPU time of decoding over that of a baseline JPEG (8 ns a pixel; 4000 x 4000, Pillow 13, Xeon)."""

_COST_PER_SCAN: Final = 0.25
"""The same for each further scan of a progressive JPEG: ten scans took 3.2 times as long as one."""


class RequestTooCostly(UserError):
    """Decoding the images of a request would cost more than one request may."""

    status = 422


def decode_cost(header: ImageHeader) -> float:
    """CPU time of decoding an image, in pixels of a baseline JPEG."""
    per_pixel = _COST_PER_PIXEL[header.format] + _COST_PER_SCAN * (header.num_scans - 1)
    return header.height * header.width * per_pixel


class RequestBudget:
    """Cost and time of the rows of one request. `deadline`: time of `clock` at which nobody waits any more, or None."""

    def __init__(
        self,
        deadline: float | None = None,
        max_cost: float = MAX_REQUEST_COST,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.cost = 0.0
        self.refusal: UserError | None = None
        """Why the whole request is refused."""
        self._deadline = deadline
        self._max_cost = max_cost
        self._clock = clock
        self._first_bad_row: int | None = None

    def charge(self, header: ImageHeader) -> None:
        """Add the cost of an image; beyond the limit the request is refused. Raises `RequestTooCostly`."""
        self.cost += decode_cost(header)
        if self.cost > self._max_cost:
            refusal = self.refusal = RequestTooCostly(
                f"the pictures of one request must cost at most {self._max_cost:.0f} pixels of a plain jpeg to decode, "
                "but these cost more (progressive jpeg, png, webp and avif count several times); send fewer rows or "
                "smaller pictures"
            )
            raise refusal

    def check_time(self) -> None:
        """Raises `OutOfTime` when nobody waits for the answer any more, and refuses the request for that."""
        if self._deadline is not None and self._clock() >= self._deadline:
            refusal = self.refusal = OutOfTime(
                "the time limit ended before all rows were scored; send fewer rows or smaller pictures, or raise "
                "request_timeout_ms"
            )
            raise refusal

    def fail(self, row: int) -> None:
        """Note that a row cannot be scored: rows behind it need not be computed, since the request fails."""
        self._first_bad_row = row if self._first_bad_row is None else min(row, self._first_bad_row)

    def reason_to_skip(self, row: int) -> UserError | None:
        """Why a row need not be computed, or None."""
        if self.refusal is not None:
            return self.refusal
        if self._first_bad_row is not None and row > self._first_bad_row:
            return UserError("not scored, since a row before it failed")
        return None


class PixelGate:
    """Lets threads decode images at the same time while these have at most `max_pixels` together, or are one."""

    def __init__(self, max_pixels: int = MAX_PIXELS) -> None:
        self._max_pixels = max_pixels
        self._used = 0
        self._changed = threading.Condition()

    @contextmanager
    def hold(self, num_pixels: int) -> Iterator[None]:
        """Wait until the image fits beside those that are being decoded, and count it while the block runs."""
        with self._changed:
            self._changed.wait_for(lambda: not self._used or self._used + num_pixels <= self._max_pixels)
            self._used += num_pixels
        try:
            yield
        finally:
            with self._changed:
                self._used -= num_pixels
                self._changed.notify_all()
