import io
import struct
import time
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from clearsight.errors import BadImage
from clearsight.images.decode import DecodeLimits, decode_image, sniff_format

RANDOM = np.random.default_rng(5)
PHOTO_HWC = np.clip(
    np.add.outer(np.arange(40) * 4, np.arange(60) * 2)[..., None] + RANDOM.integers(0, 30, (40, 60, 3)), 0, 255
).astype(np.uint8)


def encoded(image: Image.Image, name: str, **options) -> bytes:
    stream = io.BytesIO()
    image.save(stream, name, **options)
    return stream.getvalue()


def pillow(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB"))


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width: int, height: int, *chunks: bytes, depth: int = 8, colour: int = 2) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + chunk(b"IEND", b"")


# What each file of the shared collection must give: size (height, width) after turning upright, or None when refused.
TRICKY = {
    "animated.gif": (240, 320),
    "animated.webp": (245, 245),
    "bad_exif.jpg": (500, 500),
    "bomb_header.gif": None,
    "broken.png": None,
    "cmyk.jpg": (100, 100),
    "exif_orientation_1.jpg": (450, 600),
    "exif_orientation_2.jpg": (450, 600),
    "exif_orientation_3.jpg": (450, 600),
    "exif_orientation_6.jpg": (450, 600),
    "exif_orientation_6.webp": (128, 128),
    "exif_orientation_8.jpg": (450, 600),
    "gray.jpg": (128, 128),
    "gray_16bit.png": (64, 64),
    "gray_16bit.tif": (64, 64),
    "gray_alpha.png": (128, 128),
    "multi_picture.mpo": (480, 640),
    "one_bit.png": (500, 500),
    "palette.png": (150, 162),
    "palette_transparent.gif": (150, 200),
    "photo.avif": (128, 128),
    "photo.webp": (360, 480),
    "progressive_big_icc.jpg": (250, 425),
    "rgba.png": (150, 162),
    "truncated.jpg": None,
    "truncated.png": None,
}


@pytest.mark.parametrize("name", TRICKY)
def test_awkward_files_decode_to_the_reference_or_are_refused(shared_data: Path, name: str):
    data = (shared_data / "tricky" / name).read_bytes()
    if TRICKY[name] is None:
        with pytest.raises(BadImage):
            decode_image(data)
        return
    found = decode_image(data)
    assert found.shape == (*TRICKY[name], 3)
    assert found.dtype == np.uint8
    assert found.flags.c_contiguous
    if "16bit" not in name and name != "bad_exif.jpg":
        with Image.open(io.BytesIO(data)) as image:
            image.info.pop("transparency", None)
            expected = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
        assert np.array_equal(found, expected)


def test_every_tricky_file_has_an_expectation(shared_data: Path):
    files = {file.name for file in (shared_data / "tricky").iterdir() if file.suffix not in {".md", ".pillow"}}
    assert files == set(TRICKY)


def test_no_bytes_are_no_image():
    with pytest.raises(BadImage, match="must not be empty"):
        decode_image(b"")


@pytest.mark.parametrize("data", [b"x", b"hello world", b"\0" * 100, b"%PDF-1.7", b"<svg/>"])
def test_other_bytes_are_refused_with_the_formats_that_are_read(data):
    assert sniff_format(data) is None
    with pytest.raises(BadImage, match="jpeg, png, gif, bmp, tiff, webp, avif"):
        decode_image(data)


