"""Maps point at their own objects: small detectors are trained to detect drawn rectangles."""

import io
from dataclasses import asdict

import numpy as np
import pytest
import torch
from PIL import Image

from clearsight.catalogue.models import MODELS
from clearsight.documents.settings import RcnnSettings, YoloSettings
from clearsight.handlers.explain.deadline import Deadline
from clearsight.handlers.explain.objects.explainer import ObjectExplainer, ObjectExplainTask
from clearsight.handlers.explain.objects.network import ObjectModel
from clearsight.handlers.explain.objects.selection import DetectionSelection
from clearsight.handlers.explain.options import DEFAULT_OPTIONS
from clearsight.handlers.explain.parameters import XaiParameters
from clearsight.handlers.scoring.views import to_answer, views_of
from clearsight.images.decode import DecodeLimits
from clearsight.networks.families.rcnn.batch import TrainingTarget
from clearsight.networks.families.rcnn.options import LIGHT
from clearsight.networks.families.rcnn.selection import to_candidates
from clearsight.networks.families.table import build_network
from clearsight.networks.families.yolov5.loss import Yolov5Loss
from clearsight.networks.families.yolov5.serving import best_classes
from clearsight.vision.candidates import Candidates
from clearsight.vision.preprocess import normalise

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

SIDE = 96
LABELS = ("blue", "green")
COLOURS = ((40, 60, 220), (40, 200, 60))
NOTHING = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
SETTINGS = {
    "yolov5": YoloSettings(img_size=SIDE, model_size="nano", box_score_thresh=0.3),
    "fasterrcnn_resnet18_fpn": RcnnSettings(
        min_size=SIDE, max_size=SIDE, box_score_thresh=0.5, mean=NOTHING[0], std=NOTHING[1]
    ),
}
NUM_STEPS = {"yolov5": 300, "fasterrcnn_resnet18_fpn": 90}
BATCH_SIZE = {"yolov5": 8, "fasterrcnn_resnet18_fpn": 4}


def draw(random):
    """An image (96, 96, 3) with a rectangle in two or three of its quarters; boxes and classes."""
    image_HWC = np.clip(random.normal(110, 12, (SIDE, SIDE, 3)), 0, 255).astype(np.uint8)
    boxes, class_ids = [], []
    for quarter in random.permutation(4)[: random.integers(2, 4)]:
        width, height = random.integers(18, 38, 2)
        left, top = (
            random.integers(2, 46 - side) + 48 * place
            for side, place in zip((width, height), divmod(quarter, 2), strict=True)
        )
        class_id = int(random.integers(2))
        image_HWC[top : top + height, left : left + width] = COLOURS[class_id]
        boxes.append([left, top, left + width, top + height])
        class_ids.append(class_id)
    return image_HWC, np.array(boxes, np.float32), class_ids


def train(model_name):
    """A network that finds most of the rectangles, after a minute."""
    random = np.random.default_rng(0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        architecture = {"model_size": "nano", "options": asdict(LIGHT)}
        network = build_network(model_name, len(LABELS), architecture=architecture).train()
        optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
        steps = NUM_STEPS[model_name]
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
        loss_of = Yolov5Loss(network.head.anchors, len(LABELS), SIDE) if model_name == "yolov5" else None
        for _ in range(steps):
            scenes = [draw(random) for _ in range(BATCH_SIZE[model_name])]
            images_NCHW = torch.from_numpy(np.stack([normalise(image_HWC, *NOTHING) for image_HWC, _, _ in scenes]))
            boxes = [torch.from_numpy(boxes) for _, boxes, _ in scenes]
            ids = [torch.tensor(class_ids) for _, _, class_ids in scenes]
            if loss_of is not None:
                loss = loss_of(network(images_NCHW), boxes, ids).total
            else:
                targets = [TrainingTarget(*pair) for pair in zip(boxes, ids, strict=True)]
                loss = torch.stack(list(network(images_NCHW, [(SIDE, SIDE)] * len(scenes), targets).values())).sum()
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 10.0)
            optimizer.step()
            schedule.step()
    return network.eval()


def find(network, image_HWC, settings):
    """The answer that serving makes of the network's candidates."""
    views = views_of(SIDE, SIDE, settings)
    image_1CHW = torch.from_numpy(normalise(image_HWC, *NOTHING))[None]
    with torch.no_grad():
        if isinstance(settings, YoloSettings):
            candidates = Candidates(*(part[0].numpy() for part in best_classes(network(image_1CHW))))
        else:
            candidates = to_candidates(network(image_1CHW, [(SIDE, SIDE)])[0])
    return to_answer(views, [views[0].find(candidates, settings)], settings, LABELS)


def covers_nothing(*_):
    pytest.fail("odam needs no other picture")


@pytest.mark.parametrize("model_name", list(SETTINGS))
def test_the_maximum_lies_inside_the_box_of_the_object(model_name):
    network, settings = train(model_name), SETTINGS[model_name]
    explainer = ObjectExplainer(
        ObjectModel(network, MODELS[model_name].family),
        covers_nothing,
        LABELS,
        settings,
        DecodeLimits(),
        DEFAULT_OPTIONS,
    )
    random = np.random.default_rng(1)
    num_right = num_objects = num_truths = 0
    parameters = XaiParameters(algorithm="odam", visualizations=False)
    for _ in range(40):
        image_HWC, truths, _ = draw(random)
        answer = find(network, image_HWC, settings)
        stream = io.BytesIO()
        Image.fromarray(image_HWC).save(stream, "PNG")
        every = DetectionSelection(tuple(range(len(answer.boxes))))
        question = ObjectExplainTask(stream.getvalue(), b"", answer.boxes, every, parameters, SIDE**2)
        for part in explainer.explain(question, Deadline(None)):
            assert part.details.matched_iou > 0.99
            left, top, right, bottom = (SIDE * side for side in answer.boxes[part.index].box_xyxy_unit)
            row, column = np.unravel_index(part.heat_HW.argmax(), part.heat_HW.shape)
            num_right += left <= column + 0.5 <= right and top <= row + 0.5 <= bottom
            num_objects += 1
        num_truths += len(truths)
    print(f"{model_name}: {num_right} of {num_objects} maps point into their box; {num_truths} rectangles")
    assert num_objects > 0.5 * num_truths, "the detector has not learned enough to say anything"
    assert num_right >= 0.8 * num_objects
