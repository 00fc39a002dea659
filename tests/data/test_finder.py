"""The file that a name stands for; each row has its own folder, so that the expected file can be read off."""

import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest

from clearsight.training.data.converters import ConversionRequest
from clearsight.training.data.converters.entries import ConversionNotes
from clearsight.training.data.converters.finder import ImageFinder, KnownImages
from clearsight.training.data.converters.objects import BadAnnotation

CheckRows = Callable[..., None]

NFC, NFD = (unicodedata.normalize(form, "B\u00fcchse") for form in ("NFC", "NFD"))


def test_the_finder_knows_what_systems_and_tools_make_of_names(tmp_path: Path, check_rows: CheckRows) -> None:
    def check(number: int, files: str, name: str, expected: str | None) -> None:
        folder = tmp_path / str(number)
        for file in files.split():
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            (folder / file).touch()
        finder = ImageFinder([folder], ConversionNotes(ConversionRequest(folder)))
        for _ in range(2):  # from the disk, then from what is remembered
            if expected is None:
                with pytest.raises(BadAnnotation, match="is in none of"):
                    finder.find(name)
            elif " " in expected:
                with pytest.raises(BadAnnotation, match="match equally well") as caught:
                    finder.find(name)
                assert all(str(folder / file) in str(caught.value) for file in expected.split())
            else:
                assert finder.find(name) == folder / expected

    rows: list[tuple[str, str, str | None]] = [
        ("1.jpg", "2.jpg", None),
        ("1.jpg", "1.jpg", "1.jpg"),
        ("1.JPG", "1.jpg", "1.JPG"),
        ("A.jpg", "a.JPG", "A.jpg"),
        ("a.jpg A.JPG", "a.jpg", "a.jpg"),
        ("a.jpg a.JPG", "A.jpg", "a.jpg a.JPG"),
        (f"{NFC}.jpg", f"{NFD}.jpg", f"{NFC}.jpg"),
        (f"{NFD}.jpg", f"{NFC}.jpg", f"{NFD}.jpg"),
        (f"{NFD}.JPG", f"{NFC}.jpg", f"{NFD}.JPG"),
        ("1.png", "1.jpg", "1.png"),
        ("1.PNG", "1.jpg", "1.PNG"),
        ("1.png 1.webp", "1.jpg", "1.png 1.webp"),
        ("1.txt 1.xml", "1.jpg", None),
        ("1.png", "1", "1.png"),
        ("a.0001.jpg a.jpg", "a.0001", "a.0001.jpg"),
        ("a.jpg", "a.0001", None),
        ("train/1.jpg test/1.jpg", "test/1.jpg", "test/1.jpg"),
        ("train/1.jpg 1.jpg", "train/1.jpg", "train/1.jpg"),
        ("train/1.JPG 1.jpg", "train/1.jpg", "train/1.JPG"),
        ("Train/1.jpg 1.jpg", "train/1.jpg", "Train/1.jpg"),
        ("1.jpg", "train/1.jpg", "1.jpg"),
        ("train/1.png 1.jpg", "train/1.jpg", "1.jpg"),
        ("train/1.jpg 1.jpg", "/home/me/data/train/1.jpg", "train/1.jpg"),
        ("train/1.jpg 1.jpg", "C:\\data\\train\\1.jpg", "train/1.jpg"),
        ("train/1.jpg", "train\\1.jpg", "train/1.jpg"),
        ("train/1.jpg", "./train//1.jpg", "train/1.jpg"),
        ("a/1.jpg", "a/../a/1.jpg", "a/../a/1.jpg"),
        ("1.jpg", "https://example.org/a/1.jpg?sv=2020&sig=a%2Fb", "1.jpg"),
        ("1.JPG", "1.jpg#t=1", "1.JPG"),
        ("a?b.jpg", "a?b.jpg", "a?b.jpg"),
        ("a.jpg", "a#1.jpg", None),
        ("a.jpg", "a?id=1", None),
        ("a+1.jpg", "https://example.org/a%2B1.jpg", "a+1.jpg"),
        (f"{NFC}.jpg", "B%C3%BCchse.jpg", f"{NFC}.jpg"),
        ("100%25.jpg 100%.jpg", "100%25.jpg", "100%25.jpg"),
        ("1.jpg", "x" * 300 + ".jpg", None),
        ("1.jpg", "\0.jpg", None),
        ("1.jpg/2.jpg", "1.jpg", None),
    ]
    check_rows(check, [(number, *row) for number, row in enumerate(rows)])


def test_a_list_names_images_by_the_same_rules(check_rows: CheckRows) -> None:
    images = [
        Path("d") / name for name in ("a/1.jpg", "b/1.jpg", f"a/{NFC}.jpg", "a/x.0001.JPG", "A.png", "a.jpg", "a.JPG")
    ]
    known = KnownImages(images)

    def check(name: str, *expected: str) -> None:
        assert [images[index].relative_to("d").as_posix() for index in known.find(name)] == list(expected)

    check_rows(
        check,
        [
            ("",),
            ("2.jpg",),
            ("1", "a/1.jpg", "b/1.jpg"),
            ("1.jpg", "a/1.jpg", "b/1.jpg"),
            ("b/1.jpg", "b/1.jpg"),
            ("./B/1.JPG", "b/1.jpg"),
            ("/home/me/d/a/1.jpg", "a/1.jpg"),
            ("a\\1.png", "a/1.jpg"),
            (f"{NFD}.JPG", f"a/{NFC}.jpg"),
            (NFD, f"a/{NFC}.jpg"),
            ("x.0001", "a/x.0001.JPG"),
            ("x",),
            ("a.jpg", "a.jpg"),
            ("a.JPG?sv=1", "a.JPG"),
            ("a.png", "A.png"),
            ("a.tif", "A.png", "a.jpg", "a.JPG"),
        ],
    )


def test_an_earlier_folder_and_an_earlier_name_go_first(tmp_path: Path) -> None:
    for file in ("a/1.png", "b/1.jpg", "b/2.jpg", "a/2.JPG", "a/3.jpg", "b/3.jpg"):
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).touch()
    notes = ConversionNotes(ConversionRequest(tmp_path))
    finder = ImageFinder([tmp_path / "a", tmp_path / "b", tmp_path / "none"], notes)
    assert finder.find("1.jpg") == tmp_path / "b" / "1.jpg"
    assert finder.find("2.jpg") == tmp_path / "b" / "2.jpg"
    assert finder.find("3.jpg") == tmp_path / "a" / "3.jpg"
    assert finder.find("3.gif", "1.jpg") == tmp_path / "b" / "1.jpg"
    assert finder.find(str(tmp_path / "a" / "1.png")) == tmp_path / "a" / "1.png"
    with pytest.raises(BadAnnotation, match=r"the picture '4.jpg' is in none of .*a, .*b, .*none"):
        finder.find("4.jpg", "5.jpg")
    assert notes.named_images == {tmp_path / name for name in ("a/1.png", "a/3.jpg", "b/1.jpg", "b/2.jpg")}
