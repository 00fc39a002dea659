"""Class names that are likely mistakes."""

import json
import unicodedata
from collections.abc import Callable
from pathlib import Path

from click.testing import CliRunner

from clearsight.tasks import Task
from clearsight.training.cli_data import data
from clearsight.training.data.class_names import doubtful_names
from clearsight.training.data.converters import LAYOUTS, ConversionRequest, read_source

CheckRows = Callable[..., None]
NFD = unicodedata.normalize("NFD", "Käse")


def test_names_that_look_the_same_or_like_lists(check_rows: CheckRows) -> None:
    same, listed = "look the same", "look like lists"
    rows: list[tuple[list[str], list[str]]] = [
        ([], []),
        (["can", "carton", "milk bottle", "milk_bottle", "0", "R&D", "a/b", "-"], []),
        (["can", "Can"], [same]),
        (["can", "can "], [same]),
        (["milk bottle", "milk  bottle"], [same]),
        (["Käse", NFD], [same]),
        (["straße", "STRASSE"], [same]),  # one word in either case, by Unicode's full case folding
        (["can,carton"], [listed]),
        (["can,", "carton"], [listed]),
        (["can;carton", "can"], [listed]),
        (["can|carton"], [listed]),
        (["can carton", "can", "carton"], [listed]),
        (["can+carton", "can", "carton"], [listed]),
        (["milk bottle", "bottle"], []),
        (["can", "CAN", "can;can"], [same, listed]),
    ]

    def check(names: list[str], kinds: list[str]) -> None:
        sentences = doubtful_names(names)
        assert len(sentences) == len(kinds), sentences
        assert all(kind in sentence for kind, sentence in zip(kinds, sentences, strict=True)), sentences

    check_rows(check, rows)
    assert doubtful_names([NFD, "Käse", "b", "B"]) == [
        "classes that look the same and count as different: 2 (first: 'B', 'b')"
    ]
    assert "'Ka\\u0308se', 'Käse'" in doubtful_names([NFD, "Käse"])[0]


def test_labels_of_a_list_are_split_where_its_author_says(
    tmp_path: Path, write_image: Callable[..., Path], check_rows: CheckRows
) -> None:
    for name in ("1.jpg", "2.jpg", "3.jpg", "4.jpg"):
        write_image(name)
    source = tmp_path / "data" / "labels.csv"
    listed, together = "look like lists", "words that always follow one another"
    rows: list[tuple[str, str | None, list[list[str]], list[str]]] = [
        ('labels\n"can,carton"\ncan\n\n', None, [["can,carton"], ["can"]], [listed]),
        ('labels\n"can,carton"\ncan\n""\n', ",", [["can", "carton"], ["can"], []], []),
        ('labels\n"can, milk bottle"\ncan\n', ",", [["can", "milk bottle"], ["can"]], []),
        ('label\n"can; milk bottle;"\ncan\n', ";", [["can", "milk bottle"], ["can"]], []),
        ('labels\n"can, carton"\ncan\n', None, [["can,", "carton"], ["can"]], [together, listed]),
        ("labels\nmilk bottle\ncan\n", None, [["milk", "bottle"], ["can"]], [together]),
        ("labels\nmilk bottle\ncan milk bottle\n", None, [["milk", "bottle"], ["can", "milk", "bottle"]], [together]),
        ("labels\ncan tin\ntin can\ncan tin\n", None, [["can", "tin"], ["tin", "can"], ["can", "tin"]], []),
    ]

    def check(text: str, separator: str | None, labels: list[list[str]], warnings: list[str]) -> None:
        header, *cells = text.splitlines()
        lines = [f"{index}.jpg,{cell}" for index, cell in enumerate(cells, 1) if cell]
        source.write_text("\n".join([f"image,{header}", *lines]))
        converted = read_source(LAYOUTS["csv"], ConversionRequest(source, label_separator=separator))
        assert converted.task is Task.MULTI_LABEL
        assert [entry.label for entry in converted.entries] == labels
        said = [sentence for sentence in converted.warnings if "that no annotation names" not in sentence]
        assert len(said) == len(warnings), said
        assert all(part in sentence for part, sentence in zip(warnings, said, strict=True))

    check_rows(check, rows)
    flags = ("--label-separator", ",", "--output", str(tmp_path / "output"))
    source.write_text('image,labels\n1.jpg,"can, tin"\n2.jpg,"can,tin"\n')
    assert CliRunner().invoke(data, ["convert", "--from", "csv", str(source), *flags]).exit_code == 0
    for wrong in (("--from", "folders"), ("--from", "csv", "--task", "image_classification")):
        assert CliRunner().invoke(data, ["convert", *wrong, str(source), *flags]).exit_code == 2
    texts = [file.read_text() for file in (tmp_path / "output").glob("*/*.jsonl")]
    assert [json.loads(text)["label"] for text in texts] == [["can", "tin"]] * 2


def test_the_check_of_a_data_folder_says_so_too(
    write_folder: Callable[..., Path], write_image: Callable[..., Path]
) -> None:
    write_image("1.jpg")
    write_image("2.jpg")
    folder = write_folder([{"image_url": "1.jpg", "label": "can"}, {"image_url": "2.jpg", "label": "Can "}])
    args = ["check", str(folder), "--task", "image_classification", "-o", "json"]
    document = json.loads(CliRunner().invoke(data, args).stdout)
    assert document["warnings"] == ["classes that look the same and count as different: 1 (first: 'Can ', 'can')"]
