import json
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Networks of these sizes are slower on two threads, most of all beside other tests."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


MLTABLE = """paths:
  - file: ./annotations.jsonl
transformations:
  - read_json_lines: {encoding: utf8, invalid_lines: error}
  - convert_column_types:
      - {columns: image_url, column_type: stream_info}
"""

TEXTURES = ("dots", "checks", "columns", "rows")


def _texture(name: str, random: np.random.Generator) -> np.ndarray:
    """A 72 x 72 picture of one texture in two random colours, with noise: uint8 (72, 72, 3)."""
    y, x = np.mgrid[0:72, 0:72] + int(random.integers(0, 12))
    masks = {
        "rows": y % 12 < 6,
        "columns": x % 12 < 6,
        "checks": (y // 6 + x // 6) % 2 == 0,
        "dots": (y % 12 - 6) ** 2 + (x % 12 - 6) ** 2 < 9,
    }
    dark, light = random.integers(0, 110, 3), random.integers(140, 256, 3)
    image_HWC = np.where(masks[name][..., None], light, dark) + random.normal(0, 8, (72, 72, 3))
    return np.clip(image_HWC, 0, 255).astype(np.uint8)


def _write_table(folder: Path, names: list[list[str]], multi_label: bool, random: np.random.Generator) -> None:
    folder.mkdir(parents=True)
    (folder / "MLTable").write_text(MLTABLE)
    with (folder / "annotations.jsonl").open("w") as lines:
        for index, labels in enumerate(names):
            halves = [_texture(name, random) for name in labels] or [np.full((72, 72, 3), 128, np.uint8)]
            cv2.imwrite(str(folder / f"{index}.png"), np.concatenate(halves, axis=1))
            label = labels if multi_label else labels[0]
            lines.write(json.dumps({"image_url": f"{index}.png", "label": label}) + "\n")


@pytest.fixture(scope="session")
def texture_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """96 small pictures of four textures, multi-class: a data folder with label file and MLTable. Read only."""
    folder = tmp_path_factory.mktemp("textures") / "data"
    names = [[TEXTURES[index % 4]] for index in range(96)]
    _write_table(folder, names, multi_label=False, random=np.random.default_rng(5))
    return folder


@pytest.fixture(scope="session")
def texture_pairs_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 pictures of zero to two textures side by side, multi-label. Read only."""
    folder = tmp_path_factory.mktemp("pairs") / "data"
    pairs = [[], ["dots"], ["dots", "rows"], ["columns"]]
    _write_table(folder, [pairs[index % 4] for index in range(24)], multi_label=True, random=np.random.default_rng(6))
    return folder
