"""Format, size and orientation of an image file, read without decoding a pixel.

Every walk through a file is bounded, so that a hostile file costs microseconds per visited block and a fixed number
of blocks, whatever it claims: a decoder is only started on files that passed here.
"""

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from clearsight.errors import BadImage

__all__ = [
    "FORMATS",
    "IMAGE_SUFFIXES",
    "MAX_PIXELS",
    "ORIENTATION_TAG",
    "ImageHeader",
    "exif_orientation_of",
    "read_header",
    "sniff_format",
]

FORMATS: Final = ("jpeg", "png", "gif", "bmp", "tiff", "webp", "avif")

IMAGE_SUFFIXES: Final = (
    ".jpg",
    ".jpeg",
    ".jpe",
    ".jfif",
    ".png",
    ".bmp",
    ".tif",
    ".tiff",
    ".webp",
    ".gif",
    ".mpo",
    ".avif",
)
"""Suffixes, in lower case, of the files that count as images when a folder is searched."""

MAX_PIXELS: Final = 100_000_000
"""Greatest height times width of an image that is decoded, inclusive: 10 000 x 10 000."""

ORIENTATION_TAG: Final = 274
"""Number of the tag of the orientation, in EXIF 2.32 and TIFF 6.0."""

MAX_BLOCKS: Final = 16_384
"""Chunks, segments or tags visited before a file is refused. A 100-megapixel PNG in 8 KiB chunks has about 12 000."""
_MAX_SCANS: Final = 100  # of a progressive JPEG; encoders write about 10, and each costs a pass over the whole image
_MAX_SCAN_PIXELS: Final = 2_000_000_000  # scans x pixels: 20 scans at 100 megapixels
_MAX_RLE_BYTES: Final = 4 * 1024 * 1024  # Pillow decodes run-length BMP in Python, about 0.5 s per MB


@dataclass(frozen=True, slots=True)
class ImageHeader:
    """Format and claimed size. The size is that of the stored pixels, before EXIF orientation is applied."""

    format: str
    """One of `FORMATS`."""
    height: int
    """Pixels; 0 when only the decoder can tell (AVIF)."""
    width: int
    orientation: int = 1
    """EXIF orientation, 1 to 8, of a JPEG; other formats carry it where the decoder finds it."""
    is_plain_jpeg: bool = False
    """8-bit JPEG with one or three colour components: what simplejpeg decodes exactly as Pillow does."""
    jpeg_segments: tuple[tuple[int, int], ...] = ()
    """(start, stop) of the segments of a JPEG that decoding needs: without EXIF, ICC profile and comments."""


def sniff_format(data: bytes) -> str | None:
    """Name the format by its signature; None for bytes of no known format."""
    if data[:3] == b"\xff\xd8\xff":
        return "jpeg"
    if data[:4] == b"\x89PNG":
        return "png"
    if data[:4] == b"GIF8":
        return "gif"
    if data[:2] == b"BM":
        return "bmp"
    if data[:4] in (b"II*\0", b"MM\0*"):
        return "tiff"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "webp"
    if data[4:8] == b"ftyp" and data[8:12] in (b"avif", b"avis"):
        return "avif"
    return None


def read_header(data: bytes) -> ImageHeader:
    """Read format and size. Raises `BadImage` for unknown, cut or hostile files."""
    name = sniff_format(data)
    if name is None:
        what = "nothing" if not data else f"{len(data)} bytes that begin with {data[:8].hex(' ')}"
        raise BadImage(f"a picture must be one of {', '.join(FORMATS)}, but got {what}")
    try:
        return _READERS[name](data)
    except (struct.error, IndexError):
        raise BadImage(f"the {name} file is truncated: its header is not complete") from None


