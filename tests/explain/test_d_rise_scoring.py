"""Rows of detectors explained by masking, with the serving backend alone."""

import base64
import io
import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from clearsight.errors import BadRequest
from clearsight.handlers.explain.algorithms.rise import random_masks
from clearsight.handlers.explain.answering.scoring import ExplainingScorer
from clearsight.handlers.explain.deadline import OutOfTime
from clearsight.handlers.explain.objects.masking import mask_image
from clearsight.handlers.explain.options import ExplainOptions
from clearsight.handlers.explain.telemetry import watched
from clearsight.handlers.scoring.answering import answer_bodies
from clearsight.handlers.scoring.scorer import load_scorer
from clearsight.handlers.worker.explain_lane import InProcessExplainer, RequestOptions
from clearsight.runs.package import ModelPackage
from clearsight.vision.letterbox import shorter_side
from clearsight.wire.encoding import encode_answers, to_document

D_RISE = {"xai_algorithm": "d_rise", "masks": 12, "grid_size": 4}
NUMBERS = {**D_RISE, "visualizations": False, "attributions": True}
SIZES_HW = {"yolov5": (53, 64), "fasterrcnn_resnet18_fpn": (64, 77), "maskrcnn_resnet18_fpn": (64, 77)}


@pytest.fixture(scope="session")
def detector(detector_package):
    """Gives a scorer that explains without an eager copy of the network."""
    made = {}

    def get(model_name):
        if model_name not in made:
            made[model_name] = ExplainingScorer(
                load_scorer(detector_package(model_name), device="cpu", num_threads=1), None
            )
        return made[model_name]

    return get


def edited(package, folder, **settings):
    shutil.copytree(package.root, folder)
    file = folder / "artifacts" / "settings.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **settings}))
    return ExplainingScorer(load_scorer(ModelPackage.open(folder), device="cpu", num_threads=1), None)


@pytest.mark.parametrize(
    "model_name",
    [pytest.param(name, marks=() if name == "yolov5" else pytest.mark.slow) for name in SIZES_HW],
)
def test_rows_keep_their_boxes_and_get_maps_without_an_eager_network(detector, images, cell, model_name, size_of_png):
    explaining = detector(model_name)
    (plain,) = explaining._scorer.score(images[:1])
    (answer,) = explaining.score([cell(images[0], **D_RISE, attributions=True, details=True)])
    found = to_document(answer)
    assert found["boxes"] == to_document(plain)["boxes"]
    assert json.loads(encode_answers([answer])) == [found]
    assert [part["index"] for part in found["explanations"]] == [0, 1, 2]
    height, width = SIZES_HW[model_name]
    for part in found["explanations"]:
        assert list(part) == ["index", "visualizations", "attributions", "explanation_details"]
        heat_HW = np.array(part["attributions"])
        assert heat_HW.shape == (height, width)
        assert heat_HW.min() >= 0
        assert size_of_png(base64.b64decode(part["visualizations"])) == (2 * width, 2 * height)
        details = part["explanation_details"]
        assert (details["algorithm"], details["masks_used"], details["target"]) == ("d_rise", 12, "score")
        assert (details["matched_iou"], details["tile"], details["strides"]) == (None, None, [])
        assert details["warnings"] == [] or not heat_HW.any()
        assert not details["degraded"]
    assert any(np.array(part["attributions"]).any() for part in found["explanations"])
    (refused,) = explaining.score([cell(images[0], xai_algorithm="odam")])
    assert "without the network" in str(refused)


