"""Planning an AutoML job: every fault of its document and its data is found before anything starts.

This module does not import torch, so that a fault is reported within half a second.
"""

import secrets
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from pkgutil import resolve_name
from typing import Any, Final

from clearsight import environment
from clearsight.catalogue.models import FAMILIES, find_row
from clearsight.documents.data.locations import BadLocation, resolve_location
from clearsight.documents.job import (
    DataInput,
    DataSection,
    JobDocument,
    candidate_models,
    read_job,
    require_supported,
    resolve_parameters,
)
from clearsight.errors import BadImage, Conflict, Fault, InvalidData, InvalidDocument, UserError
from clearsight.executor import count_gpus
from clearsight.images.size import read_file_header
from clearsight.runs.data_registry import DataRegistry
from clearsight.runs.kinds import JobPlan
from clearsight.runs.record import JobRecord
from clearsight.runs.trials import trial_name
from clearsight.runs.workspace import Workspace
from clearsight.training.data.records import Record
from clearsight.training.data.split import overlap_warnings, require_objects, split_indices, split_warnings
from clearsight.training.data.table import MAX_LISTED_FAULTS, MAX_UNREADABLE_SHARE, Table, read_table, require_trainable
from clearsight.training.trial.spec import Setting, TrialSpec

__all__ = ["plan_job"]

DEFAULT_VALIDATION_SIZE: Final = 0.2
"""Share of the training records held out for validation when a job names neither validation data nor a size (Azure)."""

_HEADER_THREADS: Final = 8  # they wait for the disk most of the time


def plan_job(document: Mapping[str, Any], folder: Path, workspace: Workspace, subject: str = "job") -> JobPlan:
    """Check an AutoML job document and the data that it names, see `clearsight.runs.kinds.Planner`."""
    reading = read_job(document)
    faults, warnings = list(reading.faults), list(reading.warnings)
    checked = None if reading.data is None else _check_data(reading.data, folder, workspace, faults, warnings)
    if faults or reading.job is None or checked is None:
        raise InvalidDocument(subject, faults)
    job = reading.job
    require_supported(job)
    _warn_of_idle_extensions(job, warnings)
    name = job.name or _new_name()
    if (workspace.runs / name).exists():
        raise Conflict(f"a job's name must be new, but {name!r} exists in {workspace.runs}; choose another --name")
    spec = _trial_spec(job, name, folder, checked, workspace)
    parts = _split(spec, *checked)
    try:
        _check_objects(spec, *parts)
    except InvalidData as error:
        raise InvalidDocument(subject, error.faults) from error
    warnings += [*split_warnings(*parts), *overlap_warnings(*parts)]
    _require_weights(spec)
    num_processes = _num_processes(
        job.advanced.x_num_processes, bool(spec.hyperparameters["distributed"].value), warnings
    )
    warnings += _warnings_of_steps(spec, len(parts[0]), num_processes)
    record = JobRecord(
        name=name,
        type="automl",
        display_name=job.display_name,
        description=job.description,
        experiment_name=job.experiment_name or Path.cwd().name or "Default",
        task=job.task,
        primary_metric=job.task.primary_metric,
        tags=dict(job.tags),
        properties=dict(job.properties),
        best_model_path=_best_model_path(job, name, folder, workspace),
        environment_variables=dict(job.environment_variables),
        timeout_minutes=job.limits.timeout_minutes,
        max_concurrent_trials=job.limits.max_concurrent_trials,
        num_processes=num_processes,
        warnings=warnings,
        document=dict(document),
    )
    return JobPlan(record, (spec,))


def _warn_of_idle_extensions(job: JobDocument, warnings: list[str]) -> None:
    """Add a warning for each Clearsight extension that has no effect on the chosen detector."""
    if job.task.is_classification:
        return  # such warnings were added when the document was read
    [model_name] = candidate_models(job.task, job.parameters)
    row = find_row(model_name)
    where = "training_parameters.advanced_settings"
    if job.advanced.x_model_size is not None and not row.has_model_sizes:
        warnings.append(f"{where}.x_model_size: has no effect on {model_name}; sizes are yolov5's")
    for name in ("x_light_detector", "x_proposals_per_loss"):
        if getattr(job.advanced, name) and not row.has_proposals:
            warnings.append(f"{where}.{name}: has no effect on {model_name}, which has no proposals")


