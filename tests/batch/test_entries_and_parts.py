"""The list of a batch job's entries, and the files of its parts."""

import hashlib
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clearsight.serving.batch.entries import Entry, Listing
from clearsight.serving.batch.parts import Outcome, PartRange, Parts, encode_outcome

ENTRIES = [Entry(f'folder/{n} \udcff\n".jpg', f"/data/{n}.jpg", n, 10**18 + n, row=n % 3) for n in range(7)]


@pytest.mark.parametrize("part_size", [1, 2, 3, 7, 10])
def test_a_listing_is_read_by_part(tmp_path: Path, part_size: int) -> None:
    listing = Listing(tmp_path)
    assert not listing.exists()
    assert listing.write(iter(ENTRIES), part_size) == 7
    assert (listing.exists(), listing.num_entries, listing.part_size) == (True, 7, part_size)
    assert list(listing.read()) == ENTRIES
    parts = [listing.read_part(part) for part in range(listing.num_parts)]
    assert parts == [ENTRIES[start : start + part_size] for start in range(0, 7, part_size)]


def test_a_listing_that_was_interrupted_does_not_exist(tmp_path: Path) -> None:
    def interrupted() -> Iterator[Entry]:
        yield ENTRIES[0]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Listing(tmp_path).write(interrupted(), 2)
    assert not Listing(tmp_path).exists()


@given(st.integers(2, 40), st.data())
def test_ranges_that_are_halved_to_single_entries_join_to_the_whole_part(size: int, data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as name:
        parts = Parts(Path(name))
        lines = [encode_outcome(str(n), 0, b'{"n":%d}' % n) for n in range(size)]
        whole = PartRange(0, 0, size)
        parts.commit(whole, True, lines, 0)
        expected = (Path(name) / "0.jsonl").read_bytes()
        body = b"".join(lines)
        assert (
            expected
            == body
            + json.dumps({"count": size, "failed": 0, "sha256": hashlib.sha256(body).hexdigest()}).encode()
            + b"\n"
        )
        assert parts.num_failed(0) == 0
        parts.remove(0)
        pending, done = [whole], []
        while pending:
            one = pending.pop(data.draw(st.integers(0, len(pending) - 1)))
            if one.stop - one.start > 1 and data.draw(st.booleans()):
                pending += one.halves()
                continue
            parts.commit(one, False, lines[one.start : one.stop], 0)
            done.append(one)
        assert not (Path(name) / "0.jsonl").exists()
        parts.join(0, done)
        assert [*parts.done(2)] == [1, 0]
        assert (Path(name) / "0.jsonl").read_bytes() == expected
        assert [outcome.answer for outcome in parts.outcomes(0)] == [{"n": n} for n in range(size)]


def test_a_torn_part_is_not_whole(tmp_path: Path) -> None:
    parts = Parts(tmp_path)
    parts.commit(PartRange(3, 0, 1), True, [b'{"name": "a", "row": 0, "answer": {}}\n'], 0)
    file = tmp_path / "3.jsonl"
    content = file.read_bytes()
    for torn in (content[:10], content[:-5], content.replace(b"a", b"b", 1), b"", b"\0" * len(content)):
        file.write_bytes(torn)
        assert parts.num_failed(3) is None


def test_an_outcome_survives_its_file(tmp_path: Path) -> None:
    parts = Parts(tmp_path)
    name = 'a "quoted"\n\udcff.jpg'
    lines = [
        encode_outcome(name, 2, b'{"probs":[0.5]}'),
        encode_outcome(name, 3, None, "must be a picture", "bad_image"),
    ]
    parts.commit(PartRange(0, 0, 2), True, lines, 1)
    assert parts.num_failed(0) == 1
    assert list(parts.outcomes(0)) == [
        Outcome(name, 2, {"probs": [0.5]}),
        Outcome(name, 3, None, "must be a picture", "bad_image"),
    ]