@pytest.mark.parametrize(
    ("start", "name"),
    [
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC"),
        (b"\0\0\0\x18ftypmif1\0\0\0\0heicmif1", "HEIC"),
        (b"\0\0\0\x14ftypisom\0\0\0\0mp42", "a media file of the brand 'isom'"),
        (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG 2000"),
        (b"P6 1 1 255\n\0\0\0", "PPM or another netpbm format"),
        (b"\0\0\x01\0\x01\0", "an icon"),
        (b"8BPS\0\x01", "Photoshop"),
        (b"\x01\x02", "bytes that begin with 01 02"),
    ],
)
def test_a_refusal_names_a_known_format(start, name):
    with pytest.raises(BadImage, match=f"but got {name}$"):
        decode_image(start + bytes(20 if len(start) > 2 else 0))


def test_an_avif_file_of_a_container_brand_is_read():
    data = encoded(Image.fromarray(PHOTO_HWC), "AVIF")
    assert np.array_equal(decode_image(data.replace(b"ftypavif", b"ftypmif1", 1)), pillow(data))


def jpeg_segments(data: bytes) -> list[bytes]:
    """The start of the image, each segment before the scan, and the rest (ITU T.81, section B.1.1.4)."""
    parts, position = [data[:2]], 2
    while data[position + 1] != 0xDA:
        stop = position + 2 + int.from_bytes(data[position + 2 : position + 4], "big")
        parts.append(data[position:stop])
        position = stop
    return [*parts, data[position:]]


@pytest.mark.parametrize("stray", [b"\0", b"junk" * 9, b"\xff\0", b"\xff\0\xff\0 ", b"\xff\xff", bytes(100_000)])
@pytest.mark.parametrize("progressive", [False, True])
def test_stray_bytes_between_the_segments_of_a_jpeg_are_skipped_as_pillow_does(stray, progressive):
    data = encoded(Image.fromarray(PHOTO_HWC), "JPEG", progressive=progressive)
    parts = jpeg_segments(data)
    for place in range(2, len(parts)):
        odd = b"".join(parts[:place]) + stray + b"".join(parts[place:])
        assert np.array_equal(decode_image(odd), pillow(odd)), place


def with_size(data: bytes, width: int, height: int) -> bytes:
    """A JPEG file whose frame header says another size."""
    place = next(index for index in (data.find(marker) for marker in (b"\xff\xc0", b"\xff\xc2")) if index > 0)
    return data[: place + 5] + struct.pack(">HH", height, width) + data[place + 9 :]


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_of_fewer_coded_bits_than_blocks_is_refused_at_once(mode, progressive):
    data = encoded(Image.fromarray(PHOTO_HWC).convert(mode), "JPEG", progressive=progressive)
    with pytest.raises(BadImage, match="blocks"):
        decode_image(with_size(data, 9999, 9999))


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}, {"optimize": True, "quality": 1}])
def test_the_shortest_jpegs_that_an_encoder_writes_have_a_bit_for_each_block(options):
    for size_wh in ((1, 1), (17, 3), (1000, 1000)):
        data = encoded(Image.new("RGB", size_wh), "JPEG", **options)
        assert np.array_equal(decode_image(data), pillow(data))


@pytest.mark.parametrize("mode", ["RGB", "L", "1", "P"])
def test_bigtiff_is_read(mode):
    data = encoded(Image.fromarray(PHOTO_HWC).convert(mode), "TIFF", big_tiff=True)
    assert data[:4] == b"II+\0"
    assert np.array_equal(decode_image(data), pillow(data))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("JPEG", {"quality": 95}),
        ("JPEG", {"progressive": True}),
        ("JPEG", {"subsampling": 0}),
        ("JPEG", {"keep_rgb": True}),
        ("PNG", {}),
        ("GIF", {}),
        ("BMP", {}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("WEBP", {"lossless": True}),
        ("AVIF", {}),
    ],
)
def test_every_format_gives_pillows_pixels(name, options):
    data = encoded(Image.fromarray(PHOTO_HWC), name, **options)
    assert np.array_equal(decode_image(data), pillow(data))


@pytest.mark.parametrize("mode", ["L", "LA", "1", "P", "RGBA", "CMYK"])
def test_every_mode_becomes_rgb(mode):
    name = "TIFF" if mode == "CMYK" else "PNG"
    data = encoded(Image.fromarray(PHOTO_HWC).convert(mode), name)
    assert np.array_equal(decode_image(data), pillow(data))


@pytest.mark.parametrize("name", ["PNG", "TIFF"])
def test_sixteen_bits_are_scaled_not_clipped(name):
    levels = np.linspace(0, 65535, 64 * 64).astype(np.uint16).reshape(64, 64)
    found = decode_image(encoded(Image.fromarray(levels), name))
    assert np.abs(found[..., 0].astype(float) - levels / 257).max() <= 1
    assert np.array_equal(found[..., 0], found[..., 2])


