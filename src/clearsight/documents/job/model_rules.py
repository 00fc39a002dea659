"""Rules that join hyperparameters and models: which model uses what, and which values it can run with.

https://learn.microsoft.com/azure/machine-learning/reference-automl-images-hyperparameters.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from clearsight.catalogue.models import HUGGING_FACE_NAMES, ModelRow, models_of
from clearsight.documents.job.hyperparameters import HYPERPARAMETERS, Value
from clearsight.documents.job.parameters import candidate_models
from clearsight.documents.job.search_space import Expression, SubSpace
from clearsight.errors import Fault
from clearsight.tasks import Task

__all__ = ["check_parameters"]


@dataclass(frozen=True, slots=True)
class _Branch:
    """One way a trial's configuration comes about: a sub-space, or the fixed parameters alone."""

    path: str
    space: SubSpace
    models: tuple[str, ...]

    def rows(self, task: Task) -> list[ModelRow]:
        """The models that this version knows."""
        known = models_of(task)
        return [known[name] for name in self.models if name in known]


def check_parameters(
    task: Task,
    parameters: Mapping[str, Value],
    spaces: Sequence[SubSpace],
    is_automatic: bool,
    faults: list[Fault],
    warnings: list[str],
) -> None:
    """Check what the user fixed and every sub-space against the models that a trial can get.

    A parameter that no candidate uses is a fault, one that some use a warning. In an automatic sweep every model of the
    task is a candidate unless one is fixed, so that a rule which some of them break is a warning.
    """
    branches = _branches(task, parameters, spaces, is_automatic)
    for branch in branches:
        where = f"{branch.path}.model_name" if "model_name" in branch.space else "training_parameters.model_name"
        faults += [Fault("BAD_MODEL", where, text) for name in branch.models if (text := _model_fault(task, name))]
        for key in branch.space:
            _check_use(f"{branch.path}.{key}", key, task, [branch], faults, warnings)
    for key in parameters:
        _check_use(f"training_parameters.{key}", key, task, branches, faults, warnings)
        overriding = [branch.path for branch in branches if key in branch.space]
        if overriding:
            warnings.append(f"training_parameters.{key}: overridden in {', '.join(overriding)}")
    broken: list[Fault] = []
    for branch in branches:
        by_model = [_model_rules(branch, parameters, facts) for facts in branch.rows(task)]
        if is_automatic and not all(by_model):
            warnings += [f"{fault.target}: {fault.message}" for found in by_model for fault in found]
        else:
            broken += [fault for found in by_model for fault in found]
        size = branch.space.get("image_size", parameters.get("image_size"))
        use = HYPERPARAMETERS["image_size"].used_by
        multiples = {facts.size_multiple for facts in branch.rows(task) if facts.uses(use)}
        if isinstance(size, int):
            warnings += [
                f"image_size: {size} is rounded up to a multiple of {step}" for step in multiples if size % step
            ]
    faults += dict.fromkeys(broken)


def _branches(
    task: Task, parameters: Mapping[str, Value], spaces: Sequence[SubSpace], is_automatic: bool
) -> list[_Branch]:
    if is_automatic and "model_name" not in parameters:
        return [_Branch("training_parameters", {}, tuple(models_of(task)))]
    if not spaces:
        return [_Branch("training_parameters", {}, candidate_models(task, parameters))]
    return [
        _Branch(f"search_space[{index}]", space, candidate_models(task, parameters, space))
        for index, space in enumerate(spaces)
    ]


def _check_use(
    target: str, key: str, task: Task, branches: Sequence[_Branch], faults: list[Fault], warnings: list[str]
) -> None:
    """Note a parameter that no model of the branches uses, or that some do not use."""
    if any(name not in models_of(task) for branch in branches for name in branch.models):
        return  # the hyperparameters of a model outside the catalogue are unknown
    models = {facts.model_name: facts for branch in branches for facts in branch.rows(task)}
    idle = [name for name, facts in models.items() if not facts.uses(HYPERPARAMETERS[key].used_by)]
    if len(idle) == len(models):
        faults.append(Fault("BAD_PARAM_FOR_MODEL", target, f"is not used by {', '.join(idle)}"))
    elif idle:
        warnings.append(f"{target}: ignored in trials of {', '.join(idle)}")


def _model_fault(task: Task, name: str) -> str | None:
    if name in models_of(task):
        return None
    if task.is_classification and (
        "/" in name or name in [curated.replace("/", "-") for curated in HUGGING_FACE_NAMES]
    ):
        return None  # a Hugging Face id; whether it can be trained is checked later
    # MMDetection names end with the data that the weights come from: `atss_r50_fpn_1x_coco`.
    if not task.is_classification and (name.startswith("mmd-3x-") or name.endswith("_coco")):
        known = ", ".join(models_of(task))
        return f"{name!r} is a model of MMDetection, none of which this version can train; take one of {known}"
    return f"must be one of {', '.join(models_of(task))}, but got {name!r}"


def _model_rules(branch: _Branch, parameters: Mapping[str, Value], facts: ModelRow) -> list[Fault]:
    """Faults of a model with the branch's values; a value that is drawn is one only if no draw could be right."""
    chosen: dict[str, Value | Expression] = {**parameters, **branch.space}
    faults: list[Fault] = []

    def possible(key: str, default: int) -> tuple[int, ...] | None:
        """Values that a trial can get, or None when they cannot be listed."""
        value = chosen.get(key, default)
        if isinstance(value, Expression):
            return tuple(int(member) for member in value.values) or None
        return (int(value),)

    def fault(key: str, message: str) -> None:
        section = branch.path if key in branch.space else "training_parameters"
        faults.append(Fault("BAD_PARAM_FOR_MODEL", f"{section}.{key}", f"{message} for {facts.model_name}"))

    freeze = possible("layers_to_freeze", 0)
    if freeze is not None and min(freeze) > len(facts.freeze_groups):
        fault("layers_to_freeze", f"must be at most {len(facts.freeze_groups)}, but got {_listed(freeze)},")
    if not facts.uses(HYPERPARAMETERS["training_crop_size"].used_by):
        return faults
    train = possible("training_crop_size", facts.crop_size)
    validation = possible("validation_crop_size", facts.crop_size)
    resize = possible("validation_resize_size", facts.resize_size)
    if resize is not None and validation is not None and max(resize) < min(validation):
        own = "" if "validation_resize_size" in chosen else " (the model's own)"
        message = f"must be at least validation_crop_size, {_listed(validation)}, but is {_listed(resize)}{own}"
        fault("validation_resize_size", message)
    if facts.fixed_size and train is not None and validation is not None and not set(train) & set(validation):
        fault(
            "training_crop_size", f"must equal validation_crop_size, {_listed(validation)}, but got {_listed(train)},"
        )
    step, smallest = facts.size_multiple, facts.smallest_size
    for key, sizes in (("training_crop_size", train), ("validation_crop_size", validation)):
        if sizes is None:
            continue
        if all(size % step for size in sizes):
            fault(key, f"must be a multiple of {step}, but got {_listed(sizes)},")
        elif max(sizes) < smallest:
            fault(key, f"must be at least {smallest} pixels, but got {_listed(sizes)},")
    return faults


def _listed(values: Sequence[int]) -> str:
    return " or ".join(str(value) for value in values)
