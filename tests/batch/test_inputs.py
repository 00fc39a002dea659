"""The inputs of batch jobs: what is listed, under which name, and what is read of it."""

import base64
import csv
import io
import json
import os
import stat
import tarfile
import threading
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from PIL import Image

from clearsight.errors import NotFound, UserError
from clearsight.runs.workspace import Workspace
from clearsight.serving.batch.entries import Entry, Listing
from clearsight.serving.batch.inputs.opening import Input, open_input
from clearsight.serving.batch.inputs.reader import EntryReader, Unreadable

CheckRows = Callable[..., None]


def png(value: int) -> bytes:
    """A PNG file, different for each value."""
    stream = io.BytesIO()
    Image.new("RGB", (2, 2), (value % 256, value // 256, 7)).save(stream, "PNG")
    return stream.getvalue()


IMAGES = {f"image_{n}": png(n) for n in range(12)}
PNG = IMAGES["image_0"]


@pytest.fixture
def reader() -> Iterator[EntryReader]:
    with EntryReader() as reader:
        yield reader


@pytest.fixture
def opened(tmp_path: Path, workspace: Workspace) -> Callable[..., Input]:
    """`open_input` relative to the test's folder."""

    def call(reference: str, **options: Any) -> Input:
        return open_input(reference, tmp_path, workspace, **options)

    return call


def write(folder: Path, *names: str, content: bytes = PNG) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def names(found: Input) -> list[str]:
    return [entry.name for entry in found.entries()]


def refusal(function: Callable[[], object]) -> str:
    with pytest.raises(UserError) as caught:
        function()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def code_of(reader: EntryReader, entry: Entry) -> str:
    """The code of the failure to read an entry; empty when it is read."""
    try:
        reader.read(entry)
    except Unreadable as error:
        return error.code if "\n" not in str(error) else "several lines"
    return ""


def test_folders_files_globs_and_lists(tmp_path: Path, opened: Callable[..., Input], check_rows: CheckRows) -> None:
    write(
        tmp_path / "in",
        *("b.JPG", "a.png", "a10.png", "A.gif", "sub/c.webp", "sub/a.png", "sub/deep/d.tiff", "z.jpg"),
        *(".hidden.png", ".cache/x.png", "Thumbs.db", "labels.txt", "labels.jsonl", "notes.pdf"),
    )
    (tmp_path / "list.lst").write_bytes(b"\xef\xbb\xbfin/b.JPG\r\n\n" + f"{tmp_path}/in/a.png\n".encode())
    (tmp_path / "in/list.txt").write_text("sub/c.webp\nfile:sub%2Fa.png\n../in/z.jpg\n../outside.png\nz.jpg")
    top = ["A.gif", "a.png", "a10.png", "b.JPG", "z.jpg"]
    below = ["sub/a.png", "sub/c.webp", "sub/deep/d.tiff"]
    outside = str(tmp_path / "outside.png").removeprefix("/")

    def check(reference: str, is_recursive: bool, expected: list[str]) -> None:
        assert names(opened(reference, is_recursive=is_recursive)) == expected

    check_rows(
        check,
        [
            ("in", False, top),
            ("in/", True, [*top[:4], *below, "z.jpg"]),
            (str(tmp_path / "in"), False, top),
            ((tmp_path / "in").as_uri(), False, top),
            ("in/a.png", False, ["a.png"]),
            ("in/*.png", False, ["a.png", "a10.png"]),
            ("in/[ab]*", False, ["a.png", "a10.png", "b.JPG"]),
            (f"{tmp_path}/in/?.png", True, ["a.png"]),
            ("*/sub/*.webp", False, ["in/sub/c.webp"]),
            ("in/**/*.png", False, ["a.png", "a10.png", "sub/a.png"]),
            ("in/**/d*", False, ["sub/deep/d.tiff"]),
            ("in/**", False, [*top[:4], *below, "z.jpg"]),
            ("list.lst", False, ["in/b.JPG", "in/a.png"]),
            ("in/list.txt", False, ["sub/c.webp", "sub/a.png", "z.jpg", outside, "z.jpg"]),
        ],
    )
    listed = opened("in")
    first, *_ = listed.entries()
    status = (tmp_path / "in/A.gif").stat()
    assert first == Entry("A.gif", str(tmp_path / "in/A.gif"), status.st_size, status.st_mtime_ns)
    assert listed.describe() == f"folder {tmp_path / 'in'}, its top level"
    list(listed.entries())
    assert listed.warnings == [
        "not scored: 3 hidden files and folders, or files of an operating system (first: '.cache')",
        "not scored: 3 files of the types .txt, .json, .jsonl (first: 'labels.jsonl')",
        "not scored: 1 files of other types (first: 'notes.pdf')",
        "not scored: 1 folders, since the search is not recursive (first: 'sub')",
    ]


def test_the_order_of_a_recursive_search_is_that_of_sorted_paths(tmp_path: Path, opened: Callable[..., Input]) -> None:
    write(tmp_path / "in", "a/x.png", "a.png", "a-b/x.png", "b/a/x.png", "b/a.png", "b.png", "ä.png", "B/q.png")
    expected = sorted(path.relative_to(tmp_path / "in") for path in (tmp_path / "in").rglob("*.png"))
    assert names(opened("in", is_recursive=True)) == [str(path) for path in expected]


def test_names_of_any_bytes_are_listed_kept_and_read(
    tmp_path: Path, opened: Callable[..., Input], reader: EntryReader
) -> None:
    strange = [b"line\nbreak.png", b"quote'\".png", b"\xff\xfe.png", b"back\\slash.png", b" space .png", b"100%.png"]
    folder = tmp_path / "in"
    folder.mkdir()
    for number, name in enumerate(strange):
        (folder / os.fsdecode(name)).write_bytes(png(number))
    (tmp_path / "list.txt").write_bytes(b"".join(b"in/" + name + b"\n" for name in strange if b"\n" not in name))
    listing = Listing(tmp_path)
    listing.write(opened("in").entries(), 4)
    found = {os.fsencode(entry.name): reader.read(entry) for entry in listing.read()}
    assert found == {name: png(number) for number, name in enumerate(strange)}
    listed = {os.fsencode(entry.name): reader.read(entry) for entry in opened("list.txt").entries()}
    assert listed == {b"in/" + name: png(number) for number, name in enumerate(strange) if b"\n" not in name}


def test_links_are_followed_once_and_without_circles(tmp_path: Path, opened: Callable[..., Input]) -> None:
    write(tmp_path, "in/real/a.png", "elsewhere/b.png", "elsewhere/sub/c.png")
    folder = tmp_path / "in"
    for name, target in (
        ("again", "real"),
        ("circle", "."),
        ("first", "../elsewhere"),
        ("second", "../elsewhere"),
        ("file.png", "real/a.png"),
        ("gone.png", "nowhere.png"),
        ("real/up", ".."),
    ):
        (folder / name).symlink_to(target)
    os.mkfifo(folder / "pipe.png")
    found = opened("in", is_recursive=True)
    assert names(found) == ["file.png", "first/b.png", "first/sub/c.png", "gone.png", "real/a.png"]
    assert found.warnings == [
        "not scored: 4 links to folders that are searched anyway (first: 'again')",
        "not scored: 1 links, devices and the like (first: 'pipe.png')",
    ]
    assert names(opened("in/ag*/*.png")) == ["again/a.png"]
    assert names(opened("in/**/[ab].png")) == ["again/a.png", "first/b.png"]
    assert names(opened("in/circle/circle/real")) == ["a.png"]


def test_what_cannot_be_an_input_is_one_line(
    tmp_path: Path, workspace: Workspace, opened: Callable[..., Input], check_rows: CheckRows
) -> None:
    workspace.config_file.parent.mkdir(exist_ok=True)
    workspace.config_file.write_text("datastores: {store: store}")
    write(tmp_path, "empty/.x", "nested/sub/a.png", "notes.pdf", "store/a.png", content=b"%PDF-1.4")
    (tmp_path / "blank.txt").write_text("\n\n")
    (tmp_path / "remote.txt").write_text("a.png\nhttps://host/b.png\n")
    (tmp_path / "long.txt").write_text("a.png\n" + "b" * 70_000)
    (tmp_path / "wide.txt").write_text("a.png", "utf-16")
    (tmp_path / "labels.csv").write_text("filename,label\na.png,can\n")
    (tmp_path / "none.csv").write_text("")
    (tmp_path / "quote.csv").write_text('image\n"abc')
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 and more")
    (tmp_path / "bad.zip").write_bytes(b"PK and more")
    (tmp_path / "bad.tar.gz").write_bytes(b"no gzip")
    (tmp_path / "bad.tar").write_bytes(b"no tar" * 200)
    table = "must have a column image or image_url, but it has"

    def check(reference: str, part: str) -> None:
        assert part in refusal(lambda: list(opened(reference).entries()))

    check_rows(
        check,
        [
            ("", "must be a path or a URL, but got ''"),
            ("missing", f"{tmp_path}/missing does not exist"),
            ("missing/*.png", f"{tmp_path}/missing does not exist"),
            ("empty", f"must hold pictures, but folder {tmp_path}/empty, its top level has none; not scored: 1 hidden"),
            ("nested", "1 folders, since the search is not recursive (first: 'sub'); --recursive searches the folders"),
            ("nested/*.gif", "has none"),
            ("notes.pdf", f"Error processing input file: '{tmp_path}/notes.pdf'. File type '.pdf' is not supported."),
            ("blank.txt", "has none"),
            ("wide.txt", "must be text in UTF-8, but it begins like utf-16; save it as UTF-8"),
            ("long.txt", "long.txt, line 2 must be a path or URL, but has over 65536 bytes"),
            ("remote.txt", "remote.txt, line 2: 'https://host/b.png' is not downloaded yet: put the pictures into"),
            (
                "https://host/a.png",
                "'https://host/a.png' is not downloaded yet: put the pictures into a folder and",
            ),
            ("s3://bucket/folder", "'s3://bucket/folder' is not mapped: put the pictures into a folder and map"),
            ("abfss://c@a.dfs.core.windows.net/f", "is not mapped"),
            ("azureml://datastores/other/paths/a/", "datastore 'other' must be mapped to a folder"),
            ("azureml://datastores/store/paths/../x", "must stay inside its datastore"),
            ("azureml:photos", "must be named with its version, as azureml:photos:1 or azureml:photos@latest"),
            ("azureml:photos:1", "there is no data 'photos'"),
            ("azureml:photos@best", "the only label of data is 'latest'"),
            ("labels.csv", f"{table} filename, label"),
            ("none.csv", f"{table} no columns"),
            ("bad.parquet", "bad.parquet must be a whole Parquet file, but: "),
            ("bad.zip", "bad.zip must be a whole archive, but: File is not a zip file"),
            ("bad.tar.gz", "bad.tar.gz must be a whole archive, but: Not a gzipped file"),
            ("bad.tar", "bad.tar must be a whole archive, but: "),
        ],
    )
    with pytest.raises(NotFound):
        opened("empty")
    write(tmp_path, "mixed/a.png", "mixed/b.pdf")
    assert names(opened("mixed")) == ["a.png"]
    sentence = "Error processing input file: 'b.pdf'. File type '.pdf' is not supported."
    assert refusal(lambda: list(opened("mixed", is_strict=True).entries())) == sentence
    assert refusal(lambda: opened("mixed", input_type="literal")) == (
        "the type of an input must be one of uri_file, uri_folder, mltable, but got 'literal'"
    )


TEXTS = [base64.encodebytes(content).decode() for content in IMAGES.values()]
"""Base64 with line ends, as Azure's sample notebooks write it into cells."""


def write_csv(path: Path, delimiter: str = ",") -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file, delimiter=delimiter)
        writer.writerow(["id", "image", "comment"])
        for number, text in enumerate(TEXTS):
            writer.writerow([number, text, f'a "quoted", {delimiter}\nb'])
            if number == 3:
                file.write("\n")


def frame() -> pd.DataFrame:
    return pd.DataFrame({"id": range(len(TEXTS)), "image": TEXTS})


def test_tables_are_read_as_pandas_reads_them(
    tmp_path: Path, opened: Callable[..., Input], reader: EntryReader, check_rows: CheckRows
) -> None:
    write_csv(tmp_path / "t.csv")
    write_csv(tmp_path / "semicolons.csv", ";")
    (tmp_path / "mark.csv").write_bytes(b"\xef\xbb\xbf" + (tmp_path / "t.csv").read_bytes().replace(b"\n", b"\r\n"))
    frame().to_json(tmp_path / "t.jsonl", orient="records", lines=True)
    frame().to_parquet(tmp_path / "t.parquet", row_group_size=5)
    frame().assign(image=list(IMAGES.values())).to_parquet(tmp_path / "bytes.pqt", row_group_size=5)
    frame().assign(image=[{"bytes": one, "path": None} for one in IMAGES.values()]).to_parquet(tmp_path / "hf.parquet")

    def check(name: str, expected: list[Any]) -> None:
        entries = list(opened(name).entries())
        assert [(entry.name, entry.row, entry.member) for entry in entries] == [
            (name, row, "image") for row in range(12)
        ]
        for order in (entries, entries[::-1], [*entries[6:9], *entries[:3], entries[11], entries[0]]):
            assert [reader.read(entry) for entry in order] == [expected[entry.row] for entry in order]

    check_rows(
        check,
        [
            ("t.csv", list(pd.read_csv(tmp_path / "t.csv")["image"])),
            ("semicolons.csv", list(pd.read_csv(tmp_path / "semicolons.csv", sep=";")["image"])),
            ("mark.csv", list(pd.read_csv(tmp_path / "mark.csv", encoding="utf-8-sig", lineterminator=None)["image"])),
            ("t.jsonl", list(pd.read_json(tmp_path / "t.jsonl", lines=True)["image"])),
            ("t.parquet", list(pd.read_parquet(tmp_path / "t.parquet")["image"])),
            ("bytes.pqt", list(pd.read_parquet(tmp_path / "bytes.pqt")["image"])),
            ("hf.parquet", list(IMAGES.values())),
        ],
    )


def test_a_cell_is_a_path_or_an_image_by_its_content(
    tmp_path: Path, opened: Callable[..., Input], reader: EntryReader
) -> None:
    write(tmp_path / "in", "a.png", "noSuffix", content=png(5))
    cells = ["a.png", TEXTS[1], "noSuffix", "gone.png", "data:image/png;base64," + TEXTS[2], None, " "]
    (tmp_path / "in/t.jsonl").write_text(
        "".join(json.dumps({"image": cell}) + "\n" for cell in cells) + '{"other": 1}\n[]\nno JSON\n{"image": 7}\n'
    )
    entries = list(opened("in/t.jsonl").entries())
    assert [entry.row for entry in entries] == list(range(11))
    assert {entry.name for entry in entries} == {"t.jsonl"}
    assert [reader.read(entry) for entry in [*entries[:3], entries[4]]] == [png(5), TEXTS[1], png(5), cells[4]]
    codes = [code_of(reader, entry) for entry in entries[3:]]
    assert codes == ["unreadable", "", *["bad_image"] * 3, *["unreadable"] * 2, "bad_image"]

    pd.DataFrame({"image_url": ["a.png", (tmp_path / "in/noSuffix").as_uri()]}).to_csv(tmp_path / "in/u.csv")
    assert [reader.read(entry) for entry in opened("in/u.csv").entries()] == [png(5)] * 2
    paths = pd.DataFrame({"image": pd.Categorical(["a.png", "noSuffix"])})
    paths.to_parquet(tmp_path / "in/.hidden.parquet")
    assert [reader.read(entry) for entry in opened("in/.hidden.parquet").entries()] == [png(5)] * 2
    assert names(opened("in")) == ["a.png", "u.csv", "u.csv"]  # JSON lines of a folder are labels
    (tmp_path / "in/labels.csv").write_text("filename\na.png\n")
    found = opened("in")
    assert names(found) == ["a.png", "u.csv", "u.csv"]
    assert "not scored: 1 tables without a column image or image_url (first: 'labels.csv')" in found.warnings
    (tmp_path / "in/u.csv").write_text("image_url\na.png\nhttps://host/x.png\n")
    assert "u.csv, row 1: 'https://host/x.png' is not downloaded yet" in refusal(lambda: list(found.entries()))


MEMBERS = {
    "photos/b.png": png(1),
    "photos/a.png": png(2),
    "c.JPG": png(3),
    "photos/ü\n.png": png(4),
    "photos/" + "long" * 60 + ".png": png(5),
    "photos/.x.png": b"",
    "__MACOSX/photos/b.png": b"",
    "photos/notes.txt": b"",
    "photos/t.csv": b"image\n",
}
SCORED = list(MEMBERS)[:5]
MODES: dict[str, Any] = {".tar": "w", ".tar.gz": "w:gz", ".tgz": "w:gz", ".tar.bz2": "w:bz2", ".tar.xz": "w:xz"}


def add_member(tar: tarfile.TarFile, name: str, content: bytes, kind: bytes = tarfile.REGTYPE) -> None:
    info = tarfile.TarInfo(name)
    info.size, info.type = len(content), kind
    tar.addfile(info, io.BytesIO(content))


@pytest.mark.parametrize("suffix", [".zip", *MODES])
@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_archives_are_read_in_place(
    tmp_path: Path, opened: Callable[..., Input], reader: EntryReader, suffix: str, form: int
) -> None:
    path = tmp_path / f"photos{suffix}"
    if suffix == ".zip":
        method = zipfile.ZIP_DEFLATED if form == tarfile.PAX_FORMAT else zipfile.ZIP_STORED
        with zipfile.ZipFile(path, "w", method) as archive:
            archive.mkdir("photos")
            for name, content in MEMBERS.items():
                archive.writestr(name, content)
            link = zipfile.ZipInfo("photos/link.png")
            link.external_attr = (stat.S_IFLNK | 0o777) << 16
            archive.writestr(link, "b.png")
    else:
        with tarfile.open(path, MODES[suffix], format=form) as tar:
            add_member(tar, "photos", b"", tarfile.DIRTYPE)
            for name, content in MEMBERS.items():
                add_member(tar, name, content)
            link_info = tarfile.TarInfo("photos/link.png")
            link_info.type, link_info.linkname = tarfile.SYMTYPE, "b.png"
            tar.addfile(link_info)
    found = opened(path.name)
    entries = list(found.entries())
    assert [entry.name for entry in entries] == (sorted(SCORED) if suffix == ".zip" else SCORED)
    for order in (entries, entries[::-1]):
        assert [reader.read(entry) for entry in order] == [MEMBERS[entry.name] for entry in order]
    assert sorted(found.warnings) == [
        "not scored: 1 files of other types (first: 'photos/t.csv')",
        "not scored: 1 files of the types .txt, .json, .jsonl (first: 'photos/notes.txt')",
        "not scored: 1 links, devices and the like (first: 'photos/link.png')",
        f"not scored: 2 hidden files and folders, or files of an operating system (first: "
        f"{'__MACOSX/photos/b.png' if suffix == '.zip' else 'photos/.x.png'!r})",
    ]


def test_archives_that_must_not_or_cannot_be_read(tmp_path: Path, opened: Callable[..., Input]) -> None:
    for name in ("/abs.png", "photos/../../up.png"):
        with tarfile.open(tmp_path / "t.tar", "w") as tar:
            add_member(tar, name, PNG)
        with zipfile.ZipFile(tmp_path / "t.zip", "w") as archive:
            archive.writestr(zipfile.ZipInfo(name), PNG)
        for suffix in ("tar", "zip"):
            expected = f"must be relative and without '..', but one is {name!r}; pack it anew"
            assert expected in refusal(lambda suffix=suffix: opened(f"t.{suffix}"))  # type: ignore[misc]
    content = bytearray((tmp_path / "t.zip").read_bytes().replace(b"photos/../../up.png", b"photos/abcdefgh.png"))
    content[content.index(b"PK\1\2") + 8] |= 1  # the bit of an encrypted member
    (tmp_path / "t.zip").write_bytes(content)
    assert "must not be encrypted, but 'photos/abcdefgh.png' is" in refusal(lambda: opened("t.zip"))
    with tarfile.open(tmp_path / "cut.tar.gz", "w:gz") as tar:
        for number in range(3):
            add_member(tar, f"{number}.png", os.urandom(3000))
    (tmp_path / "cut.tar.gz").write_bytes((tmp_path / "cut.tar.gz").read_bytes()[:5000])
    assert "cut.tar.gz must be a whole archive" in refusal(lambda: list(opened("cut.tar.gz").entries()))


def test_what_changed_since_the_listing_is_not_scored(
    tmp_path: Path, opened: Callable[..., Input], reader: EntryReader
) -> None:
    names_ = ("changed.png", "gone.png", "line\nbreak.png", "same.png", "shrunk.png", "text.png", "empty.png")
    write(tmp_path / "in", *names_)
    (tmp_path / "in/text.png").write_bytes(base64.b64encode(PNG))
    (tmp_path / "in/empty.png").write_bytes(b"")
    (tmp_path / "in/z.png").symlink_to("later.png")
    (tmp_path / "in/zz.png").symlink_to("never.png")
    write_csv(tmp_path / "in/t.csv")
    entries = {entry.name: entry for entry in opened("in").entries()}
    assert isinstance(reader.read(entries["t.csv"]), str)
    os.utime(tmp_path / "in/changed.png", ns=(0, 10**18))
    (tmp_path / "in/gone.png").unlink()
    (tmp_path / "in/line\nbreak.png").unlink()
    (tmp_path / "in/shrunk.png").write_bytes(PNG[:-1])
    (tmp_path / "in/t.csv").write_text("image\n" + TEXTS[3])
    (tmp_path / "in/later.png").write_bytes(PNG)
    codes = {name: code_of(reader, entry) for name, entry in entries.items()}
    assert codes == {
        **dict.fromkeys(("changed.png", "gone.png", "line\nbreak.png", "shrunk.png", "z.png"), "input_changed"),
        "t.csv": "input_changed",
        **dict.fromkeys(("text.png", "empty.png"), "bad_image"),
        "zz.png": "unreadable",
        "same.png": "",
    }


def test_one_reader_serves_threads(tmp_path: Path, opened: Callable[..., Input], reader: EntryReader) -> None:
    write_csv(tmp_path / "t.csv")
    frame().to_parquet(tmp_path / "t.parquet", row_group_size=3)
    with tarfile.open(tmp_path / "t.tgz", "w:gz") as tar:
        for name, content in IMAGES.items():
            add_member(tar, f"{name}.png", content)
    jobs = [list(opened(name).entries()) for name in ("t.csv", "t.parquet", "t.tgz")]
    expected: list[list[Any]] = [TEXTS, TEXTS, list(IMAGES.values())]
    results: list[bool] = []

    def work(start: int) -> None:
        for kind in range(3):
            found = [reader.read(entry) for entry in jobs[kind][start::4]]
            results.append(found == expected[kind][start::4])

    threads = [threading.Thread(target=work, args=(start,)) for start in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [True] * 12


@pytest.mark.parametrize("name", ["list.txt", "t.jsonl", "t.csv", "t.tar"])
def test_memory_does_not_grow_with_the_number_of_entries(
    tmp_path: Path, opened: Callable[..., Input], name: str
) -> None:
    def peak(count: int) -> int:
        if name == "t.tar":
            (tmp_path / name).write_bytes(tarfile.TarInfo("a.png").tobuf() * count + bytes(1024))
        else:
            head, line = {
                "list.txt": ("", "photos/a.png\n"),
                "t.jsonl": ("", '{"image": "iVBORw0KGgo="}\n'),
                "t.csv": ("image\n", "iVBORw0KGgo=\n"),
            }[name]
            (tmp_path / name).write_text(head + line * count)
        found = opened(name)
        tracemalloc.start()
        try:
            assert sum(1 for _ in found.entries()) == count
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(1)  # imports, caches
    assert peak(1000) < peak(50) + 30_000  # one entry has at least 200 bytes


def test_tables_of_a_data_folder_and_datastores(
    tmp_path: Path, workspace: Workspace, opened: Callable[..., Input], reader: EntryReader, check_rows: CheckRows
) -> None:
    workspace.config_file.parent.mkdir(exist_ok=True)
    workspace.config_file.write_text("datastores: {store: store, 'https://host/c/': store}")
    write(tmp_path, "store/a.png", "store/in/b.png", "data/c.png")
    (tmp_path / "data/MLTable").write_text(
        "paths: [{file: ./l.jsonl}]\ntransformations: [read_json_lines, {convert_column_types: "
        "[{columns: photo, column_type: stream_info}]}]"
    )
    urls = ["c.png", "azureml://datastores/store/paths/in/b.png", "gone.png"]
    (tmp_path / "data/l.jsonl").write_text("".join(json.dumps({"photo": url, "label": 1}) + "\n" for url in urls))
    elsewhere = str(tmp_path / "store/in/b.png").removeprefix("/")
    rows = ["c.png", elsewhere, "gone.png"]

    def check(reference: str, input_type: str | None, expected: list[str]) -> None:
        assert names(opened(reference, input_type=input_type)) == expected

    long = "azureml://subscriptions/s/resourcegroups/g/workspaces/w/datastores/store/paths"
    check_rows(
        check,
        [
            ("data", None, rows),
            ("data/MLTable", None, rows),
            ("data", "MLTable", rows),
            ("data", "UriFolder", ["c.png"]),
            ("azureml://datastores/store/paths/in/", None, ["b.png"]),
            ("azureml://datastores/store/paths/", None, ["a.png"]),
            ("azureml://datastores/store/paths", "uri_file", ["a.png"]),
            (f"{long}/in/b.png", None, ["b.png"]),
            (f"{long}/**/*.png", None, ["a.png", "in/b.png"]),
            ("https://host/c/in?sig=x", None, ["b.png"]),
        ],
    )
    (tmp_path / "data/l.jsonl").write_text('{"photo": 1}\n{"photo": "s3://b/x.png"}\n')
    with pytest.raises(UserError) as caught:
        opened("data")
    assert "l.jsonl:1: photo must be the path" in str(caught.value)
    assert "l.jsonl:2: 's3://b/x.png' is not mapped" in str(caught.value)
