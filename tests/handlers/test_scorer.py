import base64
import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clearsight.errors import BadImage, BadRequest, InvalidDocument, InvalidPackage, UserError
from clearsight.handlers.scoring.scorer import Scorer, load_scorer
from clearsight.images.decode import DecodeLimits, decode_image
from clearsight.runs.package import ModelPackage
from clearsight.tasks import Task
from clearsight.vision.preprocess import preprocess
from clearsight.vision.probabilities import probabilities
from clearsight.wire.answers import ClassificationAnswer


def reference_probs(package: ModelPackage, images: list[bytes]) -> np.ndarray:
    """Reference: the network in eager torch, one image at a time, softmax or sigmoid by torch."""
    import torch

    from clearsight.networks.load import load_network

    torch.set_num_threads(1)
    network = load_network(package)
    rows = []
    for image in images:
        image_CPP = preprocess(decode_image(image), package.settings())
        with torch.inference_mode():
            logits = network(torch.from_numpy(image_CPP)[None]).double()
        rows.append((logits.sigmoid() if package.task is Task.MULTI_LABEL else logits.softmax(1))[0].numpy())
    return np.array(rows)


def test_no_cells_give_no_answers(any_scorer: Scorer):
    assert any_scorer.score([]) == []


def test_every_backend_agrees_with_the_eager_network(any_scorer: Scorer, images):
    answers = any_scorer.score(images)
    found = np.array([answer.probs for answer in answers])
    assert np.abs(found - reference_probs(any_scorer.package, images)).max() <= 1e-4
    assert np.abs(found.sum(axis=1) - 1).max() <= 1e-6
    assert {answer.labels for answer in answers} == {any_scorer.package.labels}
    assert len({answer.probs for answer in answers}) == len(images)


def test_multi_label_answers_are_independent_sigmoids(tiny_multilabel_package: ModelPackage, images):
    scorer = load_scorer(tiny_multilabel_package, device="cpu")
    found = np.array([answer.probs for answer in scorer.score(images[:5])])
    assert np.abs(found - reference_probs(tiny_multilabel_package, images[:5])).max() <= 1e-4
    assert np.abs(found.sum(axis=1) - 1).max() > 0.01


def test_an_answer_is_the_same_alone_and_in_any_batch(any_scorer: Scorer, images):
    alone = [any_scorer.score([image])[0] for image in images]
    for count in (2, 3, 8, 14):
        assert any_scorer.score(images[:count]) == alone[:count]
    assert any_scorer.score(images[::-1]) == alone[::-1]


def test_a_bad_cell_gets_its_error_in_order(any_scorer: Scorer, images):
    cells = [images[0], b"\x00\x80", images[1], None, "http://host/a.png", [images[2]], images[3][:200]]
    results = any_scorer.score(cells)
    assert [type(result) for result in results] == [
        ClassificationAnswer,
        BadImage,
        ClassificationAnswer,
        BadRequest,
        BadRequest,
        ClassificationAnswer,
        BadImage,
    ]
    assert results[0::5] == any_scorer.score([images[0], images[2]])[:1] + any_scorer.score([images[2]])


def test_every_route_of_a_cell_gives_the_same_answer(scorer: Scorer, images):
    text = base64.encodebytes(images[0]).decode()
    cells = [images[0], text, text.replace("\n", ""), text.encode(), [text], {"image_base64": text}]
    cells.append(json.dumps({"image_base64": text, "model_explainability": False}))
    assert len(set(scorer.score(cells))) == 1


def test_explanations_are_refused_with_the_reason(scorer: Scorer, images):
    (result,) = scorer.score([{"image_base64": base64.b64encode(images[0]).decode(), "model_explainability": True}])
    assert isinstance(result, BadRequest)
    assert "explanations are switched off here" in str(result)


def test_auto_takes_the_first_backend_that_agreed_at_export(tiny_package: ModelPackage, own_package: Path):
    assert load_scorer(tiny_package, device="cpu").backend == "openvino"
    manifest = json.loads((own_package / "artifacts/manifest.json").read_text())
    del manifest["parity"]["backends"]["openvino"]
    (own_package / "artifacts/manifest.json").write_text(json.dumps(manifest))
    scorer = load_scorer(own_package, device="cpu")
    assert scorer.backend == "onnxruntime"
    assert (scorer.task, scorer.labels, scorer.precision) == (Task.MULTI_CLASS, tiny_package.labels, "f32")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backend": "tensorrt"}, "backend must be one of"),
        ({"backend": "onnxruntime", "precision": "f16"}, "precision must be f32 or bf16"),
        ({"device": "tpu"}, "device must be auto, cpu or cuda"),
        ({"backend": "openvino", "device": "cuda"}, "runs on cpu"),
        ({"num_threads": 0}, "at least 1"),
        ({"max_batch_size": 0}, "at least 1"),
        ({"precision": "bf16"}, "needs a passed accuracy gate"),
    ],
)
def test_options_that_cannot_be_met_are_refused(tiny_package: ModelPackage, options, message):
    with pytest.raises(UserError, match=message):
        load_scorer(tiny_package, **options)


