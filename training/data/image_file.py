"""Decoded images on disk, for sets that do not fit in memory.

Reading one back costs a copy from the system's page cache, at worst a read: 0.1 to 0.2 ms for 480x360 pixels where
decoding the JPEG takes 2 ms. The file has no name, so it vanishes with the process, however that ends.
"""

import logging
import os
import shutil
import tempfile
import threading
import weakref
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

__all__ = ["ImageFile"]

log = logging.getLogger("clearsight.trial")

Bytes = npt.NDArray[np.uint8]

_DISK_SHARE: Final = 0.2  # share of the free disk; checkpoints and the package need some too


class ImageFile:
    """Images uint8 (H, W, 3) by index, up to `max_bytes` and a fifth of the free disk. Safe to use from threads.

    When the disk is full nevertheless, a warning is logged; images in the file stay, and no more are added.
    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self._descriptor, name = tempfile.mkstemp(dir=folder)
        Path(name).unlink()
        weakref.finalize(self, os.close, self._descriptor)
        self._room = min(max_bytes, int(_DISK_SHARE * shutil.disk_usage(folder).free))
        self._end = 0
        self._places: dict[int, tuple[int, tuple[int, ...]]] = {}
        self._lock = threading.Lock()

    def get(self, index: int) -> Bytes | None:
        """The image, or None when it was not kept."""
        place = self._places.get(index)
        if place is None:
            return None
        offset, shape = place
        image_HWC = np.empty(shape, np.uint8)
        if os.preadv(self._descriptor, [image_HWC.data], offset) != image_HWC.nbytes:
            raise OSError("a cached picture could not be read back from the disk")
        return image_HWC

    def put(self, index: int, image_HWC: Bytes) -> None:
        """Keep an image if there is space left."""
        with self._lock:
            if index in self._places or self._end + image_HWC.nbytes > self._room:
                return
            offset, self._end = self._end, self._end + image_HWC.nbytes
        try:
            written = os.pwrite(self._descriptor, np.ascontiguousarray(image_HWC).data, offset)
        except OSError as error:
            written = 0
            log.warning("decoded images are no longer kept on disk: %s", error)
        if written == image_HWC.nbytes:
            self._places[index] = offset, image_HWC.shape
        else:
            self._room = 0
