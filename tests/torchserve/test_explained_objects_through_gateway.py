"""Explained detectors end to end: gateway, TorchServe with both lanes, a package. Without stand-ins."""

import asyncio
import base64
import io
import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import pytest
import pytest_asyncio
from PIL import Image

from clearsight.documents.deployment.layout import ServingLayout
from clearsight.handlers.explain.answering.scoring import ExplainingScorer, explaining_scorer
from clearsight.handlers.scoring.scorer import load_scorer
from clearsight.runs.package import ModelPackage
from clearsight.serving.supervisor.torchserve_files import Admission, ExplainPlan, ServingPlan
from clearsight.serving.supervisor.torchserve_process import TorchServeProcess
from clearsight.wire.encoding import encode_answers

pytestmark = [
    pytest.mark.slow,
    pytest.mark.torchserve,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.timeout(600),
]

TIMEOUT_S = 170.0


@dataclass(frozen=True, slots=True)
class Reply:
    status: int
    body: bytes
    headers: Mapping[str, str]
    """Case-insensitive."""

    @property
    def document(self) -> Any:
        return json.loads(self.body)


@dataclass
class Served:
    """A package behind a gateway, as a client sees it, and the same package in this process."""

    process: TorchServeProcess
    request_log: Path
    client: aiohttp.ClientSession
    local: ExplainingScorer

    async def ask(self, path: str, body: bytes | None = None, method: str = "POST") -> Reply:
        async with self.client.request(method, path, data=body) as response:
            return Reply(response.status, await response.read(), response.headers)

    async def explainer_pid(self) -> int:
        [(pid, status)] = await self.process.worker_states(self.process.plan.explain_name)
        assert status == "READY"
        return pid

    async def lane_of(self, reply: Reply) -> str:
        """The lane that answered, from the request log, which is written twice a second."""
        async with asyncio.timeout(10):
            while True:
                for line in self.request_log.read_text().splitlines():
                    entry = json.loads(line)
                    if entry["XRequestId"] == reply.headers["x-request-id"]:
                        return str(entry["Lane"])
                await asyncio.sleep(0.1)

    def in_process(self, cell: str) -> bytes:
        return encode_answers(self.local.score([cell]))  # type: ignore[arg-type]  # no row fails