def test_a_failed_gate_keeps_a_lower_precision_shut(own_package: Path):
    file = own_package / "artifacts/manifest.json"
    manifest = json.loads(file.read_text())
    manifest["precision_gates"] = {"bf16": {"passed": False, "reason": "agreement 0.5"}}
    file.write_text(json.dumps(manifest))
    with pytest.raises(UserError, match=r"it failed \(agreement 0.5\)"):
        load_scorer(own_package, precision="bf16", device="cpu")


def test_a_folder_that_is_no_package_is_refused(tmp_path: Path):
    with pytest.raises(InvalidPackage):
        load_scorer(tmp_path)


def test_edited_settings_take_effect(own_package: Path, scorer: Scorer, images):
    file = own_package / "artifacts/settings.json"
    settings = json.loads(file.read_text())
    settings.update({"valid_resize_size": 64, "mean": [0.5, 0.5, 0.5]})
    file.write_text(json.dumps(settings))
    edited = load_scorer(own_package, backend=scorer.backend, device="cpu")
    assert edited.score(images[:1]) != scorer.score(images[:1])
    file.write_text(json.dumps({**settings, "valid_crop_size": "big"}))
    with pytest.raises(InvalidDocument, match="valid_crop_size"):
        load_scorer(own_package, device="cpu")


def test_limits_hold_for_cells(tiny_package: ModelPackage, images):
    strict = load_scorer(tiny_package, device="cpu", limits=DecodeLimits(max_pixels=80 * 96 - 1))
    (result,) = strict.score(images[:1])
    assert isinstance(result, BadImage)
    assert "96 x 80 = 7680" in str(result)


def test_exif_orientation_follows_the_settings(own_package: Path, images):
    with Image.open(io.BytesIO(images[0])) as image:
        exif = Image.Exif()
        exif[274] = 6
        stream = io.BytesIO()
        image.save(stream, "PNG", exif=exif)
    file = own_package / "artifacts/settings.json"
    settings = json.loads(file.read_text())
    turned = load_scorer(own_package, device="cpu").score([stream.getvalue(), images[0]])
    assert turned[0] != turned[1]
    file.write_text(json.dumps({**settings, "exif_orientation": "ignore"}))
    ignored = load_scorer(own_package, device="cpu").score([stream.getvalue(), images[0]])
    assert ignored[0] == ignored[1] == turned[1]


def test_warm_up_scores_without_complaint(scorer: Scorer):
    scorer.warm_up()


@pytest.mark.parametrize("backend", ["openvino", "onnxruntime"])
def test_torch_is_not_imported_to_score_on_another_runtime(tiny_package: ModelPackage, images, tmp_path, backend):
    image = tmp_path / "picture.png"
    image.write_bytes(images[0])
    program = f"""
import json, sys
from pathlib import Path
from clearsight.handlers.scoring.answering import answer_bodies
from clearsight.handlers.scoring.scorer import load_scorer
import base64
scorer = load_scorer({str(tiny_package.root)!r}, backend={backend!r}, device="cpu")
text = base64.b64encode(Path({str(image)!r}).read_bytes()).decode()
(reply,) = answer_bodies(scorer, [json.dumps({{"input_data": [text]}}).encode()])
assert reply.status == 200, reply
print([name for name in ("torch", "torchvision", "ts", "mlflow", "pandas") if name in sys.modules])
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120)
    assert result.stdout.strip() == "[]"


@pytest.mark.parametrize("task", [Task.MULTI_CLASS, Task.MULTI_LABEL])
def test_probabilities_of_extreme_logits_stay_finite(task):
    probs = probabilities(np.array([3e38, -3e38, 0.0], np.float32), task)
    assert np.isfinite(probs).all()
    assert probs.tolist() == ([1.0, 0.0, 0.0] if task is Task.MULTI_CLASS else [1.0, 0.0, 0.5])
