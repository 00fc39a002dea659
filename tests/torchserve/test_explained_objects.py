"""A detector's explain lane in a real TorchServe: `odam` is explained there, and nothing else changes."""

import base64
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from clearsight.documents.deployment.layout import ServingLayout
from clearsight.handlers.scoring.scorer import load_scorer
from clearsight.runs.package import ModelPackage
from clearsight.serving.supervisor.torchserve_files import Admission, ExplainPlan, ServingPlan
from clearsight.serving.supervisor.torchserve_process import TorchServeProcess
from clearsight.wire.encoding import encode_answers

pytestmark = [pytest.mark.slow, pytest.mark.torchserve, pytest.mark.asyncio, pytest.mark.timeout(600)]


def body_of(image: bytes, **xai_parameters: object) -> bytes:
    text = {"image_base64": base64.b64encode(image).decode(), "model_explainability": True}
    cell = json.dumps({**text, "xai_parameters": xai_parameters})
    return json.dumps({"input_data": {"columns": ["image"], "data": [cell]}}).encode()


async def test_a_detector_is_explained_in_its_lane_and_answers_azures_names_plainly(
    detector_package: Callable[[str], ModelPackage], drawn_images: list[Path], tmp_path: Path
) -> None:
    package = detector_package("yolov5")
    image = drawn_images[0].read_bytes()
    plain = encode_answers(
        load_scorer(package, backend="onnxruntime", device="cpu", num_threads=1).score([image])  # type: ignore[arg-type]
    )
    plan = ServingPlan(
        model_name="blue",
        package=package.root,
        layout=ServingLayout("onnxruntime", num_threads=1),
        admission=Admission(request_timeout_s=170.0),
        explain=ExplainPlan(num_threads=1, max_in_flight=4),
    )
    process = TorchServeProcess(plan, tmp_path / "blue.log")
    odam = body_of(image, xai_algorithm="odam", details=True, detections=[1, 0])
    try:
        await process.start()
        await process.wait_ready(200)
        for path in (process.explain_path, process.implied_path, "/predictions/blue"):
            assert await process.predict(body_of(image, xai_algorithm="xrai"), path) == (200, plain)
        status, body = await process.predict(odam, "/predictions/blue")
        assert (status, "CLEARSIGHT_EXPLAIN" in json.loads(body)["message"]) == (421, True)
        for path in (process.explain_path, process.implied_path):
            status, body = await process.predict(odam, path)
            assert status == 200, body
            (row,) = json.loads(body)
            assert {"boxes": row["boxes"]} == json.loads(plain)[0]
            assert [part["index"] for part in row["explanations"]] == [1, 0]
            for part in row["explanations"]:
                assert base64.b64decode(part["visualizations"]).startswith(b"\x89PNG")
                assert part["explanation_details"]["matched_iou"] > 0.99
        status, body = await process.predict(body_of(image, xai_algorithm="rise"), process.explain_path)
        assert (status, "must be one of odam" in json.loads(body)["message"]) == (400, True)
    finally:
        await process.stop()