def exif_orientation_of(exif: bytes) -> int:
    """Orientation (1 to 8) in a block of EXIF data; 1 when it is absent or the block is malformed.

    Only the first directory is read: TIFF 6.0 layout, tag 274, EXIF 2.32 section 4.6.4.
    """
    exif = exif.removeprefix(b"Exif\0\0")
    try:
        order = {b"II*\0": "<", b"MM\0*": ">"}[exif[:4]]
        (offset,) = struct.unpack_from(f"{order}I", exif, 4)
        (count,) = struct.unpack_from(f"{order}H", exif, offset)
        for index in range(min(count, 512)):
            tag, kind, _, value = struct.unpack_from(f"{order}HHIH", exif, offset + 2 + 12 * index)
            if tag == ORIENTATION_TAG:
                return value if kind == 3 and 1 <= value <= 8 else 1
    except (KeyError, struct.error):
        pass
    return 1


def _refuse_blocks(name: str, blocks: str) -> BadImage:
    return BadImage(f"a {name} file must hold its picture within {MAX_BLOCKS} {blocks}, but it has more")


def _read_jpeg(data: bytes) -> ImageHeader:
    """Walk the marker segments up to the first scan (ITU T.81, annex B)."""
    position, orientation, kept = 2, 1, [(0, 2)]
    frame: tuple[int, int, int, int, int] | None = None
    for _ in range(MAX_BLOCKS):
        if data[position] != 0xFF:
            raise BadImage("the jpeg file is damaged: a marker must follow each segment of its header")
        marker = data[position + 1]
        if marker == 0xFF or marker == 0x00:  # fill bytes
            position += 1
            continue
        if marker == 0xD9:
            raise BadImage("the jpeg file is truncated: it ends before its picture")
        if 0xD0 <= marker <= 0xD8 or marker == 0x01:  # markers without a segment
            position += 2
            continue
        (length,) = struct.unpack_from(">H", data, position + 2)
        stop = position + 2 + length
        if marker == 0xE1 and data[position + 4 : position + 10] == b"Exif\0\0" and orientation == 1:
            orientation = exif_orientation_of(data[position + 4 : stop])
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            precision, height, width, components = struct.unpack_from(">BHHB", data, position + 4)
            frame = (precision, height, width, components, marker)
        if marker == 0xDA:
            if frame is None:
                raise BadImage("the jpeg file is damaged: a scan comes before the size of the picture")
            kept.append((position, len(data)))
            return _jpeg_header(data, frame, data[position + 4], orientation, tuple(kept))
        if marker in (0xE0, 0xEE) or not 0xE0 <= marker <= 0xFE:
            kept.append((position, stop))
        position = stop
    raise _refuse_blocks("jpeg", "segments")


def _jpeg_header(
    data: bytes,
    frame: tuple[int, int, int, int, int],
    scan_components: int,
    orientation: int,
    segments: tuple[tuple[int, int], ...],
) -> ImageHeader:
    precision, height, width, components, marker = frame
    if scan_components < components or marker in (0xC2, 0xC6, 0xCA, 0xCE):
        # Several scans. In compressed data 0xFF is always followed by 0x00 or a restart marker, so this counts them.
        num_scans = data.count(b"\xff\xda", segments[-1][0])
        if num_scans > _MAX_SCANS or num_scans * height * width > _MAX_SCAN_PIXELS:
            raise BadImage(
                f"a progressive jpeg must have at most {_MAX_SCANS} scans and {_MAX_SCAN_PIXELS} pixels in all scans, "
                f"but it has {num_scans} scans of {width} x {height}"
            )
    is_plain = precision == 8 and components in (1, 3)
    return ImageHeader("jpeg", height, width, orientation, is_plain, segments)


def _read_png(data: bytes) -> ImageHeader:
    """Walk all chunks: Pillow visits every one of them (PNG specification, section 5)."""
    if data[12:16] != b"IHDR":
        raise BadImage("the png file is damaged: it must begin with an IHDR chunk")
    width, height = struct.unpack_from(">II", data, 16)
    position = 8
    for _ in range(MAX_BLOCKS):
        if position + 8 > len(data):
            return ImageHeader("png", height, width)  # no IEND: the decoder decides whether the image is whole
        length, kind = struct.unpack_from(">I4s", data, position)
        if kind == b"IEND":
            return ImageHeader("png", height, width)
        position += 12 + length
    raise _refuse_blocks("png", "chunks")


