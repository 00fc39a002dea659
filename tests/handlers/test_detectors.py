"""Detection and segmentation through the Scorer, on real small networks: every backend, every setting, any batch."""

import base64
import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from clearsight.errors import BadImage, BadRequest, InvalidPackage
from clearsight.handlers.scoring.answering import answer_bodies
from clearsight.handlers.scoring.scorer import Scorer, load_scorer
from clearsight.runs.package import ModelPackage
from clearsight.wire.answers import DetectedObject, DetectionAnswer

BACKENDS = ["openvino", "onnxruntime", "torchscript", "eager"]
MASKS = "maskrcnn_resnet18_fpn"
BOXES = ("fasterrcnn_resnet18_fpn", "retinanet_resnet50_fpn")
every_backend = pytest.mark.parametrize(
    ("model_name", "backend"),
    [
        *(("yolov5", backend) for backend in BACKENDS),
        (MASKS, "openvino"),
        *(pytest.param(MASKS, backend, marks=pytest.mark.slow) for backend in BACKENDS[1:]),
        *(pytest.param(name, backend, marks=pytest.mark.slow) for name in BOXES for backend in BACKENDS),
    ],
)
GOLDEN_IMAGE = (
    "iVBORw0KGgoAAAANSUhEUgAAAAgAAAAECAIAAAA8r+mnAAAAG0lEQVR42mNkYPj/n4GRAQMw/mfA\n"
    "DpgYSJUAAAwLAwVVg6ebAAAAAElFTkSuQmCC\n"
)

Load = Callable[..., Scorer]


@pytest.fixture(scope="module")
def load(detector_package: Callable[[str], ModelPackage], tmp_path_factory: pytest.TempPathFactory) -> Load:
    """Gives the Scorer of a small detector, loaded again when settings are edited."""
    loaded: dict[tuple[str, str], Scorer] = {}

    def get(model_name: str, backend: str = "onnxruntime", **settings: Any) -> Scorer:
        root = detector_package(model_name).root
        if settings:
            folder = tmp_path_factory.mktemp("edited") / "mlflow-model"
            shutil.copytree(root, folder, copy_function=os.link)
            file = folder / "artifacts/settings.json"
            document = json.loads(file.read_text())
            file.unlink()  # the link, not the package's own
            file.write_text(json.dumps({**document, **settings}))
            return load_scorer(folder, backend=backend, device="cpu", num_threads=1)
        if (model_name, backend) not in loaded:
            loaded[model_name, backend] = load_scorer(root, backend=backend, device="cpu", num_threads=1)
        return loaded[model_name, backend]

    return get


def objects(scorer: Scorer, image: bytes) -> tuple[DetectedObject, ...]:
    (answer,) = scorer.score([image])
    assert isinstance(answer, DetectionAnswer)
    return answer.boxes


def same_objects(found: tuple[DetectedObject, ...], expected: tuple[DetectedObject, ...]) -> None:
    """As sets: nearly equal scores may swap between runtimes."""
    assert len(found) == len(expected)
    remaining = list(found)
    for one in expected:
        distances = [
            float(np.abs(np.subtract(one.box_xyxy_unit, other.box_xyxy_unit)).max())
            + abs(one.score - other.score)
            + (one.label != other.label)
            for other in remaining
        ]
        assert min(distances) < 1e-3
        remaining.pop(int(np.argmin(distances)))


@pytest.mark.parametrize("model_name", ["yolov5", MASKS])
def test_no_images_give_no_answers(load: Load, model_name):
    assert load(model_name).score([]) == []


@every_backend
def test_every_backend_finds_what_the_eager_network_finds(load: Load, images, model_name, backend):
    expected = [objects(load(model_name, "eager"), image) for image in images[:2]]
    assert len({one.label for found in expected for one in found}) > 1
    for image, wanted in zip(images, expected, strict=False):
        found = objects(load(model_name, backend), image)
        same_objects(found, wanted)
        assert [one.score for one in found] == sorted((one.score for one in found), reverse=True)
        assert all((one.polygon is not None) == model_name.startswith("mask") for one in found)


