"""The forms of a file of results, one row each, and which of them a deployment gets."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, BinaryIO, Final

from clearsight.errors import UserError
from clearsight.serving.batch.results.delimited import CsvRows, SpaceRows
from clearsight.serving.batch.results.frame_settings import FRAME_SETTINGS_FILE, FrameSettings
from clearsight.serving.batch.results.json_lines import JsonRows
from clearsight.serving.batch.results.parquet import ParquetRows, require_pyarrow
from clearsight.serving.batch.results.rows import RowLayout, RowWriter

__all__ = ["FORMS", "Form", "choose_form"]


@dataclass(frozen=True, slots=True)
class Form:
    """One form of the file of results."""

    name: str
    rows: Callable[..., RowWriter] | None
    """The writer's class, called with a stream and a layout; None: no file is written."""
    suffix: str | None = None
    """Ending of `output_file_name` that chooses the form."""
    frame: FrameSettings | None = None
    """How the rows are written, of a form that is made of frames."""

    def open(self, stream: BinaryIO, layout: RowLayout) -> RowWriter:
        """A writer of this form's rows. The form must have a file."""
        assert self.rows is not None  # noqa: S101  the caller opens a stream only for a form that has a file
        return self.rows(stream, layout) if self.frame is None else self.rows(stream, layout, self.frame)


FORMS: Final[Mapping[str, Form]] = MappingProxyType(
    {
        form.name: form
        for form in (
            Form("csv", CsvRows, frame=FrameSettings()),
            Form("jsonl", JsonRows, suffix=".jsonl"),
            Form("space", SpaceRows, frame=FrameSettings(sep=" ", index=False)),
            Form("parquet", ParquetRows, suffix=".parquet"),
            Form("none", None),
        )
    }
)
"""`csv`, `jsonl` and `space` are the forms A, B and C of Azure's batch scripts."""

_BY_PROPERTY: Final = ("csv", "jsonl", "space")


def choose_form(
    output_file_name: str,
    output_action: str,
    properties: Mapping[str, str],
    frame_settings: Mapping[str, Any] = MappingProxyType({}),
) -> Form:
    """The form of a deployment's results.

    `summary_only` has no file. A name that ends in `.jsonl` or `.parquet` chooses that form, else the property
    `output_format` does, else it is `csv`. `frame_settings` are those of `read_frame_settings`. Raises `UserError` for
    an unknown `output_format`, one that contradicts the name, a library that is not installed, and frame settings of a
    form without frames.
    """
    if output_action == "summary_only":
        return FORMS["none"]
    wanted = properties.get("output_format")
    if wanted is not None and wanted not in _BY_PROPERTY:
        hint = "; for parquet, let output_file_name end in .parquet" if wanted == "parquet" else ""
        raise UserError(f"properties.output_format must be one of {', '.join(_BY_PROPERTY)}, but got {wanted!r}{hint}")
    named = next(
        (form for form in FORMS.values() if form.suffix and output_file_name.lower().endswith(form.suffix)), None
    )
    if named is not None and wanted not in (None, named.name):
        raise UserError(
            f"properties.output_format must agree with the ending of output_file_name, but got {wanted} and "
            f"{output_file_name!r}; leave one of them out"
        )
    form = named or FORMS[wanted or "csv"]
    if form.rows is ParquetRows:
        require_pyarrow()
    if not frame_settings:
        return form
    if form.frame is None:
        raise UserError(
            f"{FRAME_SETTINGS_FILE} changes the forms csv and space, but the results are {form.name}; remove it, or "
            "choose another output_file_name"
        )
    return replace(form, frame=replace(form.frame, **frame_settings))