def test_samples_without_a_defined_range_are_refused():
    with pytest.raises(BadImage, match="floating point"):
        decode_image(encoded(Image.fromarray(np.ones((4, 4), np.float32)), "TIFF"))
    with pytest.raises(BadImage, match="32-bit"):
        decode_image(encoded(Image.fromarray(np.ones((4, 4), np.int32)), "TIFF"))


@pytest.mark.parametrize("name", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_turns_every_format_upright(name, orientation):
    exif = Image.Exif()
    exif[274] = orientation
    options = {"PNG": {}, "JPEG": {"quality": 95}, "WEBP": {"lossless": True}, "TIFF": {}}[name]
    data = encoded(Image.fromarray(PHOTO_HWC), name, exif=exif, **options)
    with Image.open(io.BytesIO(data)) as image:
        expected = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    assert np.array_equal(decode_image(data), expected)
    assert np.array_equal(decode_image(data, exif_orientation="ignore"), pillow(data))


@pytest.mark.parametrize(
    "exif",
    [
        b"Exif\0\0",
        b"Exif\0\0II*\0\xff\xff\xff\xff",
        b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + b"\x01\x12\0\x03\0\0\0\x01\0\x09\0\0",  # orientation 9
        b"Exif\0\0garbage",
    ],
)
def test_malformed_exif_means_upright(exif):
    image = Image.fromarray(PHOTO_HWC)
    expected = pillow(encoded(image, "JPEG"))
    assert np.array_equal(decode_image(encoded(image, "JPEG", exif=exif)), expected)


@pytest.mark.parametrize("name", ["JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "AVIF"])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.9])
def test_a_file_cut_short_is_refused(name, share):
    noise = RANDOM.integers(0, 256, (64, 64, 3), dtype=np.uint8)
    data = encoded(Image.fromarray(noise), name)
    with pytest.raises(BadImage):
        decode_image(data[: int(len(data) * share)])


def outcome(data: bytes) -> str:
    """The message of the refusal, or nothing. Any other exception is the test's failure."""
    try:
        decode_image(data, DecodeLimits(max_pixels=1_000_000))
    except BadImage as error:
        return str(error)
    return ""


@pytest.mark.parametrize("name", ["JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP"])
def test_damage_anywhere_is_refused_in_one_ascii_line_or_survived(name):
    data = encoded(Image.fromarray(PHOTO_HWC), name)
    messages = []
    for _ in range(60):
        damaged = bytearray(data)
        for position in RANDOM.integers(0, min(len(data), 300), 4):
            damaged[position] = RANDOM.integers(0, 256)
        messages.append(outcome(bytes(damaged)))
    assert any(messages)
    assert all(message.isascii() and "\n" not in message for message in messages)


def test_limits_are_inclusive_and_count_stored_pixels():
    data = encoded(Image.fromarray(PHOTO_HWC), "PNG")
    assert decode_image(data, DecodeLimits(max_pixels=2400)).shape == (40, 60, 3)
    with pytest.raises(BadImage, match=r"60 x 40 = 2400"):
        decode_image(data, DecodeLimits(max_pixels=2399))
    assert decode_image(data, DecodeLimits(max_bytes=len(data))).shape == (40, 60, 3)
    with pytest.raises(BadImage, match="bytes"):
        decode_image(data, DecodeLimits(max_bytes=len(data) - 1))
    with pytest.raises(BadImage, match="one of jpeg, but got png"):
        decode_image(data, DecodeLimits(formats=("jpeg",)))


def test_pillows_own_limit_does_not_decide(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 2000)  # warns above 2000, refuses above 4000
    for name in ("PNG", "TIFF", "WEBP", "GIF"):
        data = encoded(Image.fromarray(PHOTO_HWC), name)
        assert decode_image(data).shape == (40, 60, 3)


def gif_comment_bomb() -> bytes:
    return b"GIF89a\x01\0\x01\0\0\0\0!\xfe" + b"\x01a" * 200_000 + b"\0;"


def progressive_scan_bomb() -> bytes:
    data = encoded(Image.new("RGB", (4000, 4000)), "JPEG", progressive=True)
    start = data.rindex(b"\xff\xda")
    return data[:start] + data[start:-2] * 2000 + data[-2:]


def vp8x(width: int, height: int) -> bytes:
    content = b"\0\0\0\0" + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    return b"RIFF" + struct.pack("<I", 22) + b"WEBPVP8X" + struct.pack("<I", 10) + content


def tiff(*entries: tuple[int, int]) -> bytes:
    tags = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries)
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + tags + b"\0\0\0\0"


BOMBS = {
    "gif that claims 4.3 billion pixels": b"GIF89a\xff\xff\xff\xff\0\0\0,\0\0\0\0\x01\0\x01\0\0\x02\x02D\x01\0;",
    "gif whose first picture is larger than its screen": b"GIF89a\x01\0\x01\0\0\0\0,\xff\xff\xff\xff\xff\xff\xff\xff\0",
    "gif with endless comments": gif_comment_bomb(),
    "png that claims 4 billion pixels": png(65535, 65535, chunk(b"IDAT", zlib.compress(bytes(1_000_000)))),
    "png with a compressed profile of 100 MB": png(
        1, 1, chunk(b"iCCP", b"p\0\0" + zlib.compress(bytes(100_000_000), 9)), chunk(b"IDAT", zlib.compress(bytes(4)))
    ),
    "png with a compressed text of 100 MB": png(
        1, 1, chunk(b"zTXt", b"p\0\0" + zlib.compress(bytes(100_000_000), 9)), chunk(b"IDAT", zlib.compress(bytes(4)))
    ),
    "png with a hundred thousand empty chunks": png(1, 1, chunk(b"tEXt", b"") * 100_000),
    "png with a hundred thousand empty data chunks": png(4, 4, chunk(b"IDAT", b"") * 100_000),
    "jpeg that claims 4 billion pixels": b"\xff\xd8\xff\xc0\0\x11\x08\xff\xff\xff\xff\x03\x01\x22\0\x02\x11\x01\x03"
    b"\x11\x01\xff\xda\0\x0c\x03\x01\0\x02\x11\x03\x11\0\x3f\0",
    "jpeg of 2000 scans": progressive_scan_bomb(),
    "jpeg that begins with a megabyte of fill": b"\xff\xd8" + b"\xff" * 1_000_000 + b"\xd9",
    "webp that claims 281 trillion pixels": vp8x(1 << 24, 1 << 24),
    "bmp that claims 4 billion pixels": b"BM"
    + bytes(12)
    + struct.pack("<IiiHHIIiiII", 40, 65535, 65535, 1, 24, *[0] * 6),
    "tiff that claims 4 billion pixels": tiff((256, 65535), (257, 65535)),
    "tiff with one pixel in tiles of 4 billion": tiff((256, 1), (257, 1), (322, 65536), (323, 65536)),
    "tiff of 60000 tags": tiff(*[(300, 1)] * 60_000),
    "bigtiff of 60000 tags": b"II+\0\x08\0\0\0\x10" + bytes(7) + struct.pack("<Q", 60_000) + bytes(60_000 * 20),
    "bigtiff that claims 4 billion pixels": b"II+\0\x08\0\0\0\x10"
    + bytes(7)
    + struct.pack("<Q", 2)
    + b"".join(struct.pack("<HHQQ", tag, 16, 1, 65535) for tag in (256, 257)),
    "jpeg of 4 KB that claims 100 million pixels": with_size(
        encoded(Image.fromarray(PHOTO_HWC), "JPEG", quality=90)[:-2].ljust(4094, b"\0") + b"\xff\xd9", 9999, 9999
    ),
    "jpeg with a million escaped bytes between segments": b"\xff\xd8" + b"\xff\0" * 1_000_000 + b"\xff\xd9",
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_refused_at_once_and_without_the_memory(name):
    data = BOMBS[name]
    durations = []
    for _ in range(3):  # the fastest of three: other processes of the machine do not count
        started = time.perf_counter()
        with pytest.raises(BadImage):
            decode_image(data)
        durations.append(time.perf_counter() - started)
    assert min(durations) < 0.1
    tracemalloc.start()
    try:
        with pytest.raises(BadImage):
            decode_image(data)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 8_000_000 + len(data)
