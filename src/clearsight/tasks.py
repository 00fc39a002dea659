"""The four tasks and their names in every format that names them."""

from enum import StrEnum

__all__ = ["Task"]


class Task(StrEnum):
    """The task of a model. The value is its name in Azure's job files (`task:`)."""

    MULTI_CLASS = "image_classification"
    MULTI_LABEL = "image_classification_multilabel"
    DETECTION = "image_object_detection"
    SEGMENTATION = "image_instance_segmentation"

    @property
    def wire_name(self) -> str:
        """Name in Azure's REST bodies, for example `ImageClassification`."""
        return "".join(word.capitalize() for word in self.value.split("_"))

    @property
    def mlflow_name(self) -> str:
        """`base_model_task` in the metadata of Azure's MLflow packages, for example `image-classification`."""
        return self.value.replace("_", "-")

    @property
    def is_classification(self) -> bool:
        return self in (Task.MULTI_CLASS, Task.MULTI_LABEL)

    @property
    def primary_metric(self) -> str:
        """The only metric Azure optimises for the task; always maximised."""
        return {Task.MULTI_CLASS: "accuracy", Task.MULTI_LABEL: "iou"}.get(self, "mean_average_precision")
