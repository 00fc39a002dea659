"""CSV lists with boxes, outlines or a column for each class, recognised by their headers."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from clearsight.errors import InvalidData
from clearsight.tasks import Task
from clearsight.training.data.converters import ConversionRequest
from clearsight.training.data.converters.csv_list import read_csv

CheckRows = Callable[..., None]

DESCRIPTIONS = "/m/0138tl,Toy\n/m/011k07,Tortoise\n"
OPEN_IMAGES = "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded,IsTruncated,IsGroupOf,IsDepiction\n"


@pytest.fixture
def read(tmp_path: Path, write_image: Callable[..., Path]) -> Callable[..., list[Any]]:
    """Reads a table about the images 1.jpg and 2.jpg, both of 100 x 50: image, part, and classes or objects of each.

    An object is its class, and a box or polygons in hundredths of the image; a crowd has `*` behind its class.
    """
    for name in ("1.jpg", "2.jpg"):
        write_image(name, (100, 50))
    (tmp_path / "data" / "class-descriptions-boxable.csv").write_text(DESCRIPTIONS)

    def shown(item: Any) -> Any:
        if isinstance(item, str):
            return item
        sides = [item[key] for key in ("topX", "topY", "bottomX", "bottomY") if key in item]
        numbers = [sides] if sides else item["polygon"]
        return item["label"] + "*" * item["isCrowd"], *([round(100 * value) for value in ring] for ring in numbers)

    def run(text: str, task: Task | None = None) -> list[Any]:
        source = tmp_path / "data" / "table.csv"
        source.write_text(text)
        entries = read_csv(ConversionRequest(source, task)).entries
        labels = [json.loads(entry.label) if isinstance(entry.label, bytes) else entry.label for entry in entries]
        return [
            (entry.image.name, entry.part, label if isinstance(label, str) else [shown(item) for item in label])
            for entry, label in zip(entries, labels, strict=True)
        ]

    return run


def test_tables_are_recognised_by_their_headers(read: Callable[..., list[Any]], check_rows: CheckRows) -> None:
    box, two = ("can", [10, 20, 30, 60]), [("1.jpg", None, [("can", [10, 20, 30, 60])]), ("2.jpg", None, [])]
    whole = ("can", [0, 0, 100, 100])
    rows: list[tuple[str, Any]] = [
        # https://github.com/tensorflow/models, research/object_detection: lists made from VOC files
        ("filename,width,height,class,xmin,ymin,xmax,ymax\n1.jpg,100,50,can,10,10,30,30\n", two[:1]),
        ("filename,width,height,class,xmin,ymin,xmax,ymax\n1.jpg,200,100,can,20,20,60,60\n", two[:1]),  # a scaled image
        # https://github.com/fizyr/keras-retinanet#csv-datasets: no header, an image without objects has empty cells
        ("1.jpg,10,10,30,30,can\n2.jpg,,,,,\n", two),
        ("2.jpg,,,,,\n1.jpg,10,10,30,30,can\n", two[::-1]),
        # DeepForest: the columns in another order
        (
            "image_path,xmin,xmax,ymin,ymax,label\n1.jpg,10,30,10,30,can\n1.jpg,0,100,0,50,can\n",
            [("1.jpg", None, [box, whole])],
        ),
        ("Image Path;X_Min;Y_Min;X_Max;Y_Max;Label\n1.jpg;10;10;30;30;can\n", two[:1]),
        ("image\tx1\ty1\tx2\ty2\tlabel\n1.jpg\t.1\t.2\t.3\t.6\tcan\n2.jpg\t\t\t\t\t\n", two),
        ("image,x1,y1,x2,y2,label,iscrowd\n1.jpg,10,10,30,30,can,1\n", [("1.jpg", None, [("can*", [10, 20, 30, 60])])]),
        (
            "image,label,score,geometry\n"
            '1.jpg,can,0.5,"POLYGON ((10 10, 30 10, 30 30, 10 10))"\n'
            '2.jpg,can,0.5,"MULTIPOLYGON (((0 0, 100 0, 0 50, 0 0)), ((50 25, 60 25, 60 50, 50 25)))"\n',
            [
                ("1.jpg", None, [("can", [10, 20, 30, 20, 30, 60])]),
                ("2.jpg", None, [("can", [0, 0, 100, 0, 0, 100], [50, 50, 60, 50, 60, 100])]),
            ],
        ),
        # https://storage.googleapis.com/openimages/web/download_v7.html
        (
            OPEN_IMAGES + "1,xclick,/m/011k07,1,0.1,0.3,0.2,0.6,0,0,1,0\n2,xclick,/m/0138tl,1,0,1,0,1,1,0,0,0\n",
            [("1.jpg", None, [("Tortoise*", [10, 20, 30, 60])]), ("2.jpg", None, [("Toy", [0, 0, 100, 100])])],
        ),
        (
            "ImageID,Source,LabelName,Confidence\n1,verification,/m/011k07,1\n1,verification,/m/0138tl,0\n2,v,/m/0138tl,0\n",
            [("1.jpg", None, ["Tortoise"]), ("2.jpg", None, [])],
        ),
        # Marks of classes, as Roboflow and Kaggle have them
        (
            "filename, can, milk bottle\n1.jpg, 1, 1\n2.jpg, 0, 0\n",
            [("1.jpg", None, ["can", "milk bottle"]), ("2.jpg", None, [])],
        ),
        (",filename,can,tin\n0,1.jpg,0.0,1.0\n", [("1.jpg", None, ["tin"])]),
        # A column of parts, if every row has one
        (
            "image,label,split\n1.jpg,a,TRAIN\n2.jpg,b,Validation\n",
            [("1.jpg", "training", "a"), ("2.jpg", "validation", "b")],
        ),
        ("image,label,split\n1.jpg,a,train\n2.jpg,b,test\n", [("1.jpg", "training", "a")]),
        ("image,label,split\n1.jpg,a,train\n2.jpg,b,3\n", [("1.jpg", None, "a"), ("2.jpg", None, "b")]),
        # Classes that look like numbers, and an image without a label
        ("image;label\n1.jpg;0\n2.jpg;no\n", [("1.jpg", None, "0"), ("2.jpg", None, "no")]),
        ("image,labels,note\n1.jpg,,x\n2.jpg,a b,y\n", [("1.jpg", None, []), ("2.jpg", None, ["a", "b"])]),
    ]

    def check(text: str, expected: Any) -> None:
        assert read(text) == expected

    check_rows(check, rows)
    text = "image,x1,y1,x2,y2,label\n1.jpg,10,10,30,30,can\n1.jpg,0,0,9,9,tin\n"
    assert read(text, Task.MULTI_LABEL) == [("1.jpg", None, ["can", "tin"])]
    assert read("image,can,tin\n1.jpg,0,1\n", Task.MULTI_CLASS) == [("1.jpg", None, "tin")]


def test_faulty_tables_are_named(read: Callable[..., list[Any]], check_rows: CheckRows) -> None:
    rows: list[tuple[str, Task | None, str]] = [
        ("", None, "table.csv:1: the header must name a column 'image' or 'filename', but got nothing"),
        ("image,kind\n1.jpg,a\n", None, ":1: the header must name a column 'labels' or 'label', but got image, kind"),
        ("image,x1,y1,x2,y2\n1.jpg,1,1,9,9\n", None, ":1: the header must name a column 'label' or 'class'"),
        ("image,label\n1.jpg,a\n", Task.DETECTION, ":1: the header must name xmin, ymin, xmax and ymax"),
        ("image,label\n1.jpg,a,b\n", None, ":2: must have 2 cells, as the header has, but 'b' come after them"),
        ("image,label\n,a\n", None, ":2: must name a picture, but the cell is empty"),
        ("image,label\n1.jpg\n", None, ":2: must name a label, but 'label' is empty"),
        (
            "image,can,tin\n1.jpg,0,1\n2.jpg,0,\n",
            None,
            ":3: column 'tin' must hold 0 or 1, as in the first row, but got ''",
        ),
        (
            "image,can,tin\n1.jpg,1,1\n",
            Task.MULTI_CLASS,
            ":2: multi-class takes one class per picture, but got can, tin",
        ),
        ("image,x1,y1,x2,y2,label\n1.jpg,1,1,9,9,\n", None, ":2: must name a class, but 'label' is empty"),
        ("image,x1,y1,x2,y2,label\n1.jpg,1,,9,9,a\n", None, ":2: y1 must be a number, but got ''"),
        ("image,x1,y1,x2,y2,label\n1.jpg,1,nan,9,9,a\n", None, ":2: y1 must be a number, but got 'nan'"),
        ("image,x1,y1,x2,y2,label\n3.jpg,1,1,9,9,a\n", None, ":2: the picture '3.jpg' is in none of"),
        ("image,x1,y1,x2,y2,label\n1.jpg,1,1,999,9,a\n", None, ":2: must lie inside the picture of 100x50"),
        (
            "image,width,height,x1,y1,x2,y2,label\n1.jpg,50,100,1,1,9,9,a\n",
            None,
            "the annotations are for 50x100 pixels",
        ),
        (
            "image,label,geometry\n1.jpg,a,POINT (1 1)\n",
            None,
            ":2: an outline must be POLYGON ((x y, …)), but got 'POINT",
        ),
        (
            OPEN_IMAGES + "1,x,/m/none,1,0,1,0,1,0,0,0,0\n",
            None,
            ":2: the class '/m/none' must be one of class-descriptions",
        ),
    ]

    def check(text: str, task: Task | None, message: str) -> None:
        with pytest.raises(InvalidData) as caught:
            read(text, task)
        [fault] = caught.value.faults
        assert message in f"{fault.target}: {fault.message}"

    check_rows(check, rows)


def test_columns_that_are_not_used_are_counted(tmp_path: Path, write_image: Callable[..., Path]) -> None:
    write_image("1.jpg")
    source = tmp_path / "data" / "table.csv"
    source.write_text("image,label,label2,\n1.jpg,a,b,\n")
    assert read_csv(ConversionRequest(source)).warnings == (f"column that is not used: 2 (first: {source}:1: label2)",)
