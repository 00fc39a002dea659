"""Properties of explanations of every network, at every size, for every kind of image, and after many explanations."""

import io
import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from torch import nn

from clearsight.handlers.explain.algorithms.context import ExplainContext
from clearsight.handlers.explain.algorithms.run import compute_attributions
from clearsight.handlers.explain.deadline import Deadline
from clearsight.handlers.explain.network.functions import ExplainTarget
from clearsight.handlers.explain.network.model import ExplainModel
from clearsight.handlers.explain.parameters import XaiParameters
from clearsight.networks.families.table import build_network
from clearsight.wire.encoding import to_document

MANY_EXPLANATIONS = Path(__file__).parent / "many_explanations.py"
FOUR = ("xrai", "integrated_gradients", "guided_gradcam", "guided_backprop")
NETWORKS = (
    "mobilenetv2",
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "resnet152",
    "resnest50",
    "resnest101",
    "seresnext",
)
QUICK = {("mobilenetv2", 160), ("mobilenetv2", 256), ("resnet18", 224)}
CONVOLUTIONAL = [
    pytest.param(name, side, marks=() if (name, side) in QUICK else (pytest.mark.slow, pytest.mark.full_size))
    for name in NETWORKS
    for side in (160, 224, 256)
]
TRANSFORMERS = [
    "vits16r224",
    *(pytest.param(f"vit{size}16r224", marks=(pytest.mark.slow, pytest.mark.full_size)) for size in "bl"),
]


def make(name, side):
    """Random weights; batch norms have statistics of their own, else values of deep networks explode."""
    with torch.random.fork_rng():
        torch.manual_seed(8)
        network = build_network(name, 4, side)
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = None
        with torch.no_grad():
            network.train()(torch.randn(2, 3, side, side))
    return ExplainModel(network.eval(), name)


def explained(model, side, algorithm):
    blocks = torch.rand(1, 3, 5, 5, generator=torch.Generator().manual_seed(2)) * 4 - 2
    context = ExplainContext(
        model=model,
        probabilities=lambda points: model.logits(points).softmax(dim=1),
        x_13PP=nn.functional.interpolate(blocks, side),
        targets=(ExplainTarget(1), ExplainTarget(3)),
        parameters=XaiParameters(algorithm, n_steps=2, baseline="black_white" if algorithm == "xrai" else "mean"),
        deadline=Deadline(None),
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
    )
    return compute_attributions(context)


