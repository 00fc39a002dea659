"""The contract of every layout, on sources whose pixels and labels are known by hand."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from PIL import Image

from clearsight.tasks import Task
from clearsight.testing.converters import ConverterContract
from clearsight.training.data.converters import LAYOUTS

WriteImage = Callable[..., Path]


def test_every_layout_keeps_the_contract() -> None:
    assert {kind.layout for kind in ConverterContract.__subclasses__()} == set(LAYOUTS)


class TestClassFolders(ConverterContract):
    layout = "folders"
    task = Task.MULTI_CLASS

    @pytest.fixture
    def source(self, tmp_path: Path, write_image: WriteImage) -> Path:
        for name in ("good/tin/b.jpg", "good/can/2.PNG", "good/can/10.jpg"):
            write_image(name)
        return tmp_path / "data" / "good"

    @pytest.fixture
    def expected(self) -> list[tuple[str, Any]]:
        return [("10.jpg", "can"), ("2.PNG", "can"), ("b.jpg", "tin")]

    @pytest.fixture
    def faulty(self, tmp_path: Path) -> tuple[Path, str]:
        """A file instead of the folder of classes: the layout has no other annotation."""
        file = tmp_path / "classes.txt"
        file.touch()
        return file, ""

    @pytest.fixture
    def rest(self) -> list[str]:
        return []

    @pytest.fixture
    def empty(self, tmp_path: Path) -> Path:
        (tmp_path / "empty" / "can").mkdir(parents=True)
        return tmp_path / "empty"


class TestCsv(ConverterContract):
    layout = "csv"
    task = Task.MULTI_LABEL

    @pytest.fixture
    def source(self, tmp_path: Path, write_image: WriteImage) -> Path:
        for name in ("1.jpg", "2.jpg", "3.jpg"):
            write_image(name)
        return self._write(tmp_path, "good.csv", "image,labels\n2.jpg,tin can\n1.jpg,\n3.jpg,can\n")

    @pytest.fixture
    def expected(self) -> list[tuple[str, Any]]:
        return [("2.jpg", ["tin", "can"]), ("1.jpg", []), ("3.jpg", ["can"])]

    @pytest.fixture
    def faulty(self, tmp_path: Path, write_image: WriteImage) -> tuple[Path, str]:
        write_image("1.jpg")
        return self._write(tmp_path, "faulty.csv", "image,labels\n1.jpg,can\nnone.jpg,can\n"), ":3"

    @pytest.fixture
    def rest(self) -> list[str]:
        return ["1.jpg"]

    @pytest.fixture
    def empty(self, tmp_path: Path) -> Path:
        return self._write(tmp_path, "empty.csv", "image,labels\n")

    def _write(self, tmp_path: Path, name: str, text: str) -> Path:
        (tmp_path / "data").mkdir(exist_ok=True)
        (tmp_path / "data" / name).write_text(text)
        return tmp_path / "data" / name


BOXES: list[tuple[str, Any]] = [
    ("1.jpg", [("can", [0.1, 0.1, 0.3, 0.7]), ("tin", [0.0, 0.0, 1.0, 1.0])]),
    ("2.jpg", []),
]


class TestCsvMarks(TestCsv):
    """A column of 0 and 1 for each class."""

    @pytest.fixture
    def source(self, tmp_path: Path, write_image: WriteImage) -> Path:
        for name in ("1.jpg", "2.jpg", "3.jpg"):
            write_image(name)
        return self._write(tmp_path, "good.csv", "filename, can, tin\n2.jpg, 1, 1\n1.jpg, 0, 0\n3.jpg, 0, 1\n")

    @pytest.fixture
    def expected(self) -> list[tuple[str, Any]]:
        return [("2.jpg", ["can", "tin"]), ("1.jpg", []), ("3.jpg", ["tin"])]

    @pytest.fixture
    def faulty(self, tmp_path: Path, write_image: WriteImage) -> tuple[Path, str]:
        write_image("1.jpg")
        write_image("2.jpg")
        return self._write(tmp_path, "faulty.csv", "filename,can,tin\n1.jpg,1,1\n2.jpg,1,2\n"), ":3"


class TestCsvBoxes(TestCsv):
    task = Task.DETECTION

    @pytest.fixture
    def source(self, tmp_path: Path, write_image: WriteImage) -> Path:
        write_image("1.jpg", (100, 50))
        write_image("2.jpg", (100, 50))
        rows = "1.jpg,100,50,can,10,5,30,35\n2.jpg,100,50,,,,,\n1.jpg,100,50,tin,0,0,100,50\n"
        return self._write(tmp_path, "good.csv", "filename,width,height,class,xmin,ymin,xmax,ymax\n" + rows)

    @pytest.fixture
    def expected(self) -> list[tuple[str, Any]]:
        return BOXES

    @pytest.fixture
    def faulty(self, tmp_path: Path, write_image: WriteImage) -> tuple[Path, str]:
        write_image("1.jpg", (100, 50))
        write_image("2.jpg", (100, 50))
        rows = "1.jpg,1,1,9,9,a\n2.jpg,1,1,9,9,a\n2.jpg,1,x,9,9,a\n"
        return self._write(tmp_path, "faulty.csv", f"image,x1,y1,x2,y2,label\n{rows}"), ":4"

    @pytest.fixture
    def outside(self, tmp_path: Path, write_image: WriteImage) -> Path:
        write_image("1.jpg", (100, 50))
        rows = "1.jpg,50,25,130,60,a\n1.jpg,110,0,130,9,a\n"
        return self._write(tmp_path, "outside.csv", f"image,x1,y1,x2,y2,label\n{rows}")

    @pytest.fixture
    def lossy(self, tmp_path: Path, write_image: WriteImage) -> Path | None:
        write_image("1.jpg", (100, 50))
        return self._write(tmp_path, "lossy.csv", "image,x1,y1,x2,y2,label\n1.jpg,1,1,9,9,a\n1.jpg,5,1,5,9,a\n")


class TestVoc(ConverterContract):
    layout = "voc"
    task = Task.DETECTION

    @pytest.fixture
    def write(self, tmp_path: Path, write_image: WriteImage) -> Callable[..., Path]:
        """Writes a source of images of 100 x 50; keywords give the boxes of each file, which count from 1."""

        def write(folder: str, **boxes: list[tuple[str, str]]) -> Path:
            source = tmp_path / "data" / folder
            (source / "Annotations").mkdir(parents=True)
            for name, objects in boxes.items():
                write_image(f"{folder}/JPEGImages/{name[1:]}.jpg", (100, 50))
                sides = ("xmin", "ymin", "xmax", "ymax")
                text = "".join(
                    f"<object><name>{label}</name><bndbox>"
                    + "".join(f"<{side}>{value}</{side}>" for side, value in zip(sides, box.split(), strict=True))
                    + "</bndbox></object>"
                    for label, box in objects
                )
                (source / "Annotations" / f"{name[1:]}.xml").write_text(f"<annotation>{text}</annotation>")
            return source

        return write

    @pytest.fixture
    def source(self, write: Callable[..., Path]) -> Path:
        return write("good", _2=[], _1=[("can", "11 6 30 35"), ("tin", "1 1 100 50")])

    @pytest.fixture
    def expected(self) -> list[tuple[str, Any]]:
        return BOXES

    @pytest.fixture
    def faulty(self, write: Callable[..., Path]) -> tuple[Path, str]:
        return write("faulty", _1=[("can", "1 1 9 9"), ("can", "a 1 9 9")], _2=[]), "/Annotations/1.xml: object 2"

    @pytest.fixture
    def rest(self) -> list[str]:
        return ["2.jpg"]

    @pytest.fixture
    def outside(self, write: Callable[..., Path]) -> Path:
        return write("outside", _1=[("can", "51 26 130 60"), ("can", "111 1 130 9")])

    @pytest.fixture
    def empty(self, write: Callable[..., Path]) -> Path:
        return write("empty")

    @pytest.fixture
    def lossy(self, write: Callable[..., Path]) -> Path:
        return write("lossy", _1=[("can", "5 9 9 5"), ("can", "1 1 9 9")])


class TestYoloBoxes(ConverterContract):
    layout = "yolo"
    task = Task.DETECTION

    @pytest.fixture
    def write(self, tmp_path: Path, write_image: WriteImage) -> Callable[..., Path]:
        """Writes a source of images of 100 x 50; keywords give the lines of each label file."""

        def write(folder: str, **lines: str) -> Path:
            source = tmp_path / "data" / folder
            (source / "labels").mkdir(parents=True)
            (source / "classes.txt").write_text("can\ntin\n")
            for name, text in lines.items():
                write_image(f"{folder}/images/{name[1:]}.jpg", (100, 50))
                (source / "labels" / f"{name[1:]}.txt").write_text(text)
            return source

        return write

    @pytest.fixture
    def source(self, write: Callable[..., Path]) -> Path:
        return write("good", _2="", _1="0 0.2 0.4 0.2 0.6\n1 .5 .5 1 1\n")

    @pytest.fixture
    def expected(self) -> list[tuple[str, Any]]:
        return BOXES

    @pytest.fixture
    def faulty(self, write: Callable[..., Path]) -> tuple[Path, str]:
        return write("faulty", _1="0 0.2 0.4 0.2 0.6\n\n0 0.2 0.4 0.2\n", _2=""), "/labels/1.txt:3"

    @pytest.fixture
    def rest(self) -> list[str]:
        return ["2.jpg"]

    @pytest.fixture
    def outside(self, write: Callable[..., Path]) -> Path:
        return write("outside", _1="0 .9 .4 .4 .6\n0 1.3 .4 .2 .6\n")

    @pytest.fixture
    def empty(self, write: Callable[..., Path]) -> Path:
        return write("empty")

    @pytest.fixture
    def lossy(self, write: Callable[..., Path]) -> Path | None:
        return write("lossy", _1="0 .2 .4 0 .6\n0 .2 .4 .2 .6\n")


class TestYoloPolygons(TestYoloBoxes):
    task = Task.SEGMENTATION

    @pytest.fixture
    def source(self, write: Callable[..., Path]) -> Path:
        return write("good", _1="1 .1 .1 .3 .1 .3 .5 .1 .5\n", _2="")

    @pytest.fixture
    def expected(self) -> list[tuple[str, Any]]:
        return [("1.jpg", [("tin", OUTLINE)]), ("2.jpg", [])]

    @pytest.fixture
    def outside(self, write: Callable[..., Path]) -> Path:
        return write("outside", _1="0 .5 .5 1.5 .5 1.5 1.5\n0 1.1 .5 1.5 .5 1.5 .9\n")

    @pytest.fixture
    def lossy(self) -> None:
        """A line of fewer than three corners is a fault."""
        return


SQUARE = [10, 5, 30, 5, 30, 25, 10, 25]
OUTLINE = [0.1, 0.1, 0.3, 0.1, 0.3, 0.5, 0.1, 0.5]


class TestCocoBoxes(ConverterContract):
    layout = "coco"
    task = Task.DETECTION

    @pytest.fixture
    def write(self, tmp_path: Path, write_image: WriteImage) -> Callable[..., Path]:
        """Writes a file with two images of 100 x 50 and the annotations of the first one."""

        def write(name: str, *annotations: dict[str, object], num_images: int = 2) -> Path:
            images = [{"id": number, "file_name": f"{number}.jpg"} for number in range(1, num_images + 1)]
            for image in images:
                write_image(str(image["file_name"]), (100, 50))
            document = {
                "images": images,
                "categories": [{"id": 3, "name": "can"}, {"id": 4, "name": "tin"}],
                "annotations": [
                    {"id": 10 + index, "image_id": 1, "category_id": 3, **annotation}
                    for index, annotation in enumerate(annotations)
                ],
            }
            (tmp_path / "data").mkdir(exist_ok=True)
            (tmp_path / "data" / name).write_text(json.dumps(document))
            return tmp_path / "data" / name

        return write

    @pytest.fixture
    def source(self, write: Callable[..., Path]) -> Path:
        return write("good.json", {"bbox": [10, 5, 20, 30]}, {"bbox": [0, 0, 100, 50], "category_id": 4})

    @pytest.fixture
    def expected(self) -> list[tuple[str, Any]]:
        return BOXES

    @pytest.fixture
    def faulty(self, write: Callable[..., Path]) -> tuple[Path, str]:
        return write("faulty.json", {"bbox": [10, 5, 20, 30]}, {"bbox": [1, 2, 3]}), ": annotation 11"

    @pytest.fixture
    def rest(self) -> list[str]:
        return ["2.jpg"]

    @pytest.fixture
    def outside(self, write: Callable[..., Path]) -> Path:
        return write("outside.json", {"bbox": [90, 5, 20, 30]}, {"bbox": [110, 5, 20, 30]})

    @pytest.fixture
    def empty(self, write: Callable[..., Path]) -> Path:
        return write("empty.json", num_images=0)

    @pytest.fixture
    def lossy(self, write: Callable[..., Path]) -> Path:
        return write("lossy.json", {"bbox": [10, 5, 20, 30]}, {"bbox": [10, 5, 0, 30]})


class TestCocoPolygons(TestCocoBoxes):
    task = Task.SEGMENTATION

    @pytest.fixture
    def source(self, write: Callable[..., Path]) -> Path:
        return write("good.json", {"segmentation": [SQUARE], "category_id": 4})

    @pytest.fixture
    def expected(self) -> list[tuple[str, Any]]:
        return [("1.jpg", [("tin", OUTLINE)]), ("2.jpg", [])]

    @pytest.fixture
    def faulty(self, write: Callable[..., Path]) -> tuple[Path, str]:
        return write("faulty.json", {"segmentation": [SQUARE]}, {"segmentation": [["a"]]}), ": annotation 11"

    @pytest.fixture
    def outside(self, write: Callable[..., Path]) -> Path:
        outlines = [50, 25, 150, 25, 150, 75], [110, 25, 150, 25, 150, 45]
        return write("outside.json", *({"segmentation": [outline]} for outline in outlines))

    @pytest.fixture
    def lossy(self, write: Callable[..., Path]) -> Path:
        return write("lossy.json", {"segmentation": [SQUARE, [1, 2, 3, 4]]})


Drawn = list[tuple[str, list[Any]]]
"""Class, and left, top, right and bottom in pixels, of the objects on an image of 100 x 50."""


class DrawnBoxes:
    """Sources of a layout that a labelling tool writes: subclasses write one, with boxes on images named 1, 2, …"""

    task = Task.DETECTION
    location: ClassVar[str]
    """End of the location of the second object on image 1."""

    def write(self, folder: Path, images: dict[str, Drawn]) -> Path:
        raise NotImplementedError

    @pytest.fixture
    def make(self, tmp_path: Path, write_image: WriteImage) -> Callable[..., Path]:
        def make(name: str, images: dict[str, Drawn]) -> Path:
            for number in images:
                write_image(f"{name}/{number}.jpg", (100, 50))
            (tmp_path / "data" / name).mkdir(parents=True, exist_ok=True)
            return self.write(tmp_path / "data" / name, images)

        return make

    @pytest.fixture
    def source(self, make: Callable[..., Path]) -> Path:
        return make("good", {"1": [("can", [10, 5, 30, 35]), ("tin", [0, 0, 100, 50])], "2": []})

    @pytest.fixture
    def expected(self) -> list[tuple[str, Any]]:
        return BOXES

    @pytest.fixture
    def faulty(self, make: Callable[..., Path]) -> tuple[Path, str]:
        return make("faulty", {"1": [("can", [1, 1, 9, 9]), ("", [1, 1, 9, 9])], "2": []}), self.location

    @pytest.fixture
    def rest(self) -> list[str]:
        return ["2.jpg"]

    @pytest.fixture
    def outside(self, make: Callable[..., Path]) -> Path:
        return make("outside", {"1": [("can", [50, 25, 130, 60]), ("can", [110, 0, 130, 9])]})

    @pytest.fixture
    def empty(self, make: Callable[..., Path]) -> Path:
        return make("empty", {})

    @pytest.fixture
    def lossy(self, make: Callable[..., Path]) -> Path:
        return make("lossy", {"1": [("can", [10, 5, 10, 35]), ("can", [1, 1, 9, 9])]})


class TestLabelMe(DrawnBoxes, ConverterContract):
    layout = "labelme"
    location = "/1.json: shape 2"

    def write(self, folder: Path, images: dict[str, Drawn]) -> Path:
        for number, objects in images.items():
            shapes = [
                {"label": label, "points": [[right, top], [left, bottom]], "shape_type": "rectangle"}
                for label, (left, top, right, bottom) in objects
            ]
            document = {"shapes": shapes, "imagePath": f"{number}.jpg", "imageWidth": 100, "imageHeight": 50}
            (folder / f"{number}.json").write_text(json.dumps(document))
        return folder


class TestLabelStudio(DrawnBoxes, ConverterContract):
    layout = "labelstudio"
    location = ": task 1: result 2"

    def write(self, folder: Path, images: dict[str, Drawn]) -> Path:
        def result(label: str, box: list[Any]) -> dict[str, Any]:
            left, top, right, bottom = box
            sides = {"x": left, "y": 2 * top, "width": right - left, "height": 2 * (bottom - top), "rotation": 0}
            value = sides | {"rectanglelabels": [label]}
            return {"type": "rectanglelabels", "value": value, "original_width": 100, "original_height": 50}

        tasks = [
            {
                "id": int(number),
                "data": {"image": f"/data/upload/7/0a1b2c3d-{number}.jpg"},
                "annotations": [{"result": [result(*item) for item in objects]}],
            }
            for number, objects in images.items()
        ]
        (folder / "export.json").write_text(json.dumps(tasks))
        return folder / "export.json"


class TestCvat(DrawnBoxes, ConverterContract):
    layout = "cvat"
    location = ": image 1.jpg: object 2"

    def write(self, folder: Path, images: dict[str, Drawn]) -> Path:
        text = "".join(
            f'<image id="{number}" name="{number}.jpg" width="100" height="50">'
            + "".join(
                f'<box label="{label}" occluded="1" xtl="{left}" ytl="{top}" xbr="{right}" ybr="{bottom}"/>'
                for label, (left, top, right, bottom) in objects
            )
            + "</image>"
            for number, objects in images.items()
        )
        (folder / "annotations.xml").write_text(f"<annotations><version>1.1</version>{text}</annotations>")
        return folder / "annotations.xml"


class TestCustomVision(DrawnBoxes, ConverterContract):
    layout = "customvision"
    location = ": item 2"

    def write(self, folder: Path, images: dict[str, Drawn]) -> Path:
        items: list[dict[str, Any]] = []
        for number, objects in images.items():
            name = {"file": f"{number}.jpg"}
            items += [
                name
                | {"tag": label, "left": left / 100, "top": top / 50}
                | {"width": (right - left) / 100, "height": (bottom - top) / 50}
                for label, (left, top, right, bottom) in objects
            ] or [name]
        (folder / "regions.json").write_text(json.dumps(items))
        return folder / "regions.json"


class TestVott(DrawnBoxes, ConverterContract):
    layout = "vott"
    location = ": asset 1.jpg: region 2"

    def write(self, folder: Path, images: dict[str, Drawn]) -> Path:
        def region(label: str, box: list[Any]) -> dict[str, Any]:
            left, top, right, bottom = box
            sides = {"left": left, "top": top, "width": right - left, "height": bottom - top}
            return {"type": "RECTANGLE", "tags": [label], "boundingBox": sides}

        assets = {
            f"a{number}": {
                "asset": {"name": f"{number}.jpg", "size": {"width": 100, "height": 50}, "state": 2 if objects else 1},
                "regions": [region(*item) for item in objects],
            }
            for number, objects in images.items()
        }
        (folder / "fridge-export.json").write_text(json.dumps({"name": "fridge", "assets": assets}))
        return folder / "fridge-export.json"


class TestMasks(ConverterContract):
    layout = "masks"
    task = Task.SEGMENTATION
    label = "cell"

    @pytest.fixture
    def write(self, tmp_path: Path, write_image: WriteImage) -> Callable[..., Path]:
        """Writes a source with a mask of objects 2 and 9 for the first of two images of 100 x 50."""

        def write(folder: str, height: int = 50, with_hole: bool = False) -> Path:
            ids_HW = np.zeros((height, 100), np.uint8)
            ids_HW[5:25, 10:30] = 2
            ids_HW[25:, 50:] = 9
            if with_hole:
                ids_HW[10:12, 15:17] = 0
            source = tmp_path / "data" / folder
            (source / "masks").mkdir(parents=True)
            Image.fromarray(ids_HW).save(source / "masks" / "1.png")
            ids_HW[:25] = 0
            Image.fromarray(ids_HW[:50]).save(source / "masks" / "2.png")
            for name in ("1.jpg", "2.JPG"):
                write_image(f"{folder}/images/{name}", (100, 50))
            return source

        return write

    @pytest.fixture
    def source(self, write: Callable[..., Path]) -> Path:
        return write("good")

    @pytest.fixture
    def expected(self) -> list[tuple[str, Any]]:
        quarter = [0.5, 0.5, 1.0, 0.5, 1.0, 1.0, 0.5, 1.0]
        return [("1.jpg", [("cell", OUTLINE), ("cell", quarter)]), ("2.JPG", [("cell", quarter)])]

    @pytest.fixture
    def faulty(self, write: Callable[..., Path]) -> tuple[Path, str]:
        return write("faulty", height=60), "/masks/1.png"

    @pytest.fixture
    def rest(self) -> list[str]:
        return ["2.JPG"]

    @pytest.fixture
    def empty(self, tmp_path: Path) -> Path:
        (tmp_path / "empty").mkdir()
        return tmp_path / "empty"

    @pytest.fixture
    def lossy(self, write: Callable[..., Path]) -> Path:
        return write("lossy", with_hole=True)