@pytest.mark.parametrize(
    ("model_name", "backend"),
    [
        *(("yolov5", backend) for backend in BACKENDS),
        *(pytest.param(name, backend, marks=pytest.mark.slow) for name in (MASKS, *BOXES) for backend in BACKENDS),
    ],
)
def test_edited_settings_take_effect_in_both_directions(load: Load, images, model_name, backend):
    """Suppression goes by descending score, so that a higher threshold gives the beginning of the same list."""
    unlimited = {} if model_name == "yolov5" else {"box_detections_per_img": 1000}
    low = objects(load(model_name, backend, box_score_thresh=0.01, **unlimited), images[0])
    high = objects(load(model_name, backend, box_score_thresh=0.99), images[0])
    # Random weights of RetinaNet rate everything at a half and more.
    assert min(one.score for one in low) < (0.6 if model_name.startswith("retinanet") else 0.3)
    assert len(high) < len(low)
    same_objects(high, tuple(one for one in low if one.score > 0.99))
    unsuppressed = objects(load(model_name, backend, box_score_thresh=0.01, nms_iou_thresh=1.0, **unlimited), images[0])
    assert len(unsuppressed) > len(low)
    size = {"img_size": 128} if model_name == "yolov5" else {"min_size": 80, "box_detections_per_img": 3}
    as_trained, resized = (objects(load(model_name, backend, **edit), images[0]) for edit in ({}, size))
    assert resized[:3] != as_trained[:3]
    assert model_name == "yolov5" or len(resized) == 3


@pytest.mark.parametrize(
    ("model_name", "backend", "grid"),
    [
        *(("yolov5", backend, grid) for backend in BACKENDS for grid in (None, "2x1")),
        (MASKS, "openvino", None),
        pytest.param(MASKS, "torchscript", "2x1", marks=pytest.mark.slow),
    ],
)
def test_an_answer_has_the_same_bytes_alone_in_any_company_and_in_any_order(
    load: Load, images, make_body, model_name, backend, grid
):
    scorer = load(model_name, backend, tile_grid_size=grid)
    some = images[:4] if model_name == "yolov5" else images[:1]
    bodies = [make_body(image) for image in (*some, _resized(images[4], 64, 40))]
    alone = [answer_bodies(scorer, [body])[0] for body in bodies]
    assert all(reply.status == 200 for reply in alone)
    assert answer_bodies(scorer, bodies) == alone
    assert answer_bodies(scorer, [*bodies[::-1], bodies[0]]) == [*alone[::-1], alone[0]]


@pytest.mark.parametrize("model_name", ["yolov5", MASKS])
def test_one_bad_row_among_good_ones_gets_its_error_in_order(load: Load, images, model_name):
    scorer = load(model_name, tile_grid_size="2x1")
    good = scorer.score(images[:2])
    mixed = scorer.score([b"nonsense", images[0], images[1][:200], images[1], 7])
    assert [mixed[1], mixed[3]] == good
    assert all(isinstance(mixed[place], BadRequest) for place in (0, 2, 4))
    assert isinstance(mixed[2], BadImage)


def test_an_image_smaller_than_the_grid_is_scored_whole(load: Load, images):
    tiny = _resized(images[0], 9, 7)
    assert objects(load("yolov5", tile_grid_size="5x3"), tiny) == objects(load("yolov5"), tiny)


def test_tiles_change_the_answer_and_switching_them_off_brings_the_plain_one_back(load: Load, images):
    plain = objects(load("yolov5"), images[0])
    assert objects(load("yolov5", tile_grid_size="2x2"), images[0]) != plain
    assert objects(load("yolov5", tile_grid_size=None), images[0]) == plain
    assert objects(load("yolov5", tile_grid_size="1x1"), images[0]) == plain


@pytest.mark.parametrize("kind", ["grey", "palette", "alpha", "exif"])
def test_every_kind_of_image_is_scored_as_its_upright_colours(load: Load, images, kind):
    scorer = load("yolov5", tile_grid_size="2x1")
    with Image.open(io.BytesIO(images[0])) as opened:
        image = opened.convert("RGB")
    exif = Image.Exif()
    if kind == "grey":
        shown = image.convert("L")
        plain = shown.convert("RGB")
    elif kind == "palette":
        shown = image.quantize(64)
        plain = shown.convert("RGB")
    elif kind == "alpha":
        shown, plain = image.copy(), image
        shown.putalpha(90)
    else:
        exif[274] = 6  # the camera was turned: a viewer turns it by 90 degrees clockwise
        shown, plain = image.transpose(Image.Transpose.ROTATE_90), image
    assert objects(scorer, _png(shown, exif=exif)) == objects(scorer, _png(plain))


