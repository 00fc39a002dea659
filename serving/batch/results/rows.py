"""What every form of results is made from, and what it offers."""

from dataclasses import dataclass
from typing import Any, Protocol

from clearsight.serving.batch.results.names import legible
from clearsight.tasks import Task

__all__ = ["RowLayout", "RowWriter"]


@dataclass(frozen=True, slots=True)
class RowLayout:
    """How the rows of one job are written."""

    task: Task
    is_recursive: bool
    """Whether the input has nested folders: `csv` and `space` then name a file by its path, else by its base name."""
    explanation_keys: tuple[str, ...] = ()
    """Keys of the answers that the job's explanations add; each is a column of `csv`."""

    def file_name(self, name: str) -> str:
        """The name of an entry in the forms `csv` and `space`."""
        return legible(name if self.is_recursive else name.rpartition("/")[2])


class RowWriter(Protocol):
    """Writes answers in one form to the stream that it was opened with. Raises `OSError`."""

    def write(self, name: str, row: int, answer: dict[str, Any]) -> None:
        """Write one answer: name and row of the entry, and the plain data of `wire.encoding.to_document`."""

    def finish(self) -> None:
        """Write what is pending; the stream stays open."""

    def abandon(self) -> None:
        """Give up after an error; what was written is of no use."""