@pytest.mark.parametrize(("name", "side"), CONVOLUTIONAL)
def test_convolutional_networks_are_explained_at_every_size(name, side):
    model = make(name, side)
    (features, _) = model.activations_and_gradients(torch.zeros(1, 3, side, side), [ExplainTarget(0), ExplainTarget(1)])
    assert features.activations_Cuv.shape[1:] == (side // 32, side // 32)
    for algorithm in FOUR:
        for found in explained(model, side, algorithm):
            assert np.isfinite(found.values).all()
            assert found.values.shape == ((side, side) if algorithm == "xrai" else (3, side, side))
            assert found.values.any() or found.warnings


@pytest.mark.slow
@pytest.mark.parametrize("name", TRANSFORMERS)
def test_transformers_are_explained_at_their_size(name):
    model = make(name, 224)
    for algorithm in (*FOUR, "attention_relevance"):
        for found in explained(model, 224, algorithm):
            assert np.isfinite(found.values).all()
            assert found.values.shape[-2:] == (224, 224)
            assert found.values.any()


def png(image):
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


def thin_line():
    image = Image.new("RGB", (96, 80), "white")
    ImageDraw.Draw(image).line((48, 10, 48, 70), "red", 1)
    return image


IMAGES = {
    "black": Image.new("RGB", (96, 80)),
    "white": Image.new("RGB", (96, 80), "white"),
    "one colour": Image.new("RGB", (96, 80), (30, 180, 90)),
    "a line of one pixel": thin_line(),
    "grey-scale": Image.linear_gradient("L"),
    "grey-scale of one colour": Image.new("L", (96, 80), 77),
    "transparent": Image.merge("RGBA", (*thin_line().split(), Image.linear_gradient("L").resize((96, 80)))),
    "palette": thin_line().convert("P"),
}


@pytest.mark.parametrize("image", IMAGES.values(), ids=IMAGES)
def test_awkward_images_are_explained_without_warning(explaining, cell, image):
    for algorithm in FOUR:
        wish = {"xai_algorithm": algorithm, "n_steps": 2, "attributions": True, "faithfulness": True}
        (answer,) = explaining.score([cell(png(image), **wish)])
        assert np.isfinite(np.array(to_document(answer)["attributions"])).all()
        assert 0 <= answer.explanation_details["deletion_auc"] <= 1


@pytest.mark.parametrize("algorithm", FOUR)
def test_probabilities_are_those_of_a_plain_answer(
    explaining, explaining_multilabel, scorer, multilabel_scorer, images, cell, algorithm
):
    for ours, plain in ((explaining, scorer), (explaining_multilabel, multilabel_scorer)):
        wishes = [cell(image, xai_algorithm=algorithm, n_steps=2) for image in images[:3]]
        found, expected = ours.score(wishes), plain.score(images[:3])
        assert [(answer.probs, answer.labels) for answer in found] == [(one.probs, one.labels) for one in expected]


def mixed(images, cell, count):
    names = (*FOUR, "gradcam", "layercam", "occlusion")
    return [
        cell(images[index % len(images)], xai_algorithm=names[index % len(names)], n_steps=2, details=index % 2 == 0)
        for index in range(count)
    ]


@pytest.mark.slow
def test_a_hundred_explanations_change_no_weight_and_leave_no_hooks(explaining, images, cell):
    model = explaining._explainer._model
    parts = [model._network, model._guided]
    before = [{name: tensor.clone() for name, tensor in part.state_dict().items()} for part in parts]
    modules = [repr(part) for part in parts]
    for wish in mixed(images, cell, 100):
        explaining.score([wish])
    for part, state, structure in zip(parts, before, modules, strict=True):
        assert repr(part) == structure
        assert all(torch.equal(state[name], tensor) for name, tensor in part.state_dict().items())
        assert all(parameter.grad is None for parameter in part.parameters())
        for module in part.modules():
            kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
            assert not any(getattr(module, kind) for kind in kinds)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_hundred_explanations_leave_no_memory_behind(explaining, images, cell, tmp_path):
    """Runs in a separate process, which other tests do not affect."""
    (tmp_path / "cells.json").write_text(json.dumps(mixed(images, cell, 42)))
    command = [sys.executable, MANY_EXPLANATIONS, explaining.package.root, tmp_path / "cells.json"]
    there = subprocess.run(command, capture_output=True, text=True, check=True, timeout=800)
    grown = json.loads(there.stdout)
    assert grown["python_bytes"] <= 2**20, grown["lines"]
    assert grown["tensor_bytes"] <= 2**20


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_half_a_minute_of_predictions_and_explanations_gives_what_each_gives_alone(explaining, scorer, images, cell):
    wishes = mixed(images, cell, 14)

    def without_times(answer):
        return {key: value for key, value in to_document(answer).items() if key != "explanation_details"}

    explained_alone = [without_times(answer) for answer in explaining.score(wishes)]
    predicted_alone = scorer.score(images)
    end_s = time.monotonic() + 30
    equal = {"predict": [], "explain": []}

    def predict():
        while time.monotonic() < end_s:
            equal["predict"].append(scorer.score(images) == predicted_alone)

    def explain_some(first):
        index = first
        while time.monotonic() < end_s:
            place = index % len(wishes)
            (answer,) = explaining.score([wishes[place]])
            equal["explain"].append(without_times(answer) == explained_alone[place])
            index += 1

    threads = [threading.Thread(target=work) for work in (predict, lambda: explain_some(0), lambda: explain_some(5))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(equal["predict"]) >= 10
    assert len(equal["explain"]) >= 10
    assert all(equal["predict"])
    assert all(equal["explain"])
