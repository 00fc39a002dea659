"""Small data folders, written as a user would write them."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

CANONICAL = """
- read_json_lines:
    encoding: utf8
    invalid_lines: error
    include_path_column: false
- convert_column_types:
    - columns: image_url
      column_type: stream_info
"""

FolderWriter = Callable[..., Path]


@pytest.fixture
def write_folder(tmp_path: Path) -> FolderWriter:
    """`write_folder(lines)` writes `data/annotations.jsonl` and an `MLTable`; lines are text, or objects to encode."""

    def write(
        lines: Sequence[Any] | bytes,
        transformations: str = CANONICAL,
        paths: str = "- file: ./annotations.jsonl",
        name: str = "data",
    ) -> Path:
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        if isinstance(lines, bytes):
            content = lines
        else:
            content = "".join((item if isinstance(item, str) else json.dumps(item)) + "\n" for item in lines).encode()
        (folder / "annotations.jsonl").write_bytes(content)
        (folder / "MLTable").write_text(f"paths:\n{_indent(paths)}\ntransformations:\n{_indent(transformations)}\n")
        return folder

    return write


def _indent(text: str) -> str:
    return "\n".join("  " + line for line in text.strip("\n").splitlines())


@pytest.fixture
def write_image(tmp_path: Path) -> Callable[..., Path]:
    """`write_image("a/b.jpg", (width, height))` writes a grey image below `data`."""

    def write(name: str, size_wh: tuple[int, int] = (40, 30), orientation: int | None = None) -> Path:
        path = tmp_path / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        exif = Image.Exif()
        if orientation is not None:
            exif[0x0112] = orientation
        Image.new("RGB", size_wh, (120, 130, 140)).save(path, exif=exif)
        return path

    return write