@pytest.mark.slow
def test_maps_are_made_of_what_scoring_answers_to_masked_images(detector_package, images, cell, tmp_path):
    explaining = edited(detector_package("fasterrcnn_resnet18_fpn"), tmp_path / "model", box_score_thresh=0.01)
    scorer, size_hw = explaining._scorer, (64, 77)
    image = Image.open(io.BytesIO(images[0])).convert("RGB")
    # An image of the network's own size, so that scoring neither enlarges it nor puts a canvas around it.
    image_HWC = np.asarray(image.resize(size_hw[::-1], Image.Resampling.BILINEAR))
    assert shorter_side(*size_hw, 64, 96).inner_width == 77

    def to_png(array_HWC):
        stream = io.BytesIO()
        Image.fromarray(array_HWC).save(stream, "PNG")
        return stream.getvalue()

    (answer,) = explaining.score(
        [cell(to_png(image_HWC), **NUMBERS, seed=9, detections="all", attributions_format="float32_base64")]
    )
    assert len(answer.boxes) > 2
    generator = torch.Generator().manual_seed(9)
    sums, shown = np.zeros((len(answer.boxes), *size_hw)), np.zeros(size_hw)
    for _ in range(12):
        mask_HW = random_masks(1, 4, *size_hw, generator)[0].numpy()
        masked_HWC = mask_image(image_HWC, shorter_side(*size_hw, 64, 96), mask_HW, scorer.settings.mean)
        (seen,) = scorer.score([to_png(masked_HWC)])
        shown += mask_HW
        for k, thing in enumerate(answer.boxes):
            weight = 0.0
            for other in seen.boxes:
                if other.label == thing.label:
                    one, two = np.array(thing.box_xyxy_unit), np.array(other.box_xyxy_unit)
                    sides = np.maximum(np.minimum(one[2:], two[2:]) - np.maximum(one[:2], two[:2]), 0)
                    areas = np.prod(one[2:] - one[:2]) + np.prod(two[2:] - two[:2])
                    weight = max(weight, sides.prod() / (areas - sides.prod()) * other.score)
            sums[k] += weight * mask_HW
    for part in to_document(answer)["explanations"]:
        heat_HW = np.frombuffer(base64.b64decode(part["attributions"]["data"]), "<f4").reshape(size_hw)
        np.testing.assert_allclose(heat_HW, sums[part["index"]] / shown, rtol=1e-4, atol=1e-6)
    assert sums.any()


@pytest.mark.slow
def test_boxes_too_weak_to_be_answered_still_count(detector_package, detector, images, cell, tmp_path):
    explaining = detector("fasterrcnn_resnet18_fpn")
    (answer,) = explaining._scorer.score(images[:1])
    best = max(found.score for found in answer.boxes)
    strict = edited(
        detector_package("fasterrcnn_resnet18_fpn"), tmp_path / "model", box_score_thresh=round(best - 1e-3, 4)
    )
    wish = cell(images[0], **NUMBERS, detections=[0])
    (few,), (many,) = strict.score([wish]), explaining.score([wish])
    assert few.boxes[0] == many.boxes[0]
    assert few.explanations[0].attributions == many.explanations[0].attributions


def test_the_same_request_has_the_same_bytes_and_another_seed_others(detector, images, cell):
    explaining = detector("yolov5")
    first, second = (encode_answers(explaining.score([cell(images[0], **NUMBERS)])) for _ in range(2))
    assert first == second
    assert encode_answers(explaining.score([cell(images[0], **NUMBERS, seed=1)])) != first


def test_wrong_parameters_are_reported(detector, images, cell):
    explaining = detector("yolov5")
    for wish, words in [
        ({"target": "mask"}, "'target' must be score for d_rise, but got 'mask'"),
        ({"target": "box"}, "'target' must be score for d_rise, but got 'box'"),
        ({"masks": 5001}, "'masks' must be an integer from 1 to 5000"),
        ({"detections": [999]}, "'detections' must be indices"),
    ]:
        (result,) = explaining.score([cell(images[0], **{**D_RISE, **wish})])
        assert isinstance(result, BadRequest)
        assert words in str(result)


