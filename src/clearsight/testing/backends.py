# ruff: noqa: S101
"""The contract of `handlers.backends.Backend`, as tests for whoever adds a row to the table of runtimes."""

import gc
import weakref
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import torch
from torch import nn

from clearsight.errors import InvalidPackage
from clearsight.exporters.graphs import run_eager
from clearsight.exporters.serving_graphs import export_serving_graphs
from clearsight.handlers.backends import BACKENDS, Array, BackendSpec, OpenOptions
from clearsight.networks.serving import GraphSignature

__all__ = ["BackendContract"]


class _TwoOutputs(nn.Module):
    """A small network with outputs of two shapes, and enough channels for a runtime's vector kernels."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.features = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.ReLU())
        self.classes = nn.Linear(16, 5)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) / 4)

    def forward(self, images_NCHW: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        features_NCHW = self.features(images_NCHW)
        return self.classes(features_NCHW.mean(dim=(2, 3))), features_NCHW.amax(dim=1)


_BATCH: dict[int, str] = {0: "batch"}
_SIGNATURE = GraphSignature(("images",), ("logits", "map"), dict.fromkeys(("images", "logits", "map"), _BATCH))


class BackendContract:
    """Inherit it in a test class whose name starts with `Test`, and give `backend_name`, a row that opens graph files.

    A row that cannot run on the CPU overrides `options` too.
    """

    @pytest.fixture
    def backend_name(self) -> str:
        raise NotImplementedError

    @pytest.fixture
    def options(self) -> OpenOptions:
        return OpenOptions(num_threads=2)

    @pytest.fixture
    def spec(self, backend_name: str) -> BackendSpec:
        return BACKENDS[backend_name]

    @pytest.fixture
    def file(self, spec: BackendSpec, tmp_path: Path) -> Path:
        """A graph file that the test may change."""
        file = spec.file_in(tmp_path / "package")
        file.parent.mkdir(parents=True)
        file.write_bytes(_graph_files()[file.name])
        return file

    @pytest.mark.parametrize("batch_size", [1, 2, 3, 8])
    def test_outputs_are_the_networks_in_its_order_for_every_batch(
        self, spec: BackendSpec, file: Path, options: OpenOptions, batch_size: int
    ) -> None:
        images_NCHW = _images(batch_size)
        outputs = spec.open(file, options).run([images_NCHW])
        assert [output.shape for output in outputs] == [(batch_size, 5), (batch_size, 10, 14)]
        for output, expected in zip(outputs, run_eager(_network())([images_NCHW]), strict=True):
            np.testing.assert_allclose(output, expected, atol=1e-4)

    def test_outputs_are_new_arrays_and_inputs_stay(self, spec: BackendSpec, file: Path, options: OpenOptions) -> None:
        backend, images_NCHW = spec.open(file, options), _images(2)
        before = images_NCHW.copy()
        first = backend.run([images_NCHW])
        kept = [output.copy() for output in first]
        backend.run([images_NCHW + np.float32(1)])
        np.testing.assert_array_equal(images_NCHW, before)
        for output, copied in zip(first, kept, strict=True):
            np.testing.assert_array_equal(output, copied)

    def test_bits_do_not_depend_on_the_batch_where_the_row_says_so(
        self, spec: BackendSpec, file: Path, options: OpenOptions
    ) -> None:
        if not spec.is_batch_invariant:
            pytest.skip("this row makes no promise")
        backend, images_NCHW = spec.open(file, options), _images(8)
        together = backend.run([images_NCHW])
        for start, stop in ((0, 1), (7, 8), (2, 5)):
            some = backend.run([images_NCHW[start:stop]])
            for part, whole in zip(some, together, strict=True):
                np.testing.assert_array_equal(part, whole[start:stop])

    @pytest.mark.parametrize("damage", ["empty", "text", "cut"])
    def test_a_bad_file_is_an_invalid_package_named_in_one_line(
        self, spec: BackendSpec, file: Path, options: OpenOptions, damage: str
    ) -> None:
        content = file.read_bytes()
        file.write_bytes({"empty": b"", "text": b"not a graph", "cut": content[: len(content) // 2]}[damage])
        with pytest.raises(InvalidPackage) as caught:
            spec.open(file, options)
        assert str(file) in str(caught.value)
        assert "\n" not in str(caught.value)

    def test_a_missing_file_is_an_invalid_package(
        self, spec: BackendSpec, tmp_path: Path, options: OpenOptions
    ) -> None:
        with pytest.raises(InvalidPackage):
            spec.open(tmp_path / "nowhere", options)

    def test_the_file_may_go_once_it_is_open_and_the_last_reference_closes_the_backend(
        self, spec: BackendSpec, file: Path, options: OpenOptions
    ) -> None:
        backend = spec.open(file, options)
        file.unlink()
        backend.run([_images(1)])
        closed = weakref.ref(backend)
        del backend
        gc.collect()
        assert closed() is None

    def test_a_cache_changes_no_bit_and_is_never_needed(
        self, spec: BackendSpec, file: Path, options: OpenOptions, tmp_path: Path
    ) -> None:
        plain = spec.open(file, options).run([_images(3)])
        not_a_folder = tmp_path / "taken"
        not_a_folder.touch()
        for cache_dir in (tmp_path / "new" / "cache", tmp_path / "new" / "cache", not_a_folder):
            cached = OpenOptions(options.device, options.precision, options.num_threads, cache_dir)
            for output, expected in zip(spec.open(file, cached).run([_images(3)]), plain, strict=True):
                np.testing.assert_array_equal(output, expected)

    def test_the_runtime_is_named_with_its_version(self, spec: BackendSpec) -> None:
        name, version = spec.runtime().split(" ")
        assert name == spec.needs
        assert version[0].isdigit()


def _images(batch_size: int) -> Array:
    return np.random.default_rng(0).standard_normal((batch_size, 3, 12, 16), np.float32)


@cache
def _network() -> nn.Module:
    return _TwoOutputs().eval()


@cache
def _graph_files() -> Mapping[str, bytes]:
    """The network's serving graphs, by the name of their file."""
    with TemporaryDirectory() as folder:
        (Path(folder) / "artifacts").mkdir()
        export_serving_graphs(_network(), (torch.zeros(2, 3, 12, 16),), _SIGNATURE, Path(folder))
        return {file.name: file.read_bytes() for file in (Path(folder) / "artifacts").iterdir()}
