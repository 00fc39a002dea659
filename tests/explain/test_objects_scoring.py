"""Explained rows of detectors: keys, boxes and maps, and answers to requests with Azure's keys alone."""

import base64
import io
import json
import shutil

import numpy as np
import pytest
from PIL import Image

from clearsight.catalogue.algorithms import AZURE_ALGORITHMS
from clearsight.errors import BadRequest
from clearsight.handlers.explain.answering.scoring import ExplainingScorer, explaining_scorer
from clearsight.handlers.explain.deadline import OutOfTime
from clearsight.handlers.explain.objects import explainer
from clearsight.handlers.explain.objects.heat import heat_of
from clearsight.handlers.explain.options import ExplainOptions
from clearsight.handlers.explain.telemetry import observed
from clearsight.handlers.scoring.answering import answer_bodies
from clearsight.handlers.scoring.scorer import load_scorer
from clearsight.handlers.worker.explain_lane import RequestOptions, explainer_for_lane
from clearsight.runs.package import ModelPackage
from clearsight.wire.encoding import encode_answers, to_document

BOXES = pytest.param("fasterrcnn_resnet18_fpn", marks=pytest.mark.slow)  # goes the way of Mask R-CNN
NAMES = ("yolov5", BOXES, "maskrcnn_resnet18_fpn")
ODAM = {"xai_algorithm": "odam"}
NUMBERS = {**ODAM, "visualizations": False, "attributions": True}
SIZES_HW = {"yolov5": (53, 64), "fasterrcnn_resnet18_fpn": (64, 77), "maskrcnn_resnet18_fpn": (64, 77)}
"""Sizes of the maps of 80 x 96 images: letterboxed to 64 pixels, or the shorter side scaled to 64."""


@pytest.fixture(scope="session")
def explaining_detector(detector_package):
    made = {}

    def get(model_name):
        if model_name not in made:
            made[model_name] = explaining_scorer(load_scorer(detector_package(model_name), device="cpu", num_threads=1))
        return made[model_name]

    return get


@pytest.fixture(scope="session")
def tiled_yolo(detector_package, tmp_path_factory):
    root = tmp_path_factory.mktemp("tiled") / "mlflow-model"
    shutil.copytree(detector_package("yolov5").root, root)
    file = root / "artifacts" / "settings.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "tile_grid_size": "2x1"}))
    return explaining_scorer(load_scorer(ModelPackage.open(root), device="cpu", num_threads=1))


def with_clock(explaining, options, clock):
    return ExplainingScorer(explaining._scorer, explaining._objects._model, options, clock)


@pytest.fixture
def slow_maps(monkeypatch):
    """A clock by which a map takes one second, and everything else no time."""
    now_s = [0.0]

    def slowly(*arguments):
        now_s[0] += 1.0
        return heat_of(*arguments)

    monkeypatch.setattr(explainer, "heat_of", slowly)
    return lambda: now_s[0]


@pytest.mark.parametrize("model_name", NAMES)
def test_rows_keep_the_boxes_of_an_unexplained_answer_and_get_maps_that_name_them(
    explaining_detector, images, cell, model_name, size_of_png
):
    explaining = explaining_detector(model_name)
    (plain,) = explaining._scorer.score(images[:1])
    assert len(plain.boxes) > 3
    (answer,) = explaining.score([cell(images[0], **ODAM, attributions=True, details=True)])
    found = to_document(answer)
    assert list(found) == ["boxes", "explanations"]
    assert found["boxes"] == to_document(plain)["boxes"]
    assert json.loads(encode_answers([answer])) == [found]
    assert [part["index"] for part in found["explanations"]] == [0, 1, 2]
    for part in found["explanations"]:
        assert list(part) == ["index", "visualizations", "attributions", "explanation_details"]
        heat_HW = np.array(part["attributions"])
        assert heat_HW.shape == SIZES_HW[model_name]
        assert heat_HW.min() >= 0
        height, width = heat_HW.shape
        assert size_of_png(base64.b64decode(part["visualizations"])) == (2 * width, 2 * height)
        details, box = part["explanation_details"], found["boxes"][part["index"]]
        assert (details["algorithm"], details["label"], details["probability"]) == ("odam", box["label"], box["score"])
        assert details["matched_iou"] > 0.99
        assert (details["tile"], details["degraded"], details["target"]) == (None, False, "score")
        assert details["warnings"] == [] or not heat_HW.any()


