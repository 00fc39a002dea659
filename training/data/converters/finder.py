"""The image that an annotation names: found by the name as written, and by what tools and systems make of names."""

import itertools
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final
from urllib.parse import unquote

from clearsight.images.headers import IMAGE_SUFFIXES
from clearsight.training.data.converters.entries import ConversionNotes
from clearsight.training.data.converters.objects import BadAnnotation

__all__ = ["ImageFinder", "KnownImages", "fold_name"]

_SUFFIXES: Final = "|".join(re.escape(suffix) for suffix in IMAGE_SUFFIXES)
_SIGNED: Final = re.compile(rf"(.+?(?:{_SUFFIXES}))[?#].*", re.IGNORECASE | re.DOTALL)


class ImageFinder:
    """Finds the images of one conversion in its folders, of which an earlier one goes before a later one.

    A name is tried as written; then with backslashes as separators, without the `?query` or `#fragment` of a URL, and
    with its percent escapes decoded. The whole path goes before shorter ends of it, the last of which is the file name.
    A file of exactly this name goes before one whose name differs in case or Unicode form alone, and that one before an
    image of the same stem with another suffix.

    A folder is listed once, and only when a name is not there as written.
    """

    def __init__(self, folders: Sequence[Path], notes: ConversionNotes) -> None:
        """The folder of the request's images, if it names one, takes the place of `folders`.

        `notes` get the images that are found, so that the others can be counted.
        """
        named = notes.request.images
        self.folders = list(dict.fromkeys(folders)) if named is None else [named]
        self._notes = notes
        self._listings: dict[Path, _Listing] = {}

    def find(self, *names: str) -> Path:
        """The file of the first name that has one.

        Raises `BadAnnotation` when no name has one, and when two files match equally well.
        """
        path = self.search(*names)
        if path is None:
            raise BadAnnotation(f"the picture {names[0]!r} is in none of {', '.join(map(str, self.folders))}")
        self._notes.named_images.add(path)
        return path

    def search(self, *names: str) -> Path | None:
        """Like `find`; None when no name has a file."""
        tails = [tail for name in names for form in _forms(name) for tail in _tails(form)]
        for tail in tails:
            for folder in self.folders:
                if _is_file(path := folder / tail):
                    return path
            for folder in self.folders:
                if found := self._like(folder, tail):
                    return _only(found, names[0])
        for tail in tails:
            for folder in self.folders:
                if found := self._same_stem(folder, tail):
                    return _only(found, names[0])
        return None

    def _like(self, folder: Path, tail: str) -> list[Path]:
        """Files whose path below a folder differs from `tail` in case and Unicode form at most."""
        *parents, name = tail.split("/")
        return [
            path
            for parent in self._folders_like(folder, parents)
            for path in self._listing(parent).names.get(fold_name(name), ())
            if path.is_file()
        ]

    def _same_stem(self, folder: Path, tail: str) -> list[Path]:
        *parents, name = tail.split("/")
        return [
            path
            for parent in self._folders_like(folder, parents)
            for path in self._listing(parent).stems.get(_folded_stem(name), ())
            if path.is_file()
        ]

    def _folders_like(self, folder: Path, parents: Sequence[str]) -> list[Path]:
        found = [folder]
        for part in parents:
            if part in ("", ".", ".."):
                found = [parent / part for parent in found]
                continue
            found = [path for parent in found for path in self._listing(parent).names.get(fold_name(part), ())]
        return found

    def _listing(self, folder: Path) -> "_Listing":
        if folder not in self._listings:
            self._listings[folder] = _Listing(folder)
        return self._listings[folder]


class KnownImages:
    """Finds images among those that are known, by the rules of `ImageFinder`, which looks on the disk."""

    def __init__(self, images: Sequence[Path]) -> None:
        self._images = images
        self._by_name: dict[str, list[int]] = defaultdict(list)
        self._by_stem: dict[str, list[int]] = defaultdict(list)
        for index, image in enumerate(images):
            self._by_name[fold_name(image.name)].append(index)
            self._by_stem[fold_name(image.stem)].append(index)

    def find(self, name: str) -> list[int]:
        """Indices of the images that match a name best; several match equally well, none is found for no match."""
        forms = [form.rsplit("/", 1)[-1] for form in _forms(name)]
        for index_of, key in ((self._by_name, fold_name), (self._by_stem, _folded_stem)):
            for form, base in zip(_forms(name), forms, strict=True):
                if found := index_of.get(key(base)):
                    fit = [self._num_equal_ends(self._images[index], form) for index in found]
                    return [index for index, equal in zip(found, fit, strict=True) if equal == max(fit)]
        return []

    def _num_equal_ends(self, image: Path, form: str) -> tuple[int, int]:
        """How many folders before the name are equal, but for case and Unicode form, and whether the name is."""
        parts = [part for part in form.split("/") if part not in ("", ".")]
        pairs = list(zip(reversed(image.parts), reversed(parts), strict=False))
        folders = itertools.takewhile(lambda pair: fold_name(pair[0]) == fold_name(pair[1]), pairs[1:])
        return sum(1 for _ in folders), int(pairs[0][0] == pairs[0][1])


class _Listing:
    """The entries of one folder, in sorted order, by folded name, and its images by folded stem."""

    def __init__(self, folder: Path) -> None:
        self.names: dict[str, list[Path]] = defaultdict(list)
        self.stems: dict[str, list[Path]] = defaultdict(list)
        with suppress(OSError):  # no folder, or one that may not be read: it has no image
            for path in sorted(folder.iterdir()):
                self.names[fold_name(path.name)].append(path)
                if path.suffix.lower() in IMAGE_SUFFIXES:
                    self.stems[fold_name(path.stem)].append(path)


def _forms(name: str) -> list[str]:
    """The name as written, and step by step without what belongs to another system or to a URL."""
    local = name.replace("\\", "/")
    signed = _SIGNED.fullmatch(local)
    bare = signed[1] if signed else local
    return list(dict.fromkeys((name, local, bare, unquote(bare))))


def _tails(path: str) -> Iterator[str]:
    """The path and its ends, down to the last segment: `/a/b/c` gives `/a/b/c`, `a/b/c`, `b/c`, `c`."""
    yield path
    while "/" in path:
        path = path.partition("/")[2]
        if path:
            yield path


def _folded_stem(name: str) -> str:
    return fold_name(Path(name).stem if Path(name).suffix.lower() in IMAGE_SUFFIXES else name)


def fold_name(name: str) -> str:
    """The same text for names that differ in case or in Unicode form (https://www.unicode.org/reports/tr15/)."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", name).casefold())


def _only(found: Sequence[Path], name: str) -> Path:
    if len(found) > 1:
        message = f"the picture {name!r} must be one file, but {found[0]} and {found[1]} match equally well"
        raise BadAnnotation(f"{message}; rename or remove one of them")
    return found[0]


def _is_file(path: Path) -> bool:
    """Whether there is a file; a name that no file can have has none."""
    try:
        return path.is_file()
    except OSError:  # too long
        return False