def _best_model_path(job: JobDocument, job_name: str, folder: Path, workspace: Workspace) -> Path | None:
    output = job.outputs.get("best_model")
    if output is None:
        return None
    if output.path is None:
        return workspace.runs / job_name / "outputs" / "best_model"
    try:
        path = resolve_location(output.path, folder, workspace.datastores())
    except BadLocation as error:
        raise InvalidDocument("job", [Fault(error.code, "outputs.best_model.path", str(error))]) from None
    if path.exists():
        raise Conflict(f"outputs.best_model.path must be a new folder, but {path} exists; remove it or name another")
    return path


def _new_name() -> str:
    return f"job_{datetime.now(UTC):%Y%m%d_%H%M%S}_{secrets.token_hex(2)}"


def _check_data(
    data: DataSection, folder: Path, workspace: Workspace, faults: list[Fault], warnings: list[str]
) -> tuple[Table, Table | None] | None:
    """Read both tables, add their faults and warnings; None when there is a fault."""
    datastores = workspace.datastores()
    tables: dict[str, Table] = {}
    num_faults = len(faults)
    for key, source in (("training_data", data.training), ("validation_data", data.validation)):
        if source is None:
            continue
        try:
            table, found = read_table(
                _data_folder(source, folder, workspace), data.task, data.target_column, datastores
            )
        except BadLocation as error:
            faults.append(Fault(error.code, f"{key}.path", str(error)))
            continue
        except InvalidData as error:
            faults += error.faults
            continue
        tables[key] = table
        warnings += table.warnings
        faults += found[:MAX_LISTED_FAULTS]
        if len(found) > MAX_LISTED_FAULTS:
            rest = f"{len(found) - MAX_LISTED_FAULTS} more faults; `clearsight data check {table.folder}` lists all"
            faults.append(Fault("BAD_DATA", f"{key}.path", rest))
        if not found:
            _check_files(table, faults, warnings)
    if "training_data" in tables and len(faults) == num_faults:
        try:
            require_trainable(tables["training_data"], tables.get("validation_data"))
        except InvalidData as error:
            faults += error.faults
    if len(faults) > num_faults:
        return None
    return tables["training_data"], tables.get("validation_data")


def _split(spec: TrialSpec, training: Table, validation: Table | None) -> tuple[list[Record], list[Record]]:
    """The records that train and those that validate, as the trial splits them."""
    if validation is not None:
        return training.records, validation.records
    kept, held_out = split_indices(training.records, spec.validation_size, spec.split_seed, spec.task)
    return [training.records[index] for index in kept], [training.records[index] for index in held_out]


def _check_objects(spec: TrialSpec, training: Sequence[Record], validation: Sequence[Record]) -> None:
    """Raise `InvalidData` when a part has no object to learn from or to measure with."""
    if not spec.task.is_classification:
        is_measured = spec.hyperparameters["validation_metric_type"].value != "none"
        require_objects(training, validation if is_measured else None)