@pytest.mark.parametrize("model_name", NAMES[:2])
@pytest.mark.parametrize("algorithm", [*AZURE_ALGORITHMS, None, "nothing said"])
def test_a_plain_azure_request_gets_azures_plain_answer(explaining_detector, images, cell, model_name, algorithm):
    explaining = explaining_detector(model_name)
    parameters = {} if algorithm == "nothing said" else {"xai_algorithm": algorithm}
    asking = cell(images[0], **parameters, visualizations=True, attributions=True)
    plain = encode_answers(explaining._scorer.score(images[:1]))
    assert encode_answers(explaining.score([asking])) == plain
    assert encode_answers(explaining.score([asking], always=True)) == plain
    assert encode_answers(explaining.score(images[:1], always=True)) == plain
    body = json.dumps({"input_data": {"columns": ["image"], "data": [asking]}}).encode()
    for lane in ("predict", "explain", "all"):
        (reply,) = answer_bodies(explaining._scorer, [body], explain=explainer_for_lane(lane, explaining._scorer))
        assert (reply.status, reply.body) == (200, plain)


def test_odam_is_rejected_where_explanations_are_switched_off(explaining_detector, images, cell):
    scorer = explaining_detector("yolov5")._scorer
    body = json.dumps({"input_data": {"columns": ["image"], "data": [cell(images[0], **ODAM)]}}).encode()
    (reply,) = answer_bodies(scorer, [body], explain=explainer_for_lane("predict", scorer))
    assert reply.status == 421
    assert "CLEARSIGHT_EXPLAIN" in json.loads(reply.body)["message"]
    (result,) = scorer.score([cell(images[0], **ODAM)])
    assert isinstance(result, BadRequest)
    (reply,) = answer_bodies(scorer, [body], explain=explainer_for_lane("all", scorer))
    assert "explanations" in json.loads(reply.body)[0]


def test_a_path_that_explains_all_rows_still_needs_the_algorithms_name(explaining_detector, images):
    image = base64.b64encode(images[0]).decode()
    rows = [{"image_base64": image, "xai_parameters": ODAM}, {"image_base64": image}]
    explained, plain = explaining_detector("yolov5").score(rows, always=True)
    assert explained.explanations is not None
    assert plain.explanations is None
    body = json.dumps({"input_data": {"columns": ["image"], "data": rows}}).encode()
    scorer = explaining_detector("yolov5")._scorer
    (reply,) = answer_bodies(scorer, [body], [RequestOptions(explains_all=True)], explainer_for_lane("all", scorer))
    assert ["explanations" in row for row in json.loads(reply.body)] == [True, False]


def test_only_what_was_asked_for_is_answered(explaining_detector, images, cell):
    explaining = explaining_detector("yolov5")
    choices = [
        {"visualizations": True},
        {"visualizations": False, "attributions": True},
        {"visualizations": False, "details": True},
        {"detections": []},
    ]
    answers = explaining.score([cell(images[0], **ODAM, **asking) for asking in choices])
    keys = [[key for part in to_document(answer)["explanations"][:1] for key in part] for answer in answers]
    assert keys == [["index", "visualizations"], ["index", "attributions"], ["index", "explanation_details"], []]
    (plain,) = explaining.score([cell(images[0], **ODAM, visualizations=False)])
    assert list(to_document(plain)) == ["boxes"]


def test_named_detections_come_in_their_order(explaining_detector, images, cell):
    explaining = explaining_detector("yolov5")
    both, each = explaining.score(
        [cell(images[0], **NUMBERS, detections=[3, 0]), cell(images[0], **NUMBERS, detections="all")]
    )
    assert [part.index for part in both.explanations] == [3, 0]
    assert [part.index for part in each.explanations] == list(range(min(len(each.boxes), 20)))
    maps = {part.index: part.attributions for part in each.explanations}
    assert [part.attributions for part in both.explanations] == [maps[3], maps[0]]
    assert len(set(maps.values())) > 1
    (few,) = explaining.score([cell(images[0], **NUMBERS, detections=[10_000])])
    assert isinstance(few, BadRequest)
    (unknown,) = explaining.score([cell(images[0], xai_algorithm="rise")])
    assert "must be one of odam" in str(unknown)


@pytest.mark.parametrize("target", ["score", "box", "mask"])
def test_masks_and_boxes_have_maps_of_their_own(explaining_detector, images, cell, target):
    explaining = explaining_detector("maskrcnn_resnet18_fpn")
    (answer,) = explaining.score([cell(images[0], **NUMBERS, target=target, details=True)])
    assert [part.explanation_details["target"] for part in answer.explanations] == [target] * 3
    assert all(np.isfinite(np.array(json.loads(part.attributions))).all() for part in answer.explanations)
    (other,) = explaining.score([cell(images[0], **NUMBERS, target="score" if target != "score" else "box")])
    assert any(
        one.attributions != two.attributions for one, two in zip(answer.explanations, other.explanations, strict=True)
    )
    (refused,) = explaining_detector("yolov5").score([cell(images[0], **ODAM, target="mask")])
    assert "without masks" in str(refused)