def test_many_masks_are_for_jobs(detector, images, cell):
    explaining = detector("yolov5")
    explain = InProcessExplainer(explaining._scorer, None, lambda _: explaining)

    def reply(wish, **parameters):
        rows = [cell(images[0], **{**NUMBERS, **parameters})]
        body = json.dumps({"input_data": {"columns": ["image"], "data": rows}}).encode()
        (found,) = answer_bodies(explaining._scorer, [body], [wish], explain)
        return found

    assert reply(RequestOptions()).status == 200
    assert reply(RequestOptions(), masks=100).status == 200
    refused = reply(RequestOptions(), masks=101)
    assert refused.status == 400
    assert "/jobs/explain" in json.loads(refused.body)["message"]
    assert reply(RequestOptions(), masks=None).status == 400  # the default are 500
    assert reply(RequestOptions(in_background=True), masks=101).status == 200


def test_a_box_of_a_tile_is_explained_in_its_tile(detector_package, images, cell, tmp_path):
    tiled = edited(detector_package("yolov5"), tmp_path / "model", tile_grid_size="2x1")
    (answer,) = tiled.score([cell(images[0], **NUMBERS, details=True, detections=list(range(20)))])
    parts = [part for part in answer.explanations if part.explanation_details["tile"] is not None]
    assert 0 < len(parts) < 20
    for part in parts:
        left, top, width, height = part.explanation_details["tile"]
        heat_HW = np.array(json.loads(part.attributions))
        assert heat_HW.shape == (53, 64)
        inside = (
            slice(round(top * 53 / 80), round((top + height) * 53 / 80)),
            slice(round(left * 64 / 96), round((left + width) * 64 / 96)),
        )
        assert heat_HW[inside].any()
        heat_HW[inside] = 0
        assert not heat_HW.any()


def test_a_job_can_be_ended_after_each_masked_image(detector, images, cell):
    class Stop(BaseException):
        pass

    class EndedByTheThirdImage:
        def checkpoint(self):
            if len(seen) == 3:
                raise Stop

        def rows_done(self, done, total):
            pass

        def points_done(self, done, total):
            pass

    scorer, seen = detector("maskrcnn_resnet18_fpn")._scorer, []

    class CountingScorer:
        def __getattr__(self, name):
            return getattr(scorer, name)

        def detect(self, canvases, *arguments):
            for found in scorer.detect(canvases, *arguments):
                seen.append(found)
                yield found

    explaining = ExplainingScorer(CountingScorer(), None)
    with pytest.raises(Stop), watched(EndedByTheThirdImage()):  # in the middle of a chunk of eight
        explaining.score([cell(images[0], **D_RISE)])
    assert len(seen) == 3
    (answer,) = explaining.score([cell(images[0], **D_RISE)])
    assert not answer.is_degraded


def test_when_the_time_ends_the_map_so_far_is_answered_and_the_row_says_so(detector, images, cell):
    scorer, now_s = detector("yolov5")._scorer, [0.0]

    class SlowScorer:
        def __getattr__(self, name):
            return getattr(scorer, name)

        def detect(self, canvases, *arguments):
            for found in scorer.detect(canvases, *arguments):
                now_s[0] += 1.0
                yield found

    wish = cell(images[0], **D_RISE, details=True)
    (answer,) = ExplainingScorer(SlowScorer(), None, clock=lambda: now_s[0]).score([wish], deadline_s=4.5)
    assert answer.is_degraded
    details = [part.explanation_details for part in answer.explanations]
    assert [part["masks_used"] for part in details] == [5] * 3
    assert all(part["degraded"] for part in details)
    assert details[0]["warnings"][0] == "the time ended after 5 of 12 masks"
    strict = ExplainingScorer(SlowScorer(), None, ExplainOptions(allow_degradation=False), clock=lambda: now_s[0])
    (refused,) = strict.score([wish], deadline_s=4.5)
    assert isinstance(refused, OutOfTime)
    assert "fewer 'masks'" in str(refused)


def test_a_image_without_objects_has_no_explanations(detector_package, cell, tmp_path):
    explaining = edited(detector_package("yolov5"), tmp_path / "model", box_score_thresh=0.999)
    stream = io.BytesIO()
    Image.new("L", (1, 40), 255).save(stream, "PNG")
    (answer,) = explaining.score([cell(stream.getvalue(), **D_RISE, details=True)])
    assert to_document(answer) == {"boxes": [], "explanations": []}
