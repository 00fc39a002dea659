# ruff: noqa: S101
"""Contract suite of a converter: what every layout that `clearsight data convert` reads promises.

Subclass `ConverterContract` in a test file, name the layout and override the fixtures:

    class TestMine(ConverterContract):
        layout = "mine"

        @pytest.fixture
        def source(self, tmp_path: Path) -> Path: ...
"""

from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar

import pytest
from click.testing import CliRunner

from clearsight.errors import InvalidData
from clearsight.tasks import Task
from clearsight.training.cli_data import data
from clearsight.training.data.converters import LAYOUTS, Conversion, ConversionRequest, OnFault, write_folders
from clearsight.training.data.converters.data_folders import TRAINING_FOLDER, VALIDATION_FOLDER
from clearsight.training.data.table import load_table

__all__ = ["ConverterContract"]

_TOLERANCE = 1e-6


class ConverterContract:
    """Tests that a converter keeps what its layout says. All sources have pixels and labels known by hand."""

    layout: ClassVar[str]
    """Name of the row in `LAYOUTS`."""
    task: ClassVar[Task]
    """Task of `source` when the request names none."""
    label: ClassVar[str | None] = None
    """Class of all objects, for a layout that names no classes."""

    @pytest.fixture
    def source(self) -> Path:
        """A source of at least two images, of which everything can be converted."""
        raise NotImplementedError

    @pytest.fixture
    def expected(self) -> list[tuple[str, Any]]:
        """File name and label of every image of `source`, in the order of the layout.

        A label is a class; a list of classes; or a list of objects, each a class and fractions: left, top, right and
        bottom of a box, or the corners x1, y1, x2, y2, … of a polygon, beginning with any of them.
        """
        raise NotImplementedError

    @pytest.fixture
    def faulty(self) -> tuple[Path, str]:
        """A source with one annotation that cannot be read, and the end of its location, such as `1.xml: object 2`."""
        raise NotImplementedError

    @pytest.fixture
    def rest(self) -> list[str]:
        """File names of the images of `faulty` without a fault, in order; none for a source that is refused whole."""
        raise NotImplementedError

    @pytest.fixture
    def outside(self) -> Path | None:
        """A source with one object partly outside of its image and one wholly outside; None: no coordinates."""
        return None

    @pytest.fixture
    def empty(self) -> Path:
        """A source of the layout without any image."""
        raise NotImplementedError

    @pytest.fixture
    def lossy(self) -> Path | None:
        """A source with exactly one object that its task cannot hold; None for a layout without objects."""
        return None

    def read(self, source: Path, task: Task | None = None, on_fault: OnFault = OnFault.STOP) -> Conversion:
        """Read a source as the command does."""
        return LAYOUTS[self.layout].read(ConversionRequest(source, task, label=self.label, on_fault=on_fault))

    def convert(self, source: Path, output: Path) -> Exception | None:
        """Run the command on a source; return the error of a refused one."""
        label = () if self.label is None else ("--label", self.label)
        flags = ("--from", self.layout, "--output", str(output), "--validation-every", "2", *label)
        error = CliRunner().invoke(data, ["convert", str(source), *flags]).exception
        assert error is None or isinstance(error, Exception)
        return error

    def test_labels_are_those_known_by_hand_in_the_order_of_the_source(
        self, source: Path, expected: list[tuple[str, Any]], tmp_path: Path
    ) -> None:
        conversion = self.read(source)
        assert (conversion.task, conversion.warnings) == (self.task, ())
        write_folders(tmp_path / "written", conversion.entries, [])
        table = load_table(tmp_path / "written" / TRAINING_FOLDER, self.task, "label", {})
        assert not table.warnings
        assert [record.image.name for record in table.records] == [name for name, _ in expected]
        for record, (name, label) in zip(table.records, expected, strict=True):
            boxes = [(box.label, list(box.xyxy_unit)) for box in record.boxes]
            polygons = [(one.label, list(ring)) for one in record.instances for ring in one.polygons_unit]
            assert all(0 <= number <= 1 for _, numbers in (*boxes, *polygons) for number in numbers), name
            match self.task:
                case Task.MULTI_CLASS:
                    assert record.labels == (label,), name
                case Task.MULTI_LABEL:
                    assert list(record.labels) == label, name
                case Task.DETECTION:
                    assert [class_name for class_name, _ in boxes] == [class_name for class_name, _ in label], name
                    for (_, box), (_, known) in zip(boxes, label, strict=True):
                        assert box == pytest.approx(known, abs=_TOLERANCE), name
                case Task.SEGMENTATION:
                    assert [_corners(one) for one in polygons] == [_corners(one) for one in label], name

    def test_reading_again_gives_the_same_and_changes_no_file(self, source: Path) -> None:
        before = _contents(source.parent)
        first, second = self.read(source), self.read(source)
        assert first == second
        assert _contents(source.parent) == before

    def test_each_task_of_the_row_can_be_asked_for(self, source: Path) -> None:
        tasks = LAYOUTS[self.layout].tasks
        assert self.task in tasks
        for task in tasks:
            with suppress(InvalidData):  # such as several classes of an image for a task that takes one
                assert self.read(source, task).task is task

    def test_an_annotation_that_cannot_be_read_is_one_fault_with_its_location(self, faulty: tuple[Path, str]) -> None:
        source, location = faulty
        with pytest.raises(InvalidData) as caught:
            self.read(source)
        [fault] = caught.value.faults
        assert fault.target.endswith(location)
        assert Path(fault.target.removesuffix(location)).exists()
        assert fault.message

    def test_an_image_with_a_fault_can_be_left_out_and_only_that(
        self, source: Path, faulty: tuple[Path, str], rest: list[str]
    ) -> None:
        assert self.read(source, on_fault=OnFault.SKIP) == self.read(source)
        with pytest.raises(InvalidData) as caught:
            self.read(faulty[0], on_fault=OnFault.CLIP)
        [fault] = caught.value.faults
        if not rest:
            with pytest.raises(InvalidData):
                self.read(faulty[0], on_fault=OnFault.SKIP)
            return
        conversion = self.read(faulty[0], on_fault=OnFault.SKIP)
        assert [entry.image.name for entry in conversion.entries] == rest
        assert conversion.changes == (f"{fault.target}: {fault.message}",)

    def test_objects_can_be_cut_off_at_the_edges_of_their_image(self, outside: Path | None, tmp_path: Path) -> None:
        if outside is None:
            return
        with pytest.raises(InvalidData) as caught:
            self.read(outside)
        conversion = self.read(outside, on_fault=OnFault.CLIP)
        assert len(caught.value.faults) == len(conversion.changes) == 2
        assert all(
            change.startswith(f"{fault.target}: ")
            for fault, change in zip(caught.value.faults, conversion.changes, strict=True)
        )
        write_folders(tmp_path / "written", conversion.entries, [])
        table = load_table(tmp_path / "written" / TRAINING_FOLDER, self.task, "label", {})
        assert not table.warnings
        assert sum(len(record.boxes) + len(record.instances) for record in table.records) == 1

    def test_what_is_dropped_is_counted(self, lossy: Path | None) -> None:
        if lossy is not None:
            [warning] = self.read(lossy).warnings
            assert ": 1 (first: " in warning

    def test_a_source_without_images_is_refused_by_its_name(self, empty: Path) -> None:
        with pytest.raises(InvalidData) as caught:
            self.read(empty)
        [fault] = caught.value.faults
        assert fault.target == str(empty)

    def test_the_command_writes_everything_or_nothing(
        self, source: Path, expected: Any, faulty: tuple[Path, str], tmp_path: Path
    ) -> None:
        output = tmp_path / "output"
        assert isinstance(self.convert(faulty[0], output), InvalidData)
        assert not output.exists()
        assert self.convert(source, output) is None, "source and faulty must be two sources"
        files = _contents(output)
        names = {path.relative_to(output).as_posix() for path in files}
        assert names == {
            f"{TRAINING_FOLDER}/MLTable",
            f"{TRAINING_FOLDER}/train_annotations.jsonl",
            f"{VALIDATION_FOLDER}/MLTable",
            f"{VALIDATION_FOLDER}/validation_annotations.jsonl",
        }
        assert sum(content.count(b"\n") for path, content in files.items() if path.suffix == ".jsonl") == len(expected)
        assert isinstance(self.convert(faulty[0], output), InvalidData)
        assert _contents(output) == files


def _corners(labelled: tuple[str, list[float]]) -> tuple[str, list[tuple[float, float]]]:
    """The class and the corners of a polygon, sorted and rounded: two that compare equal have the same corners."""
    label, numbers = labelled
    corners = zip(numbers[0::2], numbers[1::2], strict=True)
    return label, sorted((round(x, 6), round(y, 6)) for x, y in corners)


def _contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