@pytest.mark.parametrize("kind", ["overlay", "heatmap"])
def test_a_single_image_and_compact_numbers(explaining_detector, images, cell, kind, size_of_png):
    asking = {"visualization_format": kind, "attributions": True, "attributions_format": "float32_base64"}
    (answer,) = explaining_detector("yolov5").score([cell(images[0], **ODAM, **asking)])
    part = to_document(answer)["explanations"][0]
    assert size_of_png(base64.b64decode(part["visualizations"])) == (64, 53)
    assert part["attributions"]["shape"] == [53, 64]
    (nested,) = explaining_detector("yolov5").score([cell(images[0], **NUMBERS)])
    raw = np.frombuffer(base64.b64decode(part["attributions"]["data"]), "<f4").reshape(53, 64)
    np.testing.assert_allclose(json.loads(nested.explanations[0].attributions), raw, rtol=6e-5)


def test_a_box_of_a_tile_is_explained_in_its_tile(tiled_yolo, explaining_detector, images, cell):
    (plain,) = tiled_yolo._scorer.score(images[:1])
    (answer,) = tiled_yolo.score([cell(images[0], **NUMBERS, details=True, detections=list(range(20)))])
    assert answer.boxes == plain.boxes
    tiled = [part for part in answer.explanations if part.explanation_details["tile"] is not None]
    assert 0 < len(tiled) < 20
    image = Image.open(io.BytesIO(images[0]))
    for part in tiled[:3]:
        left, top, width, height = part.explanation_details["tile"]
        assert part.explanation_details["matched_iou"] > 0.99
        heat_HW = np.array(json.loads(part.attributions))
        assert heat_HW.shape == (53, 64)
        inside = (
            slice(round(top * 53 / 80), round((top + height) * 53 / 80)),
            slice(round(left * 64 / 96), round((left + width) * 64 / 96)),
        )
        rest_HW = heat_HW.copy()
        rest_HW[inside] = 0
        assert not rest_HW.any()
        # The tile as an image of its own has the same box, and the same map.
        stream = io.BytesIO()
        image.crop((left, top, left + width, top + height)).save(stream, "PNG")
        alone = explaining_detector("yolov5")
        (own,) = alone.score([cell(stream.getvalue(), **NUMBERS, detections="all")])
        score = answer.boxes[part.index].score
        index = next(place for place, found in enumerate(own.boxes) if found.score == pytest.approx(score, abs=1e-5))
        if index < len(own.explanations) and heat_HW.any():
            own_HW = np.array(json.loads(own.explanations[index].attributions))
            row, column = np.unravel_index(heat_HW[inside].argmax(), heat_HW[inside].shape)
            own_row, own_column = np.unravel_index(own_HW.argmax(), own_HW.shape)
            shape, own_shape = heat_HW[inside].shape, own_HW.shape
            assert abs((row + 0.5) / shape[0] - (own_row + 0.5) / own_shape[0]) < 0.06
            assert abs((column + 0.5) / shape[1] - (own_column + 0.5) / own_shape[1]) < 0.06


def test_the_same_request_has_the_same_bytes_and_is_kept_where_a_cache_is_set(explaining_detector, images, cell):
    explaining = explaining_detector("yolov5")
    asking = cell(images[0], **ODAM, attributions=True)
    first, second = (encode_answers(explaining.score([asking])) for _ in range(2))
    assert first == second
    kept = ExplainingScorer(explaining._scorer, explaining._objects._model, ExplainOptions(cache_bytes=10**7))
    asked = cell(images[0], **ODAM, details=True)
    with observed() as telemetry:
        answers = [kept.score([asked])[0] for _ in range(2)]
    assert [row.is_cached for row in telemetry.rows] == [False] * 3 + [True] * 3
    cached = [[part.explanation_details["cached"] for part in answer.explanations] for answer in answers]
    assert cached == [[False] * 3, [True] * 3]
    assert [part.visualizations for part in answers[0].explanations] == [
        part.visualizations for part in answers[1].explanations
    ]