def _read_gif(data: bytes) -> ImageHeader:
    """Walk to the first image (GIF89a, sections 18 to 26)."""
    width, height = struct.unpack_from("<HH", data, 6)
    position = 13 + (3 << ((data[10] & 7) + 1) if data[10] & 0x80 else 0)
    blocks = 0
    while blocks < MAX_BLOCKS:
        blocks += 1
        introducer = data[position]
        if introducer == 0x2C:
            left, top, part_width, part_height = struct.unpack_from("<HHHH", data, position + 1)
            # Pillow grows the canvas to hold the first image.
            return ImageHeader("gif", max(height, top + part_height), max(width, left + part_width))
        if introducer == 0x3B:
            raise BadImage("the gif file is truncated: it ends before its first picture")
        position += 1
        if introducer == 0x21:
            position += 1
            while data[position]:
                position += 1 + data[position]
                blocks += 1
                if blocks >= MAX_BLOCKS:
                    break
            position += 1
    raise _refuse_blocks("gif", "blocks")


def _read_bmp(data: bytes) -> ImageHeader:
    (header_size,) = struct.unpack_from("<I", data, 14)
    if header_size == 12:
        width, height = struct.unpack_from("<HH", data, 18)
        return ImageHeader("bmp", height, width)
    width, height, _, _, compression = struct.unpack_from("<iiHHI", data, 18)
    if compression in (1, 2) and len(data) > _MAX_RLE_BYTES:
        raise BadImage(
            f"a run-length coded bmp must have at most {_MAX_RLE_BYTES} bytes, but it has {len(data)}; save it as png"
        )
    return ImageHeader("bmp", abs(height), abs(width))


def _read_tiff(data: bytes) -> ImageHeader:
    """Read the first directory (TIFF 6.0, section 2). Tiles count with their own size: a decoder allocates them."""
    order = "<" if data[:2] == b"II" else ">"
    (offset,) = struct.unpack_from(f"{order}I", data, 4)
    (count,) = struct.unpack_from(f"{order}H", data, offset)
    if count > MAX_BLOCKS:
        raise _refuse_blocks("tiff", "tags")
    sizes = {256: 0, 257: 0, 322: 0, 323: 0}
    for index in range(count):
        tag, kind, _, value = struct.unpack_from(f"{order}HHII", data, offset + 2 + 12 * index)
        if tag in sizes:
            short = kind == 3 and order == ">"  # a short stands in the first two of the four bytes
            sizes[tag] = value >> 16 if short else value & 0xFFFF if kind == 3 else value
    return ImageHeader("tiff", max(sizes[257], sizes[323]), max(sizes[256], sizes[322]))


def _read_webp(data: bytes) -> ImageHeader:
    """Read the first chunk's size and count the others: a frame each (WebP container specification)."""
    kind = data[12:16]
    if kind == b"VP8X":
        width = 1 + int.from_bytes(data[24:27], "little")
        height = 1 + int.from_bytes(data[27:30], "little")
    elif kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, 21)
        width, height = (bits & 0x3FFF) + 1, ((bits >> 14) & 0x3FFF) + 1
    elif kind == b"VP8 ":
        width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", data, 26))
    else:
        raise BadImage("the webp file is damaged: it must begin with a VP8, VP8L or VP8X chunk")
    position = 12
    for _ in range(MAX_BLOCKS):
        if position + 8 > len(data):
            return ImageHeader("webp", height, width)
        (length,) = struct.unpack_from("<I", data, position + 4)
        position += 8 + length + (length & 1)
    raise _refuse_blocks("webp", "chunks")


def _read_avif(data: bytes) -> ImageHeader:
    """Leave the size to the decoder, which reads it from the container without decoding."""
    del data
    return ImageHeader("avif", 0, 0)


_READERS: Final[Mapping[str, Callable[[bytes], ImageHeader]]] = MappingProxyType(
    {
        "jpeg": _read_jpeg,
        "png": _read_png,
        "gif": _read_gif,
        "bmp": _read_bmp,
        "tiff": _read_tiff,
        "webp": _read_webp,
        "avif": _read_avif,
    }
)
