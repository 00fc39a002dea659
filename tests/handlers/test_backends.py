"""The contract of every runtime, and a new row that parity, measuring, the gate and `auto` use."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from clearsight.errors import InvalidPackage, UserError
from clearsight.exporters.serving_graphs import open_serving_graphs
from clearsight.handlers import backends
from clearsight.handlers.backends import BackendSpec, OpenOptions
from clearsight.handlers.scoring.scorer import load_scorer
from clearsight.handlers.tuning.measure import measure
from clearsight.handlers.tuning.precision_gate import precision_gate, record_gate
from clearsight.runs.package import ModelPackage
from clearsight.testing.backends import BackendContract


class TestOpenVino(BackendContract):
    @pytest.fixture
    def backend_name(self) -> str:
        return "openvino"

    def test_a_compiled_graph_is_kept_once_per_file_and_options(
        self, file: Path, spec: BackendSpec, tmp_path: Path
    ) -> None:
        cache = tmp_path / "cache"
        for num_threads in (1, 2, 1, 2):
            spec.open(file, OpenOptions(num_threads=num_threads, cache_dir=cache))
        folders = list((cache / "openvino").iterdir())
        assert len(folders) == 2
        assert [len(list(folder.iterdir())) for folder in folders] == [1, 1]
        file.write_bytes(b"not a graph")
        with pytest.raises(InvalidPackage, match="OpenVINO cannot load"):
            spec.open(file, OpenOptions(num_threads=1, cache_dir=cache))


class TestOnnxRuntime(BackendContract):
    @pytest.fixture
    def backend_name(self) -> str:
        return "onnxruntime"


class TestTorchScript(BackendContract):
    @pytest.fixture
    def backend_name(self) -> str:
        return "torchscript"

    @pytest.fixture
    def options(self) -> OpenOptions:
        return OpenOptions(num_threads=1)


TOY_RUNTIME = '''
"""A runtime of another name, which says that it has bf16 and computes it in f32."""

from dataclasses import replace

from clearsight.handlers import backends


def open_toy(file, options):
    from clearsight.handlers.backends.onnxruntime import open_onnxruntime

    return open_onnxruntime(file, replace(options, precision="f32"))


def add_row():
    spec = backends.BackendSpec("toy", "toy_runtime", "onnx", "toy_runtime:open_toy", ("cpu",), ("f32", "bf16"))
    eager = backends._TABLE.pop("eager")
    backends._TABLE.update(toy=spec, eager=eager)


__version__ = "1.0"
'''


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A row for the toy runtime before that of `eager`, in this process and in those that it starts."""
    folder = tmp_path / "path"
    folder.mkdir()
    (folder / "toy_runtime.py").write_text(TOY_RUNTIME)
    (folder / "sitecustomize.py").write_text("import toy_runtime\ntoy_runtime.add_row()\n")
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setenv("PYTHONPATH", str(folder))
    import toy_runtime

    toy_runtime.add_row()
    yield
    del backends._TABLE["toy"]


@pytest.mark.usefixtures("toy")
def test_a_new_row_is_known_to_parity_measuring_the_gate_and_auto(
    tiny_package: ModelPackage, drawn_images: list[Path], tmp_path: Path, images: list[bytes]
) -> None:
    root = Path(shutil.copytree(tiny_package.root, tmp_path / "mlflow-model"))
    compared = {graph.name: graph.runtime for graph in open_serving_graphs(root)}
    assert compared["toy"] == "toy_runtime 1.0"
    manifest_file = root / "artifacts/manifest.json"
    manifest = json.loads(manifest_file.read_text())
    manifest["parity"]["backends"] = {"toy": {"runtime": compared["toy"]}}  # of the others, auto may take only eager
    manifest_file.write_text(json.dumps(manifest))

    scorer = load_scorer(root, device="cpu", num_threads=1)
    assert scorer.backend == "toy"
    assert scorer.score(images) == load_scorer(tiny_package, "onnxruntime", "cpu", num_threads=1).score(images)

    measured = measure(root, seconds=0.01, max_total_s=0)
    assert measured["choice"]["backend"] == "toy"

    gate = precision_gate(root, drawn_images, backend="toy", num_threads=1)
    assert (gate["backend"], gate["passed"], gate["agreement"]) == ("toy", True, 1.0)
    record_gate(ModelPackage.open(root), gate)
    assert load_scorer(root, device="cpu", precision="bf16", num_threads=1).backend == "toy"
    with pytest.raises(UserError, match=r"passed its gate .* with the backend toy, but got backend 'openvino'"):
        load_scorer(root, "openvino", "cpu", "bf16")
