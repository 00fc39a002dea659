"""Detectors in the loop: tiny images, yolov5 nano and light detectors on ResNet-18, a few steps."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch import nn

from clearsight.documents.job import resolve_parameters
from clearsight.documents.settings import RcnnSettings, SegmentationSettings, YoloSettings
from clearsight.errors import InvalidData, TrainingError
from clearsight.handlers.scoring.views import merge_views
from clearsight.networks.families.table import family_of
from clearsight.tasks import Task
from clearsight.training.data.records import Box, Instance, Record
from clearsight.training.detection.family import ValidationOutput
from clearsight.training.detection.predict import predict_set
from clearsight.training.detection.trial import DetectionTrial, detection_options
from clearsight.training.engine.checkpoint import Checkpoints
from clearsight.training.engine.early_stopping import EarlyStopping
from clearsight.training.engine.hardware import Hardware
from clearsight.training.engine.loop import TrainingRun, smallest_batch, train
from clearsight.training.engine.objective import Evaluation, NotFinite
from clearsight.training.engine.ranks import Ranks
from clearsight.training.trial.data import TrialRecords, make_sets
from clearsight.training.trial.spec import Setting, TrialSpec
from clearsight.vision.candidates import Candidates
from clearsight.vision.preprocess import normalise

CPU = Hardware(torch.device("cpu"), None, "test", 1)
CLASSES = ("blue", "cyan")
COLORS_BGR = ((220, 30, 30), (220, 220, 30))


@dataclass
class Recorder:
    passes: list[dict[str, float]] = field(default_factory=list)

    def progress(self, *args: object) -> None: ...

    def evaluated(self, counters: object, evaluation: Evaluation, improved: bool) -> None:
        self.passes.append(dict(evaluation.metrics))

    def keep_weights(self, network: nn.Module, epoch: int) -> None: ...


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Path, list[tuple[int, list[float]]]]]:
    """16 images of 64 x 96 with up to two rectangles: file, and class and sides of each in [0, 1]."""
    folder, random, made = tmp_path_factory.mktemp("rectangles"), np.random.default_rng(4), []
    for index in range(16):
        image_HWC = random.integers(90, 130, (64, 96, 3)).astype(np.uint8)
        objects = []
        for _ in range(index % 3):
            width, height = (int(side) for side in random.integers(20, 40, 2))
            left, top = int(random.integers(0, 96 - width)), int(random.integers(0, 64 - height))
            class_id = int(random.integers(0, 2))
            image_HWC[top : top + height, left : left + width] = COLORS_BGR[class_id]
            objects.append((class_id, [left / 96, top / 64, (left + width) / 96, (top + height) / 64]))
        cv2.imwrite(str(folder / f"{index}.png"), image_HWC)
        made.append((folder / f"{index}.png", objects))
    return made


def to_record(file: Path, objects: list[tuple[int, list[float]]], task: Task) -> Record:
    boxes = tuple(Box(CLASSES[class_id], tuple(sides)) for class_id, sides in objects)
    if task is Task.DETECTION:
        return Record(file, (), file.name, boxes=boxes)
    corners = [(box.label, *box.xyxy_unit) for box in boxes]
    polygons = [(label, ((x0, y0, x1, y0, x1, y1, x0, y1),)) for label, x0, y0, x1, y1 in corners]
    return Record(file, (), file.name, instances=tuple(Instance(*one) for one in polygons))


SMALL = {"min_size": 64, "max_size": 96, "image_size": 96, "box_score_threshold": 0.01, "number_of_workers": 0}
MODELS = {
    "yolov5": Task.DETECTION,
    "fasterrcnn_resnet18_fpn": Task.DETECTION,
    "maskrcnn_resnet18_fpn": Task.SEGMENTATION,
}


@dataclass
class Parts:
    """The components of a trial, without the process that runs it."""

    trial: DetectionTrial
    run: TrainingRun[Any]
    spec: TrialSpec


Make = Callable[..., Parts]


@pytest.fixture
def make(images: list[tuple[Path, list[tuple[int, list[float]]]]], tmp_path: Path) -> Make:
    """Makes runs of 12 training and 4 validation images, or of given records; keywords are hyperparameters."""
    made = 0

    def make(
        model_name: str,
        folder: Path | None = None,
        should_stop: Callable[[], bool] = lambda: False,
        records: list[Record] | None = None,
        **parameters: Any,
    ) -> Parts:
        nonlocal made
        made += 1
        task = MODELS[model_name]
        given = {
            "number_of_epochs": 2,
            "training_batch_size": 4,
            "validation_batch_size": 3,
            "warmup_cosine_lr_warmup_epochs": 1,
            "random_seed": 0,
            **SMALL,
            **parameters,
        }
        resolved = resolve_parameters(task, given, model_name)
        settings = {name: Setting(value=one.value, origin=one.origin) for name, one in resolved.items()}
        if "model_size" in settings and "model_size" not in parameters:
            settings["model_size"] = Setting(value="nano", origin="user")
        spec = TrialSpec(
            run_id="t_HD_0",
            job_name="t",
            task=task,
            target_column="label",
            training_data=tmp_path,
            validation_data=None,
            validation_size=0.25,
            split_seed=0,
            datastores={},
            hyperparameters=settings,
            deterministic=True,
            pretrained=False,
            weights_dir=None,
            min_crop_scale=0.08,
            light_detector=True,
            log_verbosity="error",
        )
        records = records or [to_record(*one, task) for one in images]
        torch.manual_seed(0)
        options = detection_options(spec)
        trial = DetectionTrial(options, TrialRecords(CLASSES, tuple(records[4:]), tuple(records[:4]), None))
        trial.load_weights(is_first=True)
        smallest = smallest_batch(trial.network, trial.frozen_prefixes)
        sets = make_sets(
            TrialRecords(CLASSES, tuple(records[4:]), tuple(records[:4]), None),
            trial,
            smallest,
            1,
            tmp_path,
            lambda: False,
            Ranks(),
        )
        objective = trial.objective(sets, CPU, Ranks(), lambda *_, **__: None)
        trial.network.to(memory_format=torch.channels_last)
        steps_per_epoch = options.trial.loop.steps_per_epoch(sets.training.num_batches)
        run = TrainingRun(
            objective=objective,
            network=trial.network,
            optimizer=trial.optimizer(1),
            schedule=options.trial.schedule,
            training=sets.training,
            early_stopping=EarlyStopping(options.trial.early_stopping),
            options=options.trial.loop,
            hardware=CPU,
            frozen_prefixes=trial.frozen_prefixes,
            checkpoints=Checkpoints(folder or tmp_path / str(made)),
            listener=Recorder(),
            should_stop=should_stop,
            average=trial.average(steps_per_epoch * options.trial.loop.num_epochs),
        )
        return Parts(trial, run, spec)

    return make


def stop_after(count: int) -> Callable[[], bool]:
    questions = iter(range(count))
    return lambda: next(questions, None) is None


def states(run: TrainingRun[Any]) -> list[dict[str, torch.Tensor]]:
    networks = [run.network] if run.average is None else [run.network, run.average.network]
    return [network.state_dict() for network in networks]


@pytest.mark.parametrize("model_name", ["yolov5", pytest.param("fasterrcnn_resnet18_fpn", marks=pytest.mark.slow)])
def test_a_stopped_and_resumed_run_is_equal_to_the_last_bit(make: Make, tmp_path: Path, model_name: str) -> None:
    whole = make(model_name, training_batch_size=2).run
    train(whole)
    stopped = make(model_name, tmp_path / "checkpoints", stop_after(4), training_batch_size=2).run
    assert train(stopped) == "canceled"
    resumed = make(model_name, tmp_path / "checkpoints", training_batch_size=2).run
    torch.manual_seed(99)
    assert train(resumed) == "all_epochs"
    assert resumed.listener.passes == whole.listener.passes
    for ours, theirs in zip(states(resumed), states(whole), strict=True):
        assert all(torch.equal(ours[name], tensor) for name, tensor in theirs.items())


def test_the_average_of_the_weights_is_validated_and_kept(make: Make) -> None:
    run = make("yolov5", training_batch_size=2).run  # twelve steps: with ten or fewer the average is the weights
    train(run)
    average = {name: tensor.clone() for name, tensor in run.average.network.state_dict().items()}
    assert not torch.equal(average["model.0.conv.weight"], run.network.state_dict()["model.0.conv.weight"])
    measured = run.objective.evaluate(run.average.network, Ranks()).metrics
    assert measured["validation_loss"] == run.listener.passes[-1]["validation_loss"]
    if run.counters.best_epoch == 1:
        run.checkpoints.load_best(run.network, 1)
        assert all(torch.equal(tensor, average[name]) for name, tensor in run.network.state_dict().items())


@pytest.mark.parametrize("tiles", [None, "2x1"])
def test_evaluation_finds_what_serving_finds_one_view_after_the_other(make: Make, tiles: str | None) -> None:
    # One image at a time: the scores of an untrained network are equal except for their last digits.
    parts = make("yolov5", tile_grid_size=tiles, box_score_threshold=0.001, validation_batch_size=1)
    objective = parts.run.objective
    graph, settings = family_of("yolov5").serving_module(parts.trial.network), parts.trial.settings
    found = predict_set(parts.trial.network, objective.steps, objective.validation, settings)
    assert sum(len(one.scores_N) for one in found.predictions) > 0
    for index, ours in enumerate(found.predictions):
        image = objective.validation.load(index)
        answers = []
        for view, image_HWC in zip(image.views, image.images_HWC, strict=True):
            with torch.inference_mode():
                images = torch.from_numpy(normalise(image_HWC, settings.mean, settings.std))[None]
                tensors = [tensor[0].numpy() for tensor in graph(images)]
            answers.append(view.find(Candidates(*tensors), settings))
        theirs = merge_views(image.views, answers, settings)
        assert np.array_equal(ours.class_ids_N, theirs.class_ids_N)
        assert np.allclose(ours.boxes_xyxy_N4, theirs.boxes_xyxy_N4, atol=1e-3)
        assert np.allclose(ours.scores_N, theirs.scores_N, atol=1e-5)


def test_views_of_one_size_go_through_the_network_together_and_tiles_apart(make: Make) -> None:
    parts = make("yolov5", tile_grid_size="2x1", validation_batch_size=3)
    seen: list[tuple[int, bool]] = []

    class Nothing:
        gradient = "mean"

        def validation_step(
            self, network: object, images_HWC: list[np.ndarray], targets: list[object] | None
        ) -> ValidationOutput:
            seen.append((len(images_HWC), targets is not None))
            nothing = Candidates(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64))
            return ValidationOutput([nothing] * len(images_HWC), None if targets is None else torch.tensor(2.0))

    data = parts.run.objective.validation
    found = predict_set(parts.trial.network, Nothing(), data, parts.trial.settings, with_loss=True)
    assert seen == [(3, True), (3, False), (3, False), (1, True), (2, False)]
    assert found.loss == 2.0
    assert [len(truth.class_ids_N) for truth in found.truths] == [0, 1, 2, 0]


@pytest.mark.slow
def test_masks_are_learnt_and_measured(make: Make) -> None:
    parts = make("maskrcnn_resnet18_fpn", number_of_epochs=1, log_training_metrics="Enable")
    run = parts.run
    assert train(run) == "all_epochs"
    [metrics] = run.listener.passes
    names = {"mean_average_precision", "bbox_mean_average_precision", "recall"}
    assert names | {f"{name}_train" for name in names} | {"training_loss", "validation_loss"} <= metrics.keys()
    again = run.objective.evaluate(run.network, Ranks()).metrics
    assert again["validation_loss"] == metrics["validation_loss"]  # its samples are the same in every pass
    assert not run.network.training


def test_batches_of_images_without_objects_are_trained_on(make: Make) -> None:
    run = make("yolov5").run
    [batch, *_] = run.training.epoch(0)
    empty = type(batch.targets[0])(np.zeros((0, 4), np.float32), np.zeros(0, np.int64), None)
    batch = type(batch)(batch.images_HWC, (empty,) * len(batch.images_HWC))
    run.network.train()
    learnt = run.objective.training_step(run.network, batch)
    assert run.objective.gradient == "sum"
    assert learnt.sums["training_loss"] == learnt.loss.detach()
    learnt.loss.backward()
    assert learnt.num_images == 4
    assert run.network.head.m[0].weight.grad.abs().sum() > 0


def test_answers_that_are_not_finite_are_no_answers(make: Make) -> None:
    run = make("yolov5", number_of_epochs=1).run
    run.average.network.model[24].m[0].bias.data.fill_(float("nan"))
    with pytest.raises(NotFinite):
        run.objective.evaluate(run.average.network, Ranks())

    def spoil(*_: object) -> None:
        run.network.model[24].m[0].bias.data.fill_(float("nan"))

    run.optimizer.register_step_post_hook(spoil)
    with pytest.raises(TrainingError, match="finite") as caught:
        train(run)
    assert caught.value.reason == "diverged"


def test_without_metrics_the_last_weights_are_the_best_and_nothing_stops_early(make: Make) -> None:
    run = make("yolov5", validation_metric_type="none", log_validation_loss="Disable", number_of_epochs=3).run
    assert not run.early_stopping.options.enabled
    assert train(run) == "all_epochs"
    assert run.counters.best_epoch == 2
    assert run.counters.best_metric is None
    assert all(one.keys() == {"training_loss"} for one in run.listener.passes)


def test_coco_values_are_among_the_metrics(make: Make) -> None:
    run = make("yolov5", validation_metric_type="coco_voc").run
    metrics = run.objective.evaluate(run.network, Ranks()).metrics
    assert {"coco_AP", "coco_AR_max_100", "mean_average_precision", "validation_loss"} <= metrics.keys()


def test_only_weights_of_convolutions_decay_in_yolov5_as_many_as_a_step_has_images(make: Make) -> None:
    """The recipe's decay is meant for 64 images per step: 0.01 * 4 * 2 / 64."""
    parts = make("yolov5", weight_decay=0.01, gradient_accumulation_step=2, layers_to_freeze=1)
    decays = [group["weight_decay"] for group in parts.run.optimizer.param_groups]
    assert decays == pytest.approx([0.01 * 4 * 2 / 64, 0, 0])
    held = {id(one) for group in parts.run.optimizer.param_groups for one in group["params"]}
    trained = {id(one) for name, one in parts.trial.network.named_parameters() if not name.startswith("model.0.")}
    assert trained <= held
    [group] = make("fasterrcnn_resnet18_fpn", weight_decay=0.01).run.optimizer.param_groups
    assert group["weight_decay"] == 0.01


