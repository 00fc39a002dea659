"""Text in the encodings in which other programs write it; Python's codecs are the reference."""

import codecs
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from clearsight.documents.data.text import BadText, read_json, read_text, read_xml

CheckRows = Callable[..., None]


def test_text_is_read_by_its_byte_order_mark_else_as_utf_8(tmp_path: Path, check_rows: CheckRows) -> None:
    file = tmp_path / "a.txt"

    def check(content: bytes, text: str) -> None:
        file.write_bytes(content)
        assert read_text(file) == text

    check_rows(
        check,
        [
            (b"", ""),
            ("B\u00fcchse\r\n\u7f50".encode(), "B\u00fcchse\r\n\u7f50"),
            *((mark, "") for mark in (codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, codecs.BOM_UTF32_LE)),
            *(("\u7f50".encode(codec), "\u7f50") for codec in ("utf-8-sig", "utf-16", "utf-32")),
            (codecs.BOM_UTF16_BE + "\u7f50".encode("utf-16-be"), "\u7f50"),
            (codecs.BOM_UTF32_BE + "\u7f50".encode("utf-32-be"), "\u7f50"),
        ],
    )


def test_what_is_no_text_is_refused_with_its_encoding(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    with pytest.raises(BadText, match="must be a readable file, but: No such file"):
        read_text(file)
    file.write_bytes("B\u00fcchse".encode("cp1252"))
    with pytest.raises(BadText, match=r"must be text in UTF-8, but: .* byte 0xfc in position 1.*; save it as UTF-8"):
        read_text(file)
    file.write_bytes(codecs.BOM_UTF16_LE + b"a")
    with pytest.raises(BadText, match="must be text in UTF-16, but"):
        read_text(file)
    file.write_text("{")
    with pytest.raises(BadText, match="must be a JSON file, but"):
        read_json(file)
    file.write_bytes(json.dumps({"a": "\u7f50"}, ensure_ascii=False).encode("utf-16"))
    assert read_json(file) == {"a": "\u7f50"}


def test_xml_is_read_in_the_encoding_that_it_declares(tmp_path: Path, check_rows: CheckRows) -> None:
    file = tmp_path / "a.xml"

    def check(declared: str, codec: str, text: str) -> None:
        head = f"<?xml version='1.0' encoding=\"{declared}\" standalone='yes'?>\n" if declared else ""
        file.write_bytes(f"{head}<name>{text}</name>".encode(codec))
        assert read_xml(file).text == text

    check_rows(
        check,
        [
            ("", "utf-8", "\u7f50"),
            ("UTF-8", "utf-8-sig", "\u7f50"),
            ("gb2312", "gb2312", "\u7f50\u5934"),
            ("GB2312", "gbk", "\u9555"),  # a letter that GB2312 itself has not, as programs write it
            ("GBK", "gb18030", "\u7f50"),
            ("Shift_JIS", "shift_jis", "\u7f36"),
            ("Shift_JIS", "cp932", "\u2460"),
            ("EUC-KR", "euc-kr", "\uce94"),
            ("Big5", "big5", "\u7f50"),
            ("windows-1252", "cp1252", "B\u00fcchse \u20ac"),
            ("ISO-8859-15", "iso-8859-15", "\u20ac"),
            ("koi8-r", "koi8-r", "\u0431\u0430\u043d\u043a\u0430"),
            ("utf-16", "utf-16", "\u7f50"),
            ("utf-16", "utf-8", "\u7f50"),  # a declaration that reads as ASCII is wrong
            ("windows-1252", "utf-8-sig", "\u7f50"),  # the mark is right
        ],
    )


def test_xml_that_cannot_be_read_is_refused(tmp_path: Path, check_rows: CheckRows) -> None:
    file = tmp_path / "a.xml"

    def check(content: bytes, words: str) -> None:
        file.write_bytes(content)
        with pytest.raises(BadText, match=words):
            read_xml(file)

    check_rows(
        check,
        [
            (b"", "must be an XML file, but: no element"),
            (b"<a>", "must be an XML file"),
            (b"<?xml version='1.0' encoding='klingon'?><a/>", "names 'klingon'; save it as UTF-8"),
            (b"<?xml version='1.0' encoding='base64'?><a/>", "names 'base64'"),
            (b"<?xml version='1.0' encoding='gb2312'?><a>\xff</a>", "must be text in GB2312"),
            ("<a>\u00fc</a>".encode("cp1252"), "must be text in UTF-8"),
        ],
    )