def test_when_the_time_ends_those_done_are_answered_and_the_row_says_so(explaining_detector, images, cell, slow_maps):
    explaining = explaining_detector("yolov5")
    asking = cell(images[0], **ODAM, details=True, detections=[2, 0, 1])
    (answer,) = with_clock(explaining, ExplainOptions(), slow_maps).score([asking], deadline_s=2.5)
    assert answer.is_degraded
    assert [part.index for part in answer.explanations] == [0, 1]  # the best ones
    details = answer.explanations[0].explanation_details
    assert details["degraded"]
    assert details["warnings"] == ["the time ended when 2 of 3 objects were explained"]
    (late,) = with_clock(explaining, ExplainOptions(), slow_maps).score([asking], deadline_s=0.0)
    assert isinstance(late, OutOfTime)
    strict = ExplainOptions(allow_degradation=False)
    (refused,) = with_clock(explaining, strict, slow_maps).score([asking], deadline_s=2.5)
    assert isinstance(refused, OutOfTime)
    assert "ask for fewer 'detections'" in str(refused)
    body = json.dumps({"input_data": {"columns": ["image"], "data": [asking]}}).encode()
    scorer = explaining._scorer
    short = with_clock(explaining, ExplainOptions(), slow_maps)
    (reply,) = answer_bodies(scorer, [body], explain=lambda cells, asking: short.score(cells, deadline_s=2.5))
    assert reply.is_degraded


def test_of_a_tiled_image_too_the_best_are_done_when_the_time_ends(tiled_yolo, images, cell, slow_maps):
    (plain,) = tiled_yolo._scorer.score(images[:1])
    of_tiles = [index for index, thing in enumerate(plain.boxes) if thing.view]
    worse = next(index for index, thing in enumerate(plain.boxes) if not thing.view and index > of_tiles[0])
    asking = cell(images[0], **ODAM, detections=[worse, of_tiles[0]])
    (answer,) = with_clock(tiled_yolo, ExplainOptions(), slow_maps).score([asking], deadline_s=1.0)
    assert plain.boxes[worse].score < plain.boxes[of_tiles[0]].score
    assert [part.index for part in answer.explanations] == of_tiles[:1]
    assert answer.is_degraded


def test_numbers_that_cannot_fit_are_refused_before_they_are_computed(explaining_detector, images, cell, monkeypatch):
    explaining = explaining_detector("yolov5")
    small = ExplainingScorer(
        explaining._scorer, explaining._objects._model, ExplainOptions(max_answer_bytes=3 * 53 * 64 * 9)
    )
    monkeypatch.setattr(explainer.ObjectExplainer, "explain", lambda *_: pytest.fail("explained in vain"))
    (result,) = small.score([cell(images[0], **NUMBERS)])
    assert result.status == 422
    assert "float16_base64" in str(result)


def test_a_box_that_the_eager_network_does_not_see_gets_no_map_and_a_warning(explaining_detector, images, cell):
    explaining = explaining_detector("yolov5")
    other = explaining_detector("maskrcnn_resnet18_fpn")._objects._model  # has other candidates
    strange = ExplainingScorer(explaining._scorer, other)
    (answer,) = strange.score([cell(images[0], **NUMBERS, details=True, detections="all")])
    unknown = [part for part in answer.explanations if part.explanation_details["matched_iou"] < 0.5]
    assert unknown
    assert answer.is_degraded
    for part in unknown:
        assert not np.array(json.loads(part.attributions)).any()
        assert part.explanation_details["warnings"][0].startswith("no map: the network that is explained has no")


def test_a_image_without_objects_has_no_explanations(explaining_detector, cell, detector_package, tmp_path):
    root = tmp_path / "mlflow-model"
    shutil.copytree(detector_package("yolov5").root, root)
    file = root / "artifacts" / "settings.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "box_score_thresh": 0.999}))
    explaining = ExplainingScorer(
        load_scorer(ModelPackage.open(root), device="cpu", num_threads=1),
        explaining_detector("yolov5")._objects._model,
    )
    stream = io.BytesIO()
    Image.new("L", (1, 40), 255).save(stream, "PNG")
    (answer,) = explaining.score([cell(stream.getvalue(), **ODAM, details=True)])
    assert to_document(answer) == {"boxes": [], "explanations": []}


def test_a_broken_image_and_a_request_for_faithfulness(explaining_detector, images, cell):
    explaining = explaining_detector("yolov5")
    broken, answer = explaining.score([cell(b"no picture", **ODAM), cell(images[0], **ODAM, faithfulness=True)])
    assert isinstance(broken, BadRequest)
    assert answer.explanations[0].explanation_details["warnings"] == ["'faithfulness' is measured for classifiers only"]