def test_settings_of_the_package_are_those_of_the_job(make: Make) -> None:
    yolov5 = make("yolov5", tile_grid_size="3x2", nms_iou_threshold=0.4, model_size="small").trial.settings
    assert isinstance(yolov5, YoloSettings)
    assert (yolov5.img_size, yolov5.model_size, yolov5.nms_iou_thresh) == (96, "small", 0.4)
    assert yolov5.tile_grid_size == (3, 2)
    rcnn = make("fasterrcnn_resnet18_fpn", box_detections_per_image=7, tile_grid_size="1x1").trial.settings
    assert isinstance(rcnn, RcnnSettings)
    assert (rcnn.min_size, rcnn.max_size, rcnn.box_detections_per_img, rcnn.tile_grid_size) == (64, 96, 7, None)
    assert isinstance(make("maskrcnn_resnet18_fpn").trial.settings, SegmentationSettings)


def test_data_without_a_single_object_are_one_clear_error(
    make: Make, images: list[tuple[Path, list[tuple[int, list[float]]]]]
) -> None:
    full = [to_record(*one, Task.DETECTION) for one in images]
    empty = [to_record(file, [], Task.DETECTION) for file, _ in images]
    crowd = Box("blue", (0.0, 0.0, 0.5, 0.5), is_crowd=True)
    with pytest.raises(InvalidData, match="at least one training picture must show an object"):
        make("yolov5", records=[*full[:4], *empty[4:-1], Record(empty[-1].image, (), "x", boxes=(crowd,))])
    with pytest.raises(InvalidData, match=r"at least one validation picture .* or set validation_metric_type to none"):
        make("yolov5", records=[*empty[:4], *full[4:]])
    make("yolov5", records=[*empty[:4], *full[4:]], validation_metric_type="none")


@pytest.mark.slow
def test_yolov5_learns_to_find_rectangles(make: Make) -> None:
    run = make("yolov5", number_of_epochs=150, evaluation_frequency=50, learning_rate=0.02).run
    train(run)
    found = [metrics["mean_average_precision"] for metrics in run.listener.passes]
    assert found[-1] > 0.3, found
