"""Packages of detection and segmentation through a real TorchServe: the bytes that the Scorer gives."""

import asyncio
import base64
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from clearsight.documents.deployment.layout import ServingLayout
from clearsight.handlers.scoring.answering import answer_bodies
from clearsight.handlers.scoring.scorer import load_scorer
from clearsight.runs.package import ModelPackage
from clearsight.serving.supervisor.torchserve_files import ServingPlan
from clearsight.serving.supervisor.torchserve_process import TorchServeProcess

pytestmark = [pytest.mark.torchserve, pytest.mark.asyncio]


def bodies(drawn_images: list[Path]) -> list[bytes]:
    """Every form of a request, and one with a row that is no image."""
    first, second = (base64.b64encode(file.read_bytes()).decode() for file in drawn_images[:2])
    explained = json.dumps({"image_base64": first, "model_explainability": True})
    envelopes = [
        {"columns": ["image"], "data": [first]},
        {"columns": ["image"], "index": [0, 1], "data": [[first], [second]]},
        {"columns": ["image"], "index": [], "data": []},
        [f"data:image/png;base64,{second}"],
        {"columns": ["image"], "data": [explained]},
        {"columns": ["image"], "data": [first, "bm90IGEgcGljdHVyZQ=="]},
    ]
    return [json.dumps({"input_data": envelope}).encode() for envelope in envelopes]


@pytest.mark.slow
@pytest.mark.parametrize("model_name", ["yolov5", pytest.param("maskrcnn_resnet18_fpn", marks=pytest.mark.slow)])
async def test_every_form_of_a_request_gets_the_scorers_bytes(
    detector_package: Callable[[str], ModelPackage], drawn_images: list[Path], tmp_path: Path, model_name: str
) -> None:
    package = detector_package(model_name)
    scorer = load_scorer(package, backend="onnxruntime", device="cpu", num_threads=1)
    asked = bodies(drawn_images)
    expected = [(reply.status, reply.body) for reply in answer_bodies(scorer, asked)]
    assert [status for status, _ in expected] == [200] * 5 + [400]
    plan = ServingPlan(
        model_name="blue",
        package=package.root,
        layout=ServingLayout("onnxruntime", num_threads=1, batch_size=4, max_batch_delay_ms=50),
    )
    process = TorchServeProcess(plan, tmp_path / "blue.log")
    try:
        await process.start()
        await process.wait_ready(90)
        assert await asyncio.gather(*(process.predict(body) for body in asked)) == expected
        assert [await process.predict(body) for body in asked] == expected
    finally:
        await process.stop()
    rows = json.loads(expected[0][1])
    assert rows[0]["boxes"]
    has_masks = model_name.startswith("maskrcnn")
    assert all(("polygon" in found) == has_masks for found in rows[0]["boxes"])
