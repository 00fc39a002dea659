"""The how-tos' examples, applied to a copy of the sources: at most three files each, and the verbs work with them."""

import ast
import base64
import json
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clearsight.runs.workspace import Workspace

REPOSITORY = Path(__file__).parents[2]
PAGES = {page.stem: page for page in sorted((REPOSITORY / "docs" / "how-to").glob("*.md"))}

_BLOCK = re.compile(r"^```python file=(\S+)(?: table=(\w+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """Code of a how-to: a new file, or an entry at the end of a table in a file that exists."""

    file: str
    table: str
    code: str

    def apply(self, root: Path) -> None:
        file = root / self.file
        if not self.table:
            assert not file.exists(), self.file
            file.write_text(self.code)
            return
        lines = file.read_text().splitlines(keepends=True)
        (end,) = (
            statement.end_lineno
            for statement in ast.parse("".join(lines)).body
            if isinstance(statement, ast.AnnAssign)
            and isinstance(statement.target, ast.Name)
            and statement.target.id == self.table
        )
        assert end is not None
        lines.insert(end - 1, self.code.rstrip().rstrip(",") + ",\n")
        file.write_text("".join(lines))


def examples() -> dict[str, list[Block]]:
    """The blocks of each example: a page, or each of its sections that has some."""
    found = {}
    for name, page in PAGES.items():
        for section in re.split(r"^## ", page.read_text(), flags=re.MULTILINE):
            blocks = [Block(*groups) for groups in _BLOCK.findall(section)]
            if blocks:
                found[f"{name}: {section.splitlines()[0]}"] = blocks
    return found


def test_an_example_touches_at_most_three_files() -> None:
    found = examples()
    assert len(found) >= 5
    assert {name: len({block.file for block in blocks}) <= 3 for name, blocks in found.items()} == dict.fromkeys(
        found, True
    )


class Sources:
    """A copy of the sources with every example in it, and the command line that runs on it."""

    def __init__(self, folder: Path) -> None:
        self.root, self.folder = folder / "sources", folder
        for name in ("src", "handlers", "exporters", "serving", "training", "tests"):
            shutil.copytree(
                REPOSITORY / name, self.root / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__")
            )
        shutil.copy(REPOSITORY / "pyproject.toml", self.root)
        for blocks in examples().values():
            for block in blocks:
                block.apply(self.root)

    def run(self, *words: object) -> str:
        command = [sys.executable, *(str(word) for word in words)]
        done = subprocess.run(command, cwd=self.folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{words}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
        return done.stdout

    def cli(self, *words: object) -> Any:
        output = self.run("-c", "from clearsight.cli import main; main()", *words)
        return json.loads(output) if output.lstrip().startswith(("{", "[")) else output

    def train(self, task: str, data: str, model_name: str, **parameters: Any) -> Path:
        """Draw images, train one epoch on one core, and return the package."""
        self.cli("data", "demo", "--output", "scenes", "--num-images", 20, "--easy", "--task", task)
        document = {
            "type": "automl",
            "compute": "cores:0",
            "task": task,
            "target_column_name": "label",
            **{
                f"{split}_data": {"type": "mltable", "path": f"scenes/{data}/{split}-mltable-folder"}
                for split in ("training", "validation")
            },
            "training_parameters": {
                "model_name": model_name,
                "number_of_epochs": 1,
                "advanced_settings": '{"x_pretrained": false}',
                **parameters,
            },
        }
        (self.folder / "job.json").write_text(json.dumps(document))
        job = self.cli("job", "create", "--file", "job.json", "--name", "example")
        assert job["status"] == "Completed"
        return Path(job["outputs"]["best_model"]["path"])

    def serve(self, package: Path, server: Any, image: Path, parameters: dict[str, Any]) -> Any:
        """The answer to one image, explained, of a deployment that computes with the example's backend."""
        self.cli("model", "create", "-n", "example", "--path", package, "--type", "mlflow_model")
        self.cli("online-endpoint", "create", "-n", "example")
        (self.folder / "deployment.yml").write_text(
            "name: blue\nendpoint_name: example\nmodel: azureml:example@latest\ninstance_type: local\n"
            'environment_variables: {CLEARSIGHT_BACKEND: optimized, CLEARSIGHT_EXPLAIN: "true"}\n'
            "request_settings: {request_timeout_ms: 60000}\n"
        )
        self.cli("online-deployment", "create", "-f", "deployment.yml", "--all-traffic")
        assert "backend optimized" in self.cli("online-deployment", "get-logs", "-n", "blue", "-e", "example")
        key = self.cli("online-endpoint", "get-credentials", "-n", "example")["primaryKey"]
        cell = {
            "image_base64": base64.b64encode(image.read_bytes()).decode(),
            "model_explainability": True,
            "xai_parameters": parameters,
        }
        body = {"input_data": {"columns": ["image"], "data": [json.dumps(cell)]}}
        uri = f"http://127.0.0.1:{server.port}/endpoints/example/score"
        status, answer = server.post(uri, key, json.dumps(body).encode())
        assert status == 200, answer
        (row,) = json.loads(answer)
        return row


@pytest.fixture
def sources(workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sources:
    sources = Sources(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(sources.root / "src"))
    return sources


@pytest.mark.slow
def test_the_examples_keep_their_contracts(sources: Sources) -> None:
    files = [block.file for blocks in examples().values() for block in blocks if block.file.startswith("tests/")]
    assert len(files) >= 4
    sources.run(
        *("-m", "pytest", "--rootdir", sources.root, "-c", sources.root / "pyproject.toml", "-p", "no:cacheprovider"),
        *(sources.root / file for file in files),
    )


@pytest.mark.slow
@pytest.mark.torchserve
@pytest.mark.timeout(900)
def test_a_new_classifier_algorithm_backend_and_executor_go_through_every_verb(sources: Sources, server: Any) -> None:
    size = {"training_crop_size": 64, "validation_crop_size": 64, "validation_resize_size": 72}
    package = sources.train("image_classification", "multiclass", "resnet10t", **size)
    assert "optimized" in json.loads((package / "artifacts" / "manifest.json").read_text())["parity"]["backends"]
    sources.cli("model", "export", "--package", package, "--format", "onnx", "--output", "example.onnx")
    image = next((sources.folder / "scenes" / "images").rglob("*.jpg"))
    (answer,), (expected,) = (
        sources.cli("predict", "--package", package, "--backend", backend, image) for backend in ("optimized", "eager")
    )
    assert answer["probs"] == pytest.approx(expected["probs"], abs=1e-4)
    sources.cli("explain", "--package", package, "--algorithm", "gradient_times_input", "--save", "maps", image)
    (array,) = (sources.folder / "maps").glob("*.npy")
    parameters = {"xai_algorithm": "gradient_times_input", "visualizations": False, "attributions": True}
    row = sources.serve(package, server, image, parameters)
    assert row["probs"] == pytest.approx(expected["probs"], abs=1e-4)
    np.testing.assert_allclose(np.array(row["attributions"]), np.load(array), atol=1e-4)


@pytest.mark.slow
@pytest.mark.torchserve
@pytest.mark.timeout(900)
def test_a_new_family_of_detectors_goes_through_every_verb(sources: Sources, server: Any) -> None:
    package = sources.train(
        *("image_object_detection", "detection", "fcos_resnet18_fpn"),
        min_size=96,
        max_size=128,
        box_score_threshold=0.0,
        number_of_epochs=6,  # fewer leave boxes without an area
        random_seed=0,
    )
    sources.cli("model", "export", "--package", package, "--format", "onnx", "--output", "example.onnx")
    image = next((sources.folder / "scenes" / "images").rglob("*.jpg"))
    answers = [
        sources.cli("predict", "--package", package, "--backend", backend, image)[0]["boxes"]
        for backend in ("openvino", "onnxruntime", "torchscript", "optimized", "eager")
    ]
    assert answers[0]
    for boxes in answers[1:]:
        assert [box["score"] for box in boxes] == pytest.approx([box["score"] for box in answers[0]], abs=1e-4)
    sources.cli("explain", "--package", package, "--algorithm", "odam", "--detections", "0", "--save", "maps", image)
    (array,) = (sources.folder / "maps").glob("*.npy")
    assert np.load(array).any()
    row = sources.serve(package, server, image, {"xai_algorithm": "odam", "detections": [0]})
    assert row["boxes"][0]["score"] == pytest.approx(answers[0][0]["score"], abs=1e-4)
    [explanation] = row["explanations"]
    assert base64.b64decode(explanation["visualizations"]).startswith(b"\x89PNG")
