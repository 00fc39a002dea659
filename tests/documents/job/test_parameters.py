import pytest

from clearsight.catalogue.models import DEFAULT_MODELS, models_of
from clearsight.documents.job import parse_job, require_supported, resolve_parameters
from clearsight.errors import UserError
from clearsight.tasks import Task


@pytest.mark.parametrize(
    ("task", "model_name", "learning_rate", "batch_size", "epochs"),
    [
        # https://learn.microsoft.com/azure/machine-learning/reference-automl-images-hyperparameters
        (Task.MULTI_CLASS, "resnet18", 0.01, 78, 15),
        (Task.MULTI_CLASS, "vits16r224", 0.0125, 128, 15),
        (Task.MULTI_CLASS, "vitl16r224", 0.001, 10, 15),
        (Task.MULTI_LABEL, "mobilenetv2", 0.035, 78, 15),
        (Task.MULTI_LABEL, "vitb16r224", 0.025, 48, 15),
        (Task.DETECTION, "yolov5", 0.01, 16, 30),
        (Task.DETECTION, "retinanet_resnet50_fpn", 0.005, 2, 15),
        (Task.SEGMENTATION, "maskrcnn_resnet50_fpn", 0.005, 2, 15),
    ],
)
def test_defaults_follow_model_and_task(
    task: Task, model_name: str, learning_rate: float, batch_size: int, epochs: int
) -> None:
    resolved = resolve_parameters(task, {}, model_name)
    assert resolved["learning_rate"].value == learning_rate
    assert resolved["training_batch_size"].value == batch_size
    assert resolved["number_of_epochs"].value == epochs
    assert resolved["learning_rate"].origin == "azure-default"


def test_what_the_user_gave_stands_with_its_origin() -> None:
    resolved = resolve_parameters(Task.MULTI_CLASS, {"momentum": 0.5, "model_name": "resnet18"}, "resnet18")
    assert (resolved["momentum"].value, resolved["momentum"].origin) == (0.5, "user")
    assert resolved["model_name"].origin == "user"


def test_a_trial_has_no_parameters_of_other_families() -> None:
    assert "min_size" not in resolve_parameters(Task.DETECTION, {}, "yolov5")
    assert "image_size" not in resolve_parameters(Task.DETECTION, {}, "retinanet_resnet50_fpn")
    assert "weighted_loss" not in resolve_parameters(Task.DETECTION, {}, "yolov5")


def test_default_models_are_models_of_their_task() -> None:
    assert all(name in models_of(task) for task, name in DEFAULT_MODELS.items())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"training_parameters": {"model_name": "owner/name"}}, "owner/name"),
        ({"training_parameters": {"model_name": "resnet18"}, "limits": {"max_trials": 2}}, "limits.max_trials"),
        ({"search_space": [{"model_name": "resnet18"}]}, "search_space"),
        ({"training_parameters": {"model_name": "resnet18", "checkpoint_run_id": "a"}}, "checkpoint_run_id"),
    ],
)
def test_a_valid_job_that_cannot_run_yet_is_refused_in_one_line(changes: dict, words: str) -> None:
    document = {"type": "automl", "task": "image_classification", "target_column_name": "label"}
    job = parse_job({**document, "training_data": {"path": "x"}, **changes})
    with pytest.raises(UserError, match=words) as caught:
        require_supported(job)
    assert "\n" not in str(caught.value)
