import base64
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from clearsight.handlers.scoring.scorer import Scorer, load_scorer
from clearsight.runs.package import ModelPackage


@pytest.fixture(scope="session")
def scorer(tiny_package: ModelPackage) -> Scorer:
    return load_scorer(tiny_package, device="cpu", num_threads=1)


@pytest.fixture(scope="session")
def multilabel_scorer(tiny_multilabel_package: ModelPackage) -> Scorer:
    return load_scorer(tiny_multilabel_package, device="cpu", num_threads=1)


@pytest.fixture(scope="session")
def explaining(scorer: Scorer) -> Any:
    """An `ExplainingScorer` of `tiny_package`."""
    from clearsight.handlers.explain.answering.scoring import explaining_scorer

    return explaining_scorer(scorer)


@pytest.fixture(scope="session")
def explaining_multilabel(multilabel_scorer: Scorer) -> Any:
    from clearsight.handlers.explain.answering.scoring import explaining_scorer

    return explaining_scorer(multilabel_scorer)


@pytest.fixture(scope="session")
def images(drawn_images: list[Path]) -> list[bytes]:
    return [file.read_bytes() for file in drawn_images[:6]]


@pytest.fixture(scope="session")
def cell() -> Callable[..., str]:
    """Makes the text of a cell that requests an explanation, as Azure's samples write it."""

    def make(image: bytes, **xai_parameters: object) -> str:
        document = {"image_base64": base64.encodebytes(image).decode(), "model_explainability": True}
        return json.dumps({**document, "xai_parameters": xai_parameters})

    return make


@pytest.fixture(scope="session")
def size_of_png() -> Callable[[bytes], tuple[int, int]]:
    def size(data: bytes) -> tuple[int, int]:
        with Image.open(io.BytesIO(data)) as image:
            assert (image.format, image.mode) == ("PNG", "RGB")
            return image.size

    return size


@pytest.fixture(scope="session")
def with_options() -> Callable[..., Any]:
    """Makes an `ExplainingScorer` with the networks of another one and other options."""
    from clearsight.handlers.explain.answering.scoring import ExplainingScorer

    def make(explaining: Any, options: Any, **more: Any) -> Any:
        return ExplainingScorer(explaining._scorer, explaining._explainer._model, options, **more)

    return make
