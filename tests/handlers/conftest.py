import base64
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from clearsight.handlers.scoring.scorer import Scorer, load_scorer
from clearsight.runs.package import ModelPackage

BACKENDS = ["openvino", "onnxruntime", "torchscript", "eager"]


@pytest.fixture(scope="session")
def images(drawn_images: list[Path]) -> list[bytes]:
    return [file.read_bytes() for file in drawn_images[:14]]


@pytest.fixture(scope="session")
def scorers(tiny_package: ModelPackage) -> Callable[[str], Scorer]:
    """A Scorer of `tiny_package` per backend, loaded once."""
    loaded: dict[str, Scorer] = {}

    def get(backend: str) -> Scorer:
        if backend not in loaded:
            # torch's threads wait for each other busily, which takes minutes where other processes want the cores too
            num_threads = 1 if backend in ("torchscript", "eager") else 2
            loaded[backend] = load_scorer(tiny_package, backend=backend, device="cpu", num_threads=num_threads)
        return loaded[backend]

    return get


@pytest.fixture(scope="session")
def scorer(scorers: Callable[[str], Scorer]) -> Scorer:
    return scorers("auto")


@pytest.fixture(params=BACKENDS)
def any_scorer(request: pytest.FixtureRequest, scorers: Callable[[str], Scorer]) -> Scorer:
    return scorers(request.param)


@pytest.fixture
def own_package(tiny_package: ModelPackage, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(tiny_package.root, tmp_path / "mlflow-model"))


@pytest.fixture(scope="session")
def make_body() -> Callable[..., bytes]:
    def make(*images: bytes) -> bytes:
        data = [base64.encodebytes(image).decode() for image in images]
        return json.dumps({"input_data": {"columns": ["image"], "data": data}}).encode()

    return make
