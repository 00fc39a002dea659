"""Archives of images that are read in place: zip and tar, also compressed.

Members of a zip come sorted by name. Those of a tar come in the order of the archive, whatever its size: a tar has no
directory to sort, and a compressed one is read from front to back. Nothing is extracted to a disk.
"""

import bz2
import gzip
import lzma
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import IO, Final, Protocol, cast

from clearsight.errors import UserError
from clearsight.images.files import require_size
from clearsight.serving.batch.entries import Entry
from clearsight.serving.batch.inputs.source import PassedOver, Reason, container_entry, is_hidden, kind_of_file

__all__ = [
    "ARCHIVE_SUFFIXES",
    "Archive",
    "ArchiveSource",
    "BadArchive",
    "archive_suffix",
    "open_archive",
    "read_member",
]

_DAMAGES: Final = (
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    RuntimeError,  # of zipfile: encrypted, or (NotImplementedError) compressed in a way that it does not know
    UnicodeError,
)


class BadArchive(UserError):
    """An archive is damaged, or must not be read."""


class Archive(Protocol):
    """An open archive."""

    def entries(self, path: Path, passed_over: PassedOver) -> Iterator[Entry]:
        """The images of the archive, which lies at `path`."""

    def content(self, member: str, offset: int) -> bytes:
        """The file of a member. Raises `BadImage` for one that is too large."""

    def close(self) -> None:
        """Close the file."""


class ArchiveSource:
    """The images in an archive."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def describe(self) -> str:
        return f"archive {self._path}"

    def entries(self, passed_over: PassedOver) -> Iterator[Entry]:
        try:
            with closing(open_archive(self._path)) as archive:
                yield from archive.entries(self._path, passed_over)
        except (*_DAMAGES, OSError) as error:
            raise _damaged(self._path, error) from None


def open_archive(path: Path) -> Archive:
    """Open an archive by the suffix of its name. Raises `BadArchive`, `OSError`."""
    suffix = archive_suffix(path.name)
    try:
        return _Zip(path) if suffix == ".zip" else _Tar(_OPENERS[suffix](path))
    except (*_DAMAGES, OSError) as error:
        raise _damaged(path, error) from None


def read_member(archive: Archive, entry: Entry) -> bytes:
    """The file of a member. Raises `BadArchive`, `BadImage` for one that is too large, `OSError`."""
    try:
        return archive.content(str(entry.member), entry.offset)
    except (*_DAMAGES, OSError) as error:
        raise _damaged(Path(entry.location), error, f", of which {entry.member!r} can be read") from None


def _damaged(path: Path, error: Exception, what: str = "") -> Exception:
    """The error to raise: `BadArchive`, or what the operating system says.

    The modules of the standard library also use `OSError` for damaged content, without an error number.
    """
    if isinstance(error, OSError) and error.errno is not None:
        return error
    return BadArchive(f"{path} must be a whole archive{what}, but: {str(error) or 'it ends too early'}")


def archive_suffix(name: str) -> str:
    """The suffix of an archive's name; empty for other names."""
    return next((suffix for suffix in ARCHIVE_SUFFIXES if name.lower().endswith(suffix)), "")


def _is_image(path: Path, name: str, is_file: bool, passed_over: PassedOver) -> bool:
    """Whether a member is an image; others are counted. Raises `BadArchive` for a name that leaves the archive."""
    parts = PurePosixPath(name).parts
    if name.startswith("/") or ".." in parts:
        raise BadArchive(
            f"the names of the members of {path} must be relative and without '..', but one is {name!r}; pack it anew"
        )
    kind = Reason.HIDDEN if any(map(is_hidden, parts)) else kind_of_file(parts[-1] if parts else "")
    if not isinstance(kind, Reason) and not is_file:
        kind = Reason.SPECIAL
    if kind == "table":
        kind = Reason.OTHER_TYPE
    if isinstance(kind, Reason):
        passed_over.add(kind, name)
        return False
    return True


class _Zip:
    def __init__(self, path: Path) -> None:
        self._zip = zipfile.ZipFile(path)

    def entries(self, path: Path, passed_over: PassedOver) -> Iterator[Entry]:
        status = path.stat()
        for name in sorted(set(self._zip.namelist())):
            info = self._zip.getinfo(name)
            if info.is_dir() or not _is_image(path, name, not stat.S_ISLNK(info.external_attr >> 16), passed_over):
                continue
            if info.flag_bits & 1:
                raise BadArchive(
                    f"the members of {path} must not be encrypted, but {name!r} is; unpack it with its password, and "
                    "give the folder"
                )
            yield container_entry(path, status, name, name)

    def content(self, member: str, offset: int) -> bytes:
        info = self._zip.getinfo(member)
        require_size(info.file_size)
        return self._zip.read(info)

    def close(self) -> None:
        self._zip.close()


class _Tar:
    """A tar file, of which each member is opened at its offset: no list of the members is needed."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def entries(self, path: Path, passed_over: PassedOver) -> Iterator[Entry]:
        status = path.stat()
        with tarfile.open(fileobj=self._file, mode="r:") as tar:
            while (member := tar.next()) is not None:
                if not member.isdir() and _is_image(path, member.name, member.isreg(), passed_over):
                    yield container_entry(path, status, member.name, member.name, offset=member.offset)
                tar.members.clear()  # type: ignore[attr-defined]  # which would grow with the archive

    def content(self, member: str, offset: int) -> bytes:
        self._file.seek(offset)
        with tarfile.open(fileobj=self._file, mode="r:") as tar:
            info = tar.next()
            content = None if info is None or info.name != member else tar.extractfile(info)
            if info is None or content is None:
                raise tarfile.ReadError("it is not where it was")
            require_size(info.size)
            data = content.read()
            if len(data) < info.size:
                raise tarfile.ReadError("unexpected end of data")
            return data

    def close(self) -> None:
        self._file.close()


_OPENERS: Final[Mapping[str, Callable[[Path], IO[bytes]]]] = MappingProxyType(
    {
        ".tar": lambda path: path.open("rb"),
        **dict.fromkeys((".tar.gz", ".tgz"), lambda path: cast("IO[bytes]", gzip.GzipFile(path))),
        **dict.fromkeys((".tar.bz2", ".tbz2"), bz2.BZ2File),
        **dict.fromkeys((".tar.xz", ".txz"), lzma.LZMAFile),
    }
)
ARCHIVE_SUFFIXES: Final = (".zip", *_OPENERS)
