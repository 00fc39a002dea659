"""Format, size and orientation of an image file, read without decoding a pixel: the one reader of all of them.

Conversion, the check of data, training, tiles and serving go through `read_header`, so that they agree on which files
can be read and how large an image stands upright. Pillow is the reference for both; a file is walked here first, since
Pillow bounds neither blocks nor sizes: a hostile file costs microseconds per visited block and a fixed number of
blocks, whatever it claims.
"""

import io
import struct
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

from PIL import Image, TiffImagePlugin

from clearsight.errors import BadImage
from clearsight.images.content import Content, count_up_to, find, stream_of, unpack
from clearsight.images.orientation import ORIENTATION_TAG, SIDEWAYS, orientation_of, valid_orientation
from clearsight.images.plugins import as_bad_image, ignored_warnings, open_with_pillow

__all__ = [
    "FORMATS",
    "IMAGE_SUFFIXES",
    "MAX_PIXELS",
    "ImageHeader",
    "describe_format",
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

MAX_BLOCKS: Final = 16_384
"""Chunks, segments or tags visited before a file is refused. A 100-megapixel PNG in 8 KiB chunks has about 12 000."""
_MAX_SCANS: Final = 100  # of a progressive JPEG; encoders write about 10, and each costs a pass over the whole image
_MAX_SCAN_PIXELS: Final = 2_000_000_000  # scans x pixels: 20 scans at 100 megapixels
_MAX_RLE_BYTES: Final = 4 * 1024 * 1024  # Pillow decodes run-length BMP in Python, about 0.5 s per MB


_LEAST_ASPECT: Final = 0.02  # by which rounding may change the aspect ratio of a scaled copy


@dataclass(frozen=True, slots=True)
class ImageHeader:
    """Format, size and orientation. `height` and `width` are those of the stored pixels, before they are turned."""

    format: str
    """One of `FORMATS`."""
    height: int
    width: int
    orientation: int = 1
    """1 to 8, as Pillow's `ImageOps.exif_transpose` finds it: in EXIF, XMP or a raw profile of a PNG file."""
    is_plain_jpeg: bool = False
    """8-bit JPEG with one or three colour components: what simplejpeg decodes exactly as Pillow does."""
    num_scans: int = 1
    """Passes over the pixels that decoding takes; more than one in a progressive JPEG."""
    jpeg_segments: tuple[tuple[int, int], ...] = ()
    """(start, stop) of the segments of a JPEG that decoding needs: without EXIF, ICC profile and comments."""

    @property
    def upright_hw(self) -> tuple[int, int]:
        """Height and width of the image after turning it upright."""
        return (self.width, self.height) if self.orientation in SIDEWAYS else (self.height, self.width)

    @property
    def is_told_by_size(self) -> bool:
        """Whether the size of a copy shows if it has been turned upright: sides are exchanged, and not equal."""
        return self.orientation in SIDEWAYS and abs(self.height / self.width - 1) > _LEAST_ASPECT


def sniff_format(data: bytes) -> str | None:
    """Name the format by its signature; None for bytes of no format that is read."""
    if data[:3] == b"\xff\xd8\xff":
        return "jpeg"
    if data[:4] == b"\x89PNG":
        return "png"
    if data[:4] == b"GIF8":
        return "gif"
    if data[:2] == b"BM":
        return "bmp"
    if data[:4] in TiffImagePlugin.PREFIXES:
        return "tiff"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "webp"
    return "avif" if _ISO_BRANDS_OF_AVIF & set(_iso_brands(data)) else None


def _iso_brands(data: bytes) -> list[bytes]:
    """Major and compatible brands of an ISO base media file (ISO/IEC 14496-12, section 4.3); empty for others."""
    if data[4:8] != b"ftyp":
        return []
    stop = min(int.from_bytes(data[:4], "big"), 512)
    return [data[8:12], *(data[start : start + 4] for start in range(16, stop, 4))]


_ISO_BRANDS_OF_AVIF: Final = {b"avif", b"avis"}

_OTHER_FORMATS: Final[Mapping[str, tuple[bytes, ...]]] = MappingProxyType(
    {
        "JPEG 2000": (b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51"),
        "JPEG XL": (b"\0\0\0\x0cJXL ", b"\xff\x0a"),
        "PPM or another netpbm format": (b"P1", b"P2", b"P3", b"P4", b"P5", b"P6", b"P7", b"Pf", b"PF"),
        "Photoshop": (b"8BPS",),
        "DirectDraw": (b"DDS ",),
        "QOI": (b"qoif",),
        "an icon": (b"\0\0\x01\0", b"\0\0\x02\0"),
        "PDF": (b"%PDF",),
        "SVG or other XML": (b"<svg", b"<?xml"),
    }
)


def describe_format(data: bytes) -> str:
    """What the first bytes of a file are that is in none of `FORMATS`: a format by name, or the bytes themselves."""
    if not data:
        return "nothing"
    if brands := _iso_brands(data):
        is_heic = any(brand[:2] in (b"he", b"mi", b"ms") for brand in brands)
        return "HEIC" if is_heic else f"a media file of the brand {brands[0].decode('ascii', 'replace')!a}"
    for name, signatures in _OTHER_FORMATS.items():
        if data.startswith(signatures):
            return name
    return f"bytes that begin with {data[:8].hex(' ')}"


def read_header(data: Content, max_pixels: int = MAX_PIXELS) -> ImageHeader:
    """Read format, size and orientation.

    Raises `BadImage` for unknown, cut or hostile files, and for images of no or more than `max_pixels` pixels.
    """
    start = data[:512]
    name = sniff_format(start)
    if name is None:
        raise BadImage(f"a picture must be one of {', '.join(FORMATS)}, but got {describe_format(start)}")
    try:
        if name == "jpeg":
            header = _read_jpeg(data)
            _check_size(header.height, header.width, max_pixels)
            return header
        info: Mapping[Any, Any] = {}
        if name == "png":
            info = _walk_png(data)
        elif name in _CLAIMED_SIZES:
            _check_pixels(*_CLAIMED_SIZES[name](data), max_pixels)
    except (struct.error, IndexError):
        raise BadImage(f"the {name} file is truncated: its header is not complete") from None
    return _read_with_pillow(name, data, info, max_pixels)


def _read_with_pillow(name: str, data: Content, late_info: Mapping[Any, Any], max_pixels: int) -> ImageHeader:
    """Read the header with Pillow; `late_info` are the metadata that stand behind the pixels."""
    with as_bad_image(name), ignored_warnings():
        image = open_with_pillow(name, stream_of(data))
        _check_size(image.height, image.width, max_pixels)
        height, width = image.height, image.width
        if not isinstance(image, TiffImagePlugin.TiffImageFile):
            return ImageHeader(name, height, width, orientation_of({**image.info, **late_info}))
        # The method of the base class: those of some plugins decode the image first.
        orientation = valid_orientation(Image.Image.getexif(image).get(ORIENTATION_TAG))
        if orientation in SIDEWAYS and ORIENTATION_TAG in image.tag_v2:
            height, width = width, height  # Pillow has exchanged them, by the tag, but not by XMP
        return ImageHeader(name, height, width, orientation)


def _check_size(height: int, width: int, max_pixels: int) -> None:
    if height <= 0 or width <= 0:
        raise BadImage(f"a picture must have pixels, but its header says {width} x {height}")
    _check_pixels(height, width, max_pixels)


def _check_pixels(height: int, width: int, max_pixels: int) -> None:
    if height * width > max_pixels:
        raise BadImage(
            f"a picture must have at most {max_pixels} pixels, but its header says {width} x {height} = "
            f"{height * width}"
        )


def _refuse_blocks(name: str, blocks: str) -> BadImage:
    return BadImage(f"a {name} file must hold its picture within {MAX_BLOCKS} {blocks}, but it has more")


@dataclass(frozen=True, slots=True)
class _JpegFrame:
    """A frame header (ITU T.81, section B.2.2)."""

    marker: int
    precision: int
    height: int
    width: int
    samplings: tuple[tuple[int, int], ...]
    """Horizontal and vertical sampling factor of each component."""

    @classmethod
    def read(cls, data: Content, position: int) -> "_JpegFrame":
        marker, precision, height, width, count = unpack(">xBxxBHHB", data, position)
        components = data[position + 10 : position + 10 + 3 * count]
        samplings = tuple((factors >> 4, factors & 15) for factors in components[1::3])
        return cls(marker, precision, height, width, samplings)

    @property
    def is_huffman(self) -> bool:
        return self.marker in (0xC0, 0xC1, 0xC2)

    @property
    def num_blocks(self) -> int:
        """Blocks of 8 x 8 samples, in all components (ITU T.81, section A.1.1)."""
        widest = max((across for across, _ in self.samplings), default=1) or 1
        highest = max((down for _, down in self.samplings), default=1) or 1
        return sum(
            -(-self.width * across // (8 * widest)) * -(-self.height * down // (8 * highest))
            for across, down in self.samplings
        )


def _read_jpeg(data: Content) -> ImageHeader:
    """Walk the marker segments up to the first scan (ITU T.81, annex B)."""
    position, kept = 2, [(0, 2)]
    info: dict[str, bytes] = {}
    frame: _JpegFrame | None = None
    for _ in range(MAX_BLOCKS):
        (lead, marker) = unpack(">BB", data, position)
        if lead != 0xFF:  # bytes between segments, which Pillow and libjpeg skip
            position = find(data, b"\xff", position)
            continue
        if marker == 0xFF:  # a fill byte
            position += 1
            continue
        if marker == 0xD9:
            raise BadImage("the jpeg file is truncated: it ends before its picture")
        if marker == 0x00 or 0xD0 <= marker <= 0xD8 or marker == 0x01:  # markers without a segment
            position += 2
            continue
        (length,) = unpack(">H", data, position + 2)
        stop = position + 2 + length
        if marker == 0xE1:
            _add_metadata(info, data[position + 4 : stop])
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            frame = _JpegFrame.read(data, position)
        if marker == 0xDA:
            if frame is None:
                raise BadImage("the jpeg file is damaged: a scan comes before the size of the picture")
            kept.append((position, len(data)))
            (num_components,) = unpack("B", data, position + 4)
            if frame.precision != 8 or len(frame.samplings) not in (1, 3, 4):
                raise BadImage(
                    f"a jpeg must have 8 bits and 1, 3 or 4 colour components, but it has {frame.precision} bits and "
                    f"{len(frame.samplings)} components"
                )
            num_scans = _count_scans(data, frame, num_components, stop)
            is_plain = len(frame.samplings) in (1, 3)
            orientation = orientation_of(info)
            return ImageHeader("jpeg", frame.height, frame.width, orientation, is_plain, num_scans, tuple(kept))
        if marker in (0xE0, 0xEE) or not 0xE0 <= marker <= 0xFE:
            kept.append((position, stop))
        position = stop
    raise _refuse_blocks("jpeg", "segments")


def _add_metadata(info: dict[str, bytes], segment: bytes) -> None:
    """Keep an APP1 segment's content as Pillow does: EXIF of several segments is joined, of XMP the last counts."""
    if segment.startswith(b"Exif\0\0"):
        info["exif"] = info["exif"] + segment[6:] if "exif" in info else segment
    elif segment.startswith(b"http://ns.adobe.com/xap/1.0/\0"):
        info["xmp"] = segment.split(b"\0", 1)[1]


def _count_scans(data: Content, frame: _JpegFrame, num_components: int, first_scan: int) -> int:
    """Number of scans. Raises `BadImage` for too many, and where the coded data cannot hold the image."""
    num_bits, num_blocks = 8 * (len(data) - first_scan), frame.num_blocks
    if frame.is_huffman and num_bits < num_blocks:
        raise BadImage(
            f"the jpeg file is truncated: its header says {frame.width} x {frame.height}, which is {num_blocks} blocks "
            f"of 8 x 8 samples of at least one bit each, but only {num_bits} bits follow"
        )
    if num_components >= len(frame.samplings) and frame.marker not in (0xC2, 0xC6, 0xCA, 0xCE):
        return 1
    # In compressed data 0xFF is always followed by 0x00 or a restart marker, so this counts the scans.
    num_scans = 1 + count_up_to(_MAX_SCANS, data, b"\xff\xda", first_scan)
    if num_scans > _MAX_SCANS or num_scans * frame.height * frame.width > _MAX_SCAN_PIXELS:
        raise BadImage(
            f"a progressive jpeg must have at most {_MAX_SCANS} scans and {_MAX_SCAN_PIXELS} pixels in all scans, "
            f"but it has {num_scans} scans of {frame.width} x {frame.height}"
        )
    return num_scans


_PNG_SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"
_PNG_TEXTS: Final = (b"tEXt", b"zTXt", b"iTXt")
_PNG_KEYWORDS: Final = (b"Raw profile type exif\0", b"XML:com.adobe.xmp\0", b"exif\0", b"xmp\0")


def _walk_png(data: Content) -> Mapping[Any, Any]:
    """Metadata that follow the pixels. Walks all chunks: Pillow visits every one (PNG specification, section 5)."""
    if data[12:16] != b"IHDR":
        raise BadImage("the png file is damaged: it must begin with an IHDR chunk")
    position, num_frames, has_pixels, is_over = 8, 0, False, False
    late: list[bytes] = []
    for _ in range(MAX_BLOCKS):
        start = data[position : position + 8]
        if len(start) < 8 or start[4:] == b"IEND":  # without IEND the decoder decides whether the image is whole
            return _info_of_chunks(late) if late else {}
        length, kind = int.from_bytes(start[:4], "big"), start[4:]
        stop = position + 12 + length
        if kind == b"IDAT":
            has_pixels = True
        elif kind == b"acTL" and not has_pixels:
            (num_frames,) = unpack(">I", data, position + 8)
        elif kind == b"fcTL":
            is_over |= has_pixels and num_frames > 0  # Pillow stops before the second frame
            num_frames -= not has_pixels  # 1 frame that the first image is part of: no animation
        elif (
            has_pixels
            and not is_over
            and (
                kind == b"eXIf" or (kind in _PNG_TEXTS and data[position + 8 : position + 30].startswith(_PNG_KEYWORDS))
            )
        ):
            late.append(data[position:stop])
        position = stop
    raise _refuse_blocks("png", "chunks")


def _info_of_chunks(chunks: list[bytes]) -> Mapping[Any, Any]:
    """What Pillow makes of metadata chunks, read from a PNG file of one pixel that holds no others."""
    pixel = zlib.compress(bytes(2))
    header, pixels, end = (
        _png_chunk(kind, content)
        for kind, content in (
            (b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0)),
            (b"IDAT", pixel),
            (b"IEND", b""),
        )
    )
    middle = [_png_chunk(chunk[4:8], chunk[8:-4]) for chunk in chunks]
    with as_bad_image("png"):
        return open_with_pillow("png", io.BytesIO(b"".join([_PNG_SIGNATURE, header, *middle, pixels, end]))).info


def _png_chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def _claimed_gif_size(data: Content) -> tuple[int, int]:
    """Walk to the first image (GIF89a, sections 18 to 26)."""
    width, height, flags = unpack("<HHB", data, 6)
    position = 13 + (3 << ((flags & 7) + 1) if flags & 0x80 else 0)
    blocks = 0
    while blocks < MAX_BLOCKS:
        blocks += 1
        (introducer,) = unpack("B", data, position)
        if introducer == 0x2C:
            left, top, part_width, part_height = unpack("<HHHH", data, position + 1)
            # Pillow grows the canvas to hold the first image.
            return max(height, top + part_height), max(width, left + part_width)
        if introducer == 0x3B:
            raise BadImage("the gif file is truncated: it ends before its first picture")
        position += 1
        if introducer == 0x21:
            position += 1
            while size := unpack("B", data, position)[0]:
                position += 1 + size
                blocks += 1
                if blocks >= MAX_BLOCKS:
                    break
            position += 1
    raise _refuse_blocks("gif", "blocks")


def _claimed_bmp_size(data: Content) -> tuple[int, int]:
    (header_size,) = unpack("<I", data, 14)
    if header_size == 12:
        width, height = unpack("<HH", data, 18)
        return height, width
    width, height, _, _, compression = unpack("<iiHHI", data, 18)
    if compression in (1, 2) and len(data) > _MAX_RLE_BYTES:
        raise BadImage(
            f"a run-length coded bmp must have at most {_MAX_RLE_BYTES} bytes, but it has {len(data)}; save it as png"
        )
    return abs(height), abs(width)


def _claimed_tiff_size(data: Content) -> tuple[int, int]:
    """Read the first directory (TIFF 6.0, section 2; BigTIFF has wider fields).

    Tiles count with their own size: a decoder allocates them.
    """
    order = "<" if data[:2] == b"II" else ">"
    is_big = data[2:3] == b"\x2b"
    (offset,) = unpack(f"{order}Q", data, 8) if is_big else unpack(f"{order}I", data, 4)
    (count,) = unpack(f"{order}Q" if is_big else f"{order}H", data, offset)
    if count > MAX_BLOCKS:
        raise _refuse_blocks("tiff", "tags")
    layout, first = (f"{order}HHQ8s", offset + 8) if is_big else (f"{order}HHI4s", offset + 2)
    sizes = {256: 0, 257: 0, 322: 0, 323: 0}
    for index in range(count):
        tag, kind, _, value = unpack(layout, data, first + struct.calcsize(layout) * index)
        if tag in sizes and kind in _TIFF_INTEGERS:
            sizes[tag] = sizes[tag] or unpack(order + _TIFF_INTEGERS[kind], value, 0)[0]
    return max(sizes[257], sizes[323]), max(sizes[256], sizes[322])


_TIFF_INTEGERS: Final = {3: "H", 4: "I", 8: "h", 9: "i", 13: "I", 16: "Q", 17: "q"}  # codes of TIFF 6.0 and BigTIFF


def _claimed_webp_size(data: Content) -> tuple[int, int]:
    """Read the first chunk's size and count the others: a frame each (WebP container specification)."""
    kind = data[12:16]
    if kind == b"VP8X":
        width = 1 + int.from_bytes(data[24:27], "little")
        height = 1 + int.from_bytes(data[27:30], "little")
    elif kind == b"VP8L":
        (bits,) = unpack("<I", data, 21)
        width, height = (bits & 0x3FFF) + 1, ((bits >> 14) & 0x3FFF) + 1
    elif kind == b"VP8 ":
        width, height = (side & 0x3FFF for side in unpack("<HH", data, 26))
    else:
        raise BadImage("the webp file is damaged: it must begin with a VP8, VP8L or VP8X chunk")
    position = 12
    for _ in range(MAX_BLOCKS):
        if position + 8 > len(data):
            return height, width
        (length,) = unpack("<I", data, position + 4)
        position += 8 + length + (length & 1)
    raise _refuse_blocks("webp", "chunks")


_CLAIMED_SIZES: Final[Mapping[str, Callable[[Content], tuple[int, int]]]] = MappingProxyType(
    {"gif": _claimed_gif_size, "bmp": _claimed_bmp_size, "tiff": _claimed_tiff_size, "webp": _claimed_webp_size}
)
"""Height and width that a file claims; of PNG and AVIF Pillow reads them without allocating anything."""
