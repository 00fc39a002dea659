"""Size and orientation: what is read of a header, what is decoded and what Pillow makes of a file are the same."""

import io
import itertools
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps, PngImagePlugin

from clearsight.images.decode import decode_image
from clearsight.images.headers import read_header
from clearsight.images.size import read_size

STORED_HWC = np.random.default_rng(3).integers(0, 256, (8, 12, 3), dtype=np.uint8)
STORED = Image.fromarray(STORED_HWC)
ORIENTATIONS = range(1, 9)
# Codes of TIFF 6.0, section 2, and of BigTIFF: signed and unsigned whole numbers of 1 to 8 bytes, fractions, floats.
TYPES = {1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i", 13: "I", 16: "Q", 5: "II", 11: "f", 12: "d"}


def saved(name: str, **options) -> bytes:
    stream = io.BytesIO()
    STORED.save(stream, name, **options)
    return stream.getvalue()


def entry(order: str, kind: int, value: int, offset: int, count: int = 1) -> tuple[bytes, bytes]:
    """The directory entry of the orientation, and the data it refers to at `offset`."""
    data = struct.pack(order + TYPES[kind], *([value, 1] if kind == 5 else [value])) * count
    head = struct.pack(f"{order}HHI", 274, kind, count)
    if len(data) <= 4:
        return head + data.ljust(4, b"\0"), b""
    return head + struct.pack(f"{order}I", offset), data


def exif(order: str, kind: int, value: int, count: int = 1) -> bytes:
    first, data = entry(order, kind, value, 8 + 2 + 12 + 4, count)
    start = b"II*\0" if order == "<" else b"MM\0*"
    return b"Exif\0\0" + start + struct.pack(f"{order}IH", 8, 1) + first + bytes(4) + data


def tiff(order: str, kind: int, value: int) -> bytes:
    """An uncompressed RGB file with the tag of the orientation."""
    height, width, _ = STORED_HWC.shape
    tags = [(256, width), (257, height), (258, 8), (259, 1), (262, 2), (273, 400), (277, 3), (278, height)]
    end = (279, STORED_HWC.nbytes)
    plain = [struct.pack(f"{order}HHII", tag, 4, 1, number) for tag, number in (*tags, end)]
    turned, data = entry(order, kind, value, 300)
    directory = b"".join(sorted([*plain, turned], key=lambda each: struct.unpack(f"{order}H", each[:2])))
    head = (
        (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}IH", 8, len(plain) + 1) + directory + bytes(4)
    )
    return (head.ljust(300, b"\0") + data).ljust(400, b"\0") + STORED_HWC.tobytes()


def xmp(value: int, is_element: bool) -> bytes:
    inside = f"<tiff:Orientation>{value}</tiff:Orientation>" if is_element else f'tiff:Orientation="{value}"'
    return f"<x:xmpmeta xmlns:x='adobe:ns:meta/'><rdf:Description {inside}/></x:xmpmeta>".encode()


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png_with(late: bytes = b"", **options) -> bytes:
    """A PNG file with further chunks behind the pixels."""
    data = saved("PNG", **options)
    return data[:-12] + late + data[-12:]


def raw_profile(value: int) -> str:
    block = exif(">", 3, value)
    return f"\nexif\n{len(block):8}\n{block.hex()}\n"


def jpeg_with(*segments: bytes) -> bytes:
    data = saved("JPEG", quality=95)
    return data[:2] + b"".join(b"\xff\xe1" + struct.pack(">H", len(part) + 2) + part for part in segments) + data[2:]


def files_of(value: int) -> dict[str, bytes]:
    """One file for each format and place in which an orientation can stand."""
    types = TYPES if value in (3, 6) else (3,)
    exif_files = {
        f"{name}, EXIF of type {kind}, {order}": saved(name, exif=exif(order, kind, value), **options)
        for (name, options), kind, order in itertools.product(
            {"JPEG": {}, "PNG": {}, "WEBP": {"lossless": True}}.items(), types, "<>"
        )
    }
    tiff_files = {f"TIFF, tag of type {kind}, {order}": tiff(order, kind, value) for kind in types for order in "<>"}
    text, late_text = PngImagePlugin.PngInfo(), PngImagePlugin.PngInfo()
    text.add_text("Raw profile type exif", raw_profile(value))
    late_text.add_text("Raw profile type exif", raw_profile(value), zip=True)
    itxt = PngImagePlugin.PngInfo()
    itxt.add_itxt("XML:com.adobe.xmp", xmp(value, False).decode())
    profile = b"Raw profile type exif\0" + raw_profile(value).encode()
    packed = b"Raw profile type exif\0\0" + zlib.compress(raw_profile(value).encode())
    packet = b"http://ns.adobe.com/xap/1.0/\0"
    other = value % 8 + 1
    return {
        **exif_files,
        **tiff_files,
        "JPEG, two values": saved("JPEG", exif=exif("<", 3, value, count=2)),
        "JPEG, EXIF in two segments": jpeg_with(exif("<", 3, value)[:20], b"Exif\0\0" + exif("<", 3, value)[20:]),
        "JPEG, two EXIF blocks": jpeg_with(exif("<", 3, value), exif("<", 3, other)),
        "JPEG, EXIF before XMP": jpeg_with(packet + xmp(other, False), exif("<", 3, value)),
        "JPEG, two XMP packets": jpeg_with(packet + xmp(other, False), packet + xmp(value, True)),
        "JPEG, cut EXIF": jpeg_with(exif("<", 3, value)[:24]),
        "PNG, raw profile": png_with(pnginfo=text),
        "PNG, compressed raw profile": png_with(pnginfo=late_text),
        "PNG, XMP": png_with(pnginfo=itxt),
        "PNG, EXIF behind the pixels": png_with(chunk(b"eXIf", exif(">", 3, value)[6:])),
        "PNG, EXIF before and behind": png_with(chunk(b"eXIf", exif(">", 3, value)[6:]), exif=exif("<", 3, other)),
        "PNG, raw profile behind": png_with(chunk(b"tEXt", profile)),
        "PNG, compressed profile behind": png_with(chunk(b"zTXt", packed)),
        "PNG, XMP behind": png_with(chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp(value, True))),
        "PNG, EXIF behind the end": png_with() + chunk(b"eXIf", exif(">", 3, value)[6:]),
        "PNG, animated": saved("PNG", save_all=True, append_images=[ImageOps.invert(STORED)], exif=exif("<", 3, value)),
        "TIFF, XMP": saved("TIFF", tiffinfo={700: xmp(value, False)}),
        "TIFF, compressed": saved("TIFF", tiffinfo={274: value}, compression="tiff_lzw"),
        "TIFF, big": saved("TIFF", tiffinfo={274: value}, big_tiff=True),
        "AVIF, EXIF": saved("AVIF", exif=exif("<", 3, value), quality=100),
        "AVIF, XMP": saved("AVIF", xmp=xmp(value, False), quality=100),
        "GIF": saved("GIF"),
        "BMP": saved("BMP"),
        **{f"JPEG, XMP {element}": saved("JPEG", xmp=xmp(value, element)) for element in (False, True)},
        **{f"WEBP, XMP {element}": saved("WEBP", lossless=True, xmp=xmp(value, element)) for element in (False, True)},
    }