def _warnings_of_steps(spec: TrialSpec, num_images: int, num_processes: int) -> list[str]:
    """A sentence when the default batch size makes a single step of every epoch."""
    values = {name: setting.value for name, setting in spec.hyperparameters.items()}
    batch_size = int(values["training_batch_size"] or 1)
    is_chosen = spec.hyperparameters["training_batch_size"].origin == "user"
    if is_chosen or values.get("tile_grid_size") is not None or num_images > batch_size * num_processes:
        return []
    smaller = max(2, num_images // (8 * num_processes))
    return [
        f"training_batch_size: {batch_size}, the default of {values['model_name']}, makes one step an epoch of "
        f"{num_images} training pictures, {values['number_of_epochs']} steps in all; with {smaller} an epoch has "
        f"{-(-num_images // (smaller * num_processes))}"
    ]


def _data_folder(source: DataInput, folder: Path, workspace: Workspace) -> Path:
    path = source.path
    is_name = path.startswith("azureml:") and not path.startswith("azureml://")
    if is_name and (local := folder / path.removeprefix("azureml:")).is_dir():
        return local  # Azure's own `job.dump()` writes local folders in this form
    try:
        asset = DataRegistry(workspace).find(path)
    except UserError as error:
        raise BadLocation("BAD_DATA_REF", str(error)) from error
    return resolve_location(path if asset is None else asset.path, folder, workspace.datastores())


def _check_files(table: Table, faults: list[Fault], warnings: list[str]) -> None:
    """Read the header of every image, and add a fault when more than `MAX_UNREADABLE_SHARE` cannot be read.

    Fewer are a warning: the trial leaves them out.
    """
    images = dict.fromkeys(record.image for record in table.records)
    with ThreadPoolExecutor(_HEADER_THREADS, "clearsight-headers") as pool:
        reasons = {image: why for image, why in zip(images, pool.map(_why_unreadable, images), strict=True) if why}
    unreadable = [record for record in table.records if record.image in reasons]
    if not unreadable:
        return
    if len(unreadable) <= MAX_UNREADABLE_SHARE * len(table.records):
        first = unreadable[0]
        warnings.append(
            f"{table.folder}: pictures that cannot be read and will be left out: {len(unreadable)} "
            f"(first: {first.source}: {reasons[first.image]})"
        )
        return
    faults += [Fault("BAD_DATA", record.source, reasons[record.image]) for record in unreadable[:MAX_LISTED_FAULTS]]
    if len(unreadable) > MAX_LISTED_FAULTS:
        message = f"{len(unreadable)} of {len(table.records)} pictures are missing or cannot be read"
        faults.append(Fault("BAD_DATA", str(table.folder), message))


def _why_unreadable(image: Path) -> str:
    """The reason, or nothing."""
    if not image.is_file():
        return f"the picture {image} does not exist"
    try:
        read_file_header(image)
    except BadImage as error:
        return f"{image}: {error}"
    return ""


def _trial_spec(
    job: JobDocument, job_name: str, folder: Path, data: tuple[Table, Table | None], workspace: Workspace
) -> TrialSpec:
    [model_name] = candidate_models(job.task, job.parameters)
    resolved = resolve_parameters(job.task, job.parameters, model_name)
    settings = {name: Setting(value=one.value, origin=one.origin) for name, one in resolved.items()}
    seed = resolved["random_seed"].value
    if seed is None:
        settings["random_seed"] = Setting(value=secrets.randbits(32), origin="drawn")
    if job.advanced.x_model_size is not None and "model_size" in settings:
        settings["model_size"] = Setting(value=job.advanced.x_model_size, origin="user")
    weights_dir = job.advanced.x_weights_dir
    return TrialSpec(
        run_id=trial_name(job_name, 0),
        job_name=job_name,
        task=job.task,
        target_column=job.data.target_column,
        training_data=data[0].folder,
        validation_data=None if data[1] is None else data[1].folder,
        validation_size=job.data.validation_size or DEFAULT_VALIDATION_SIZE,
        split_seed=0 if seed is None else int(seed),
        datastores=workspace.datastores(),
        hyperparameters=settings,
        deterministic=seed is not None,
        pretrained=job.advanced.x_pretrained,
        weights_dir=(folder / weights_dir) if weights_dir is not None else environment.weights_dir(),
        min_crop_scale=job.advanced.x_min_crop_scale,
        apply_mosaic_for_yolo=job.advanced.apply_mosaic_for_yolo,
        apply_automl_train_augmentations=job.advanced.apply_automl_train_augmentations,
        light_detector=job.advanced.x_light_detector,
        proposals_per_loss=job.advanced.x_proposals_per_loss,
        log_verbosity=job.log_verbosity,
    )


def _require_weights(spec: TrialSpec) -> None:
    """Raise `WeightsMissing` unless the weights that the trial starts from are here, or can be downloaded."""
    if not spec.pretrained:
        return
    values = {name: setting.value for name, setting in spec.hyperparameters.items()}
    row = find_row(str(values["model_name"]))
    find = resolve_name(FAMILIES[row.family].weights)
    find(row, spec.weights_dir, values.get("model_size"), probes_only=True)


def _num_processes(requested: int | None, distributed: bool, warnings: list[str]) -> int:
    """One process per GPU as on Azure; on a machine without a GPU, the requested number (`x_num_processes`)."""
    num_gpus = count_gpus()
    key = "training_parameters.advanced_settings.x_num_processes"
    if requested is not None and num_gpus:
        warnings.append(f"{key}: has no effect beside {num_gpus} GPUs; a process runs on each (distributed: true)")
    elif requested is not None and not distributed:
        warnings.append(f"{key}: has no effect with distributed: false")
    if not distributed:
        return 1
    return num_gpus or requested or 1