@pytest.mark.parametrize(("model_name", "keys"), [("yolov5", 3), (MASKS, 4)])
def test_the_golden_request_gives_the_golden_shape(load: Load, model_name, keys):
    request = json.dumps({"input_data": {"columns": ["image"], "data": [GOLDEN_IMAGE]}}).encode()
    (reply,) = answer_bodies(load(model_name, box_score_thresh=0.0), [request])
    (row,) = json.loads(reply.body)
    assert list(row) == ["boxes"]
    assert row["boxes"]
    for found in row["boxes"]:
        assert list(found) == ["box", "label", "score", "polygon"][:keys]
        assert list(found["box"]) == ["topX", "topY", "bottomX", "bottomY"]
        left, top, right, bottom = found["box"].values()
        assert 0 <= left < right <= 1
        assert 0 <= top < bottom <= 1
        assert 0 < found["score"] <= 1
        assert all(len(part) >= 6 and len(part) % 2 == 0 for part in found.get("polygon", []))
    (nothing,) = answer_bodies(load(model_name, box_score_thresh=1.0), [request])
    assert nothing.body == b'[{"boxes":[]}]'


def test_a_request_for_an_explanation_gets_the_plain_answer(load: Load, images):
    """Azure: "only scores are returned" by models of these tasks."""
    cell = {"image_base64": base64.b64encode(images[0]).decode(), "model_explainability": True}
    assert load("yolov5").score([json.dumps(cell)]) == load("yolov5").score([images[0]])


def test_warm_up_scores_without_complaint(load: Load):
    load("yolov5", tile_grid_size="8x8").warm_up()


def test_labels_that_do_not_fit_the_graph_are_refused(load: Load, detector_package, tmp_path):
    root = Path(shutil.copytree(detector_package("yolov5").root, tmp_path / "mlflow-model"))
    labels = b'["can"]'
    (root / "artifacts/labels.json").write_bytes(labels)
    manifest = json.loads((root / "artifacts/manifest.json").read_text())
    manifest["num_classes"] = 1
    manifest["files"]["artifacts/labels.json"] = {"sha256": sha256(labels).hexdigest(), "num_bytes": len(labels)}
    (root / "artifacts/manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(InvalidPackage, match="has 1 labels, but its graph gives class"):
        load_scorer(root, backend="onnxruntime", device="cpu")


def test_the_graph_of_another_task_is_refused(load: Load, detector_package, tmp_path):
    root = Path(shutil.copytree(detector_package(MASKS).root, tmp_path / "mlflow-model"))
    manifest = json.loads((root / "artifacts/manifest.json").read_text())
    manifest |= {"task": "image_object_detection", "model_name": "fasterrcnn_resnet18_fpn"}
    (root / "artifacts/manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(InvalidPackage, match="must have a graph with 3 outputs"):
        load_scorer(root, backend="onnxruntime", device="cpu")


def _png(image: Image.Image, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "PNG", **options)
    return stream.getvalue()


def _resized(image: bytes, width: int, height: int) -> bytes:
    with Image.open(io.BytesIO(image)) as opened:
        return _png(opened.convert("RGB").resize((width, height)))


@pytest.mark.slow
def test_a_process_that_has_imported_nothing_else_loads_the_graph_of_every_backend(detector_package):
    """TorchScript graphs need torchvision's operators, which only its import registers."""
    code = (
        "import sys; from clearsight.handlers.scoring.scorer import load_scorer; load_scorer(sys.argv[1], sys.argv[2])"
    )
    root = detector_package(MASKS).root
    for backend in ("torchscript", "onnxruntime", "openvino"):
        done = subprocess.run(
            [sys.executable, "-c", code, str(root), backend], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