@asynccontextmanager
async def serving(package: ModelPackage, folder: Path, behind_gateway: Callable[..., Any]) -> AsyncIterator[Served]:
    plan = ServingPlan(
        "blue",
        package.root,
        ServingLayout("onnxruntime", device="cpu", num_threads=1),
        Admission(request_timeout_s=TIMEOUT_S),
        explain=ExplainPlan(num_threads=1, max_in_flight=4),
    )
    process = TorchServeProcess(plan, folder / "blue.log")
    async with (
        behind_gateway(process, folder / "home", 200) as front,
        aiohttp.ClientSession(front.url, headers=front.headers) as client,
    ):
        local = explaining_scorer(load_scorer(package, backend="onnxruntime", device="cpu", num_threads=1))
        yield Served(process, front.workspace.logs / "requests.jsonl", client, local)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def yolov5(
    detector_package: Callable[[str], ModelPackage],
    behind_gateway: Callable[..., Any],
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[Served]:
    async with serving(detector_package("yolov5"), tmp_path_factory.mktemp("yolov5"), behind_gateway) as served:
        yield served


@pytest.fixture(scope="module")
def image(drawn_images: list[Path]) -> bytes:
    """Of 96 x 80 pixels."""
    return drawn_images[0].read_bytes()


def cell_of(image: bytes, **xai_parameters: object) -> str:
    text = {"image_base64": base64.b64encode(image).decode(), "model_explainability": True}
    return json.dumps({**text, "xai_parameters": xai_parameters})


def body_of(*cells: str) -> bytes:
    return json.dumps({"input_data": {"columns": ["image"], "data": cells}}).encode()


def size_of_png(text: str) -> tuple[int, int]:
    with Image.open(io.BytesIO(base64.b64decode(text))) as image:
        assert image.format == "PNG"
        return image.size


def without_times(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    for row in rows:
        for part in row["explanations"]:
            del part["explanation_details"]["milliseconds"]
    return rows


async def test_odam_is_the_same_by_both_routes_and_in_process_while_plain_requests_stay_in_their_lane(
    yolov5: Served, image: bytes
) -> None:
    plain = await yolov5.ask("score", body_of(base64.b64encode(image).decode()))
    assert (plain.status, await yolov5.lane_of(plain)) == (200, "predict")
    cell = cell_of(image, xai_algorithm="odam", attributions=True)
    scored, explained, beside = await asyncio.gather(
        yolov5.ask("score", body_of(cell)),
        yolov5.ask("explain", body_of(cell)),
        yolov5.ask("score", body_of(base64.b64encode(image).decode())),
    )
    assert scored.status == 200, scored.body
    assert scored.body == explained.body == yolov5.in_process(cell)
    assert [await yolov5.lane_of(reply) for reply in (scored, explained, beside)] == ["explain", "explain", "predict"]
    assert beside.body == plain.body

    [row] = scored.document
    assert {"boxes": row["boxes"]} == plain.document[0]
    assert [part["index"] for part in row["explanations"]] == sorted(
        sorted(range(len(row["boxes"])), key=lambda index: -row["boxes"][index]["score"])[:3]
    )
    for part in row["explanations"]:
        heat_HW = np.array(part["attributions"])
        assert heat_HW.shape == (53, 64)  # 80 x 96, the longer side as the network sees it
        assert heat_HW.min() >= 0
        assert size_of_png(part["visualizations"]) == (128, 106)

    detailed = cell_of(image, xai_algorithm="odam", details=True, detections=[1, 0])
    reply = await yolov5.ask("explain", body_of(detailed))
    assert without_times(reply.document) == without_times(json.loads(yolov5.in_process(detailed)))
    assert "x-explanation-degraded" not in reply.headers
    for part in reply.document[0]["explanations"]:
        details = part["explanation_details"]
        box = row["boxes"][part["index"]]
        assert (details["algorithm"], details["target"]) == ("odam", "score")
        assert (details["label"], details["probability"]) == (box["label"], box["score"])
        assert details["matched_iou"] > 0.99
        assert set(details["strides"]) <= {8, 16, 32}
        assert (details["tile"], details["masks_used"], details["degraded"]) == (None, None, False)
        assert {"network", "gradients", "picture"} >= set(details["milliseconds"]) >= {"gradients", "picture"}


async def test_d_rise_as_a_job_reports_its_progress_and_gives_the_map_of_this_process(
    yolov5: Served, image: bytes
) -> None:
    cell = cell_of(image, xai_algorithm="d_rise", masks=3000, attributions=True)
    for route in ("score", "explain"):
        refused = await yolov5.ask(route, body_of(cell))
        assert (refused.status, refused.headers["ms-azureml-model-error-statuscode"]) == (424, "400")
        assert "/jobs/explain" in refused.body.decode()
    few = cell_of(image, xai_algorithm="d_rise", masks=100)
    allowed = await yolov5.ask("score", body_of(few))
    assert (allowed.status, allowed.body) == (200, yolov5.in_process(few))

    posted = await yolov5.ask("jobs/explain", body_of(cell))
    assert (posted.status, posted.document["status"]) == (202, "Queued")
    place = posted.headers["location"]
    assert place == f"/endpoints/fridge/jobs/explain/{posted.document['id']}"
    points: list[int] = []
    async with asyncio.timeout(150):
        while (reply := await yolov5.ask(place, method="GET")).document["status"] != "Completed":
            document = reply.document
            assert (reply.status, document["status"] in ("Queued", "Running")) == (200, True), document
            progress = document.get("progress", {})
            if "points_done" in progress:
                assert (progress["points"], progress["rows_done"], progress["rows"]) == (3000, 0, 1)
                points.append(progress["points_done"])
            await asyncio.sleep(0.2)
    assert points == sorted(points)
    assert len(set(points)) > 2
    assert reply.body.endswith(b',"result":' + yolov5.in_process(cell) + b"}")
    assert "x-explanation-degraded" not in reply.headers
    [row] = reply.document["result"]
    assert any(np.array(part["attributions"]).any() for part in row["explanations"])


async def test_a_canceled_job_leaves_its_worker_to_the_next_ones(yolov5: Served, image: bytes) -> None:
    pid = await yolov5.explainer_pid()
    endless = body_of(*[cell_of(image, xai_algorithm="d_rise", masks=5000, detections="all")] * 20)
    running, queued = [(await yolov5.ask("jobs/explain", endless)).headers["location"] for _ in range(2)]
    async with asyncio.timeout(150):
        while "points_done" not in (await yolov5.ask(running, method="GET")).document.get("progress", {}):
            await asyncio.sleep(0.1)

    plain = await yolov5.ask("score", body_of(base64.b64encode(image).decode()))
    odam = cell_of(image, xai_algorithm="odam")
    explained = await yolov5.ask("explain", body_of(odam))  # has priority over the job
    assert (plain.status, explained.status, explained.body) == (200, 200, yolov5.in_process(odam))
    for place in (queued, running):
        canceled = await yolov5.ask(place, method="DELETE")
        assert (canceled.status, canceled.document["status"]) == (200, "Canceled")
        again = (await yolov5.ask(place, method="GET")).document
        assert (again["status"], again["error"]["message"]) == ("Canceled", "The job was canceled by a client.")

    short = cell_of(image, xai_algorithm="d_rise", masks=20, seed=3)
    following = await yolov5.ask("jobs/explain", body_of(short))
    async with asyncio.timeout(20):  # far less than the canceled job would have taken
        while (reply := await yolov5.ask(following.headers["location"], method="GET")).document[
            "status"
        ] != "Completed":
            await asyncio.sleep(0.1)
    assert reply.body.endswith(b',"result":' + yolov5.in_process(short) + b"}")
    assert (await yolov5.ask("explain", body_of(odam))).body == explained.body
    assert await yolov5.explainer_pid() == pid


async def test_masks_are_explained_through_the_gateway(
    detector_package: Callable[[str], ModelPackage],
    behind_gateway: Callable[..., Any],
    image: bytes,
    tmp_path: Path,
) -> None:
    async with serving(detector_package("maskrcnn_resnet18_fpn"), tmp_path, behind_gateway) as served:
        bodies = {}
        for target in ("score", "mask"):
            cell = cell_of(image, xai_algorithm="odam", target=target, attributions=True)
            reply = await served.ask("explain", body_of(cell))
            assert (reply.status, reply.body) == (200, served.in_process(cell))
            assert (await served.ask("score", body_of(cell))).body == reply.body
            bodies[target] = reply.document
        [by_score], [by_mask] = bodies["score"], bodies["mask"]
        assert by_score["boxes"] == by_mask["boxes"]
        assert all(thing["polygon"] for thing in by_mask["boxes"])
        maps = [[np.array(part["attributions"]) for part in row["explanations"]] for row in (by_score, by_mask)]
        assert {heat_HW.shape for found in maps for heat_HW in found} == {(64, 77)}
        assert any(
            of_mask.any() and not np.allclose(of_score, of_mask) for of_score, of_mask in zip(*maps, strict=True)
        )