@pytest.mark.filterwarnings("ignore")  # Pillow's, on types and counts that EXIF does not provide for
def test_size_and_pixels_are_pillows_for_every_carrier_of_every_format(tmp_path: Path):
    file = tmp_path / "image"
    turned = set()
    for value in ORIENTATIONS:
        for name, data in files_of(value).items():
            with Image.open(io.BytesIO(data)) as image:
                expected = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
            found = decode_image(data)
            assert found.shape == expected.shape, (name, value)
            assert np.array_equal(found, expected), (name, value)
            header = read_header(data)
            assert header.upright_hw == expected.shape[:2], (name, value)
            if value == 6:
                file.write_bytes(data)
                assert read_size(file) == (expected.shape[1], expected.shape[0]), name
            if header.orientation != 1:
                turned.add(name)
    # Carriers that Pillow reads no whole number from, formats without one, and what stands outside the file's image.
    unturned = set(files_of(6)) - turned
    assert {name for name in unturned if "type 1," not in name} <= {
        "GIF", "BMP", "PNG, EXIF behind the end", "JPEG, cut EXIF"
    }  # fmt: skip


@pytest.mark.parametrize(
    "block", [b"", b"Exif\0\0", b"Exif\0\0II", b"Exif\0\0XX*\0" + bytes(20), exif("<", 3, 0), exif("<", 3, 9)]
)
def test_a_block_without_a_valid_orientation_turns_nothing(block: bytes):
    assert read_header(jpeg_with(b"Exif\0\0" + block.removeprefix(b"Exif\0\0"))).orientation == 1


def test_a_directory_of_65535_entries_costs_no_more_than_one(monkeypatch):
    directory = struct.pack("<H", 65535) + struct.pack("<HHI4s", 300, 3, 1, b"") * 65534 + entry("<", 3, 6, 0)[0]
    block = b"II*\0\x08\0\0\0" + directory + bytes(4)
    lengths = []
    load = Image.Exif.load
    monkeypatch.setattr(Image.Exif, "load", lambda self, data: (lengths.append(data[-18:-16]), load(self, data))[1])
    parts = [b"Exif\0\0" + block[start : start + 60_000] for start in range(0, len(block), 60_000)]
    assert read_header(jpeg_with(*parts)).orientation == 6
    assert lengths == [b"\x01\0"]
