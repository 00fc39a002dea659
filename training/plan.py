"""From a job file to a plan: everything that can be wrong with file and data is found before anything starts.

No torch is imported: a fault shows in half a second.
"""

import secrets
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from clearsight import environment
from clearsight.catalogue.models import NATIVE_MODELS
from clearsight.documents.data.locations import BadLocation, resolve_location
from clearsight.documents.job import (
    DataInput,
    DataSection,
    JobDocument,
    apply_overrides,
    candidate_models,
    load_document,
    read_job,
    require_supported,
    resolve_parameters,
)
from clearsight.errors import Conflict, Fault, InvalidData, InvalidDocument
from clearsight.executor import count_gpus
from clearsight.runs.plan import JobPlan
from clearsight.runs.trial_spec import Setting, TrialSpec
from clearsight.runs.workspace import Workspace
from clearsight.training.data.table import MAX_LISTED_FAULTS, Table, read_table, require_trainable

__all__ = ["plan_job"]

DEFAULT_VALIDATION_SIZE: Final = 0.2
"""Azure's share of the training records when a job names neither validation data nor a size."""

MAX_MISSING_SHARE: Final = 0.05


def plan_job(file: Path, overrides: Mapping[str, Any], name: str | None, workspace: Workspace) -> JobPlan:
    """Read and check a job file and the data it names.

    Raises `InvalidDocument` with every fault of document and data together, and `UserError` for a valid job that this
    version does not run.
    """
    warnings: list[str] = []
    document = apply_overrides(load_document(file, warnings), overrides)
    if name is not None:
        document["name"] = name
    folder = file.absolute().parent
    reading = read_job(document)
    faults = list(reading.faults)
    warnings += reading.warnings
    checked = None if reading.data is None else _check_data(reading.data, folder, workspace, faults, warnings)
    if faults or reading.job is None or checked is None:
        raise InvalidDocument(str(file), faults)
    job = reading.job
    require_supported(job)
    _warn_of_idle_extensions(job, warnings)
    job_name = job.name or _new_name()
    if (workspace.runs / job_name).exists():
        raise Conflict(f"a job's name must be new, but {job_name!r} exists in {workspace.runs}; choose another --name")
    spec = _trial_spec(job, job_name, folder, checked, workspace)
    return JobPlan(
        name=job_name,
        job=job,
        document=document,
        spec=spec,
        experiment_name=job.experiment_name or Path.cwd().name or "Default",
        best_model_path=_best_model_path(job, job_name, folder, workspace),
        num_processes=_num_processes(job.advanced.x_num_processes, bool(spec.value("distributed")), warnings),
        warnings=tuple(warnings),
    )


def _warn_of_idle_extensions(job: JobDocument, warnings: list[str]) -> None:
    """Say of extensions of ours that belong to another family of detectors."""
    if job.task.is_classification:
        return  # said when they were read
    [model_name] = candidate_models(job.task, job.parameters)
    is_yolo = NATIVE_MODELS[job.task][model_name].family == "yolov5"
    where = "training_parameters.advanced_settings"
    if job.advanced.x_model_size is not None and not is_yolo:
        warnings.append(f"{where}.x_model_size: has no effect on {model_name}; sizes are yolov5's")
    if job.advanced.x_light_detector and (is_yolo or model_name.startswith("retinanet")):
        warnings.append(f"{where}.x_light_detector: has no effect on {model_name}, which has no proposals")


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
) -> tuple[Path, Path | None] | None:
    """Load both tables and note what keeps them from being trained on; return their folders."""
    datastores = workspace.datastores()
    tables: dict[str, Table] = {}
    folders: dict[str, Path] = {}
    num_faults = len(faults)
    for key, source in (("training_data", data.training), ("validation_data", data.validation)):
        if source is None:
            continue
        try:
            folders[key] = _data_folder(source, folder, datastores)
            table, found = read_table(folders[key], data.task, data.target_column, datastores)
        except BadLocation as error:
            faults.append(Fault(error.code, f"{key}.path", str(error)))
            continue
        except InvalidData as error:
            faults += error.faults
            continue
        tables[key] = table
        faults += found[:MAX_LISTED_FAULTS]
        if len(found) > MAX_LISTED_FAULTS:
            rest = f"{len(found) - MAX_LISTED_FAULTS} more faults; `clearsight data check {folders[key]}` lists all"
            faults.append(Fault("BAD_DATA", f"{key}.path", rest))
        if not found:
            _check_files(table, faults)
    if "training_data" in tables and len(faults) == num_faults:
        try:
            require_trainable(tables["training_data"], tables.get("validation_data"))
        except InvalidData as error:
            faults += error.faults
    if len(faults) > num_faults:
        return None
    return folders["training_data"], folders.get("validation_data")


def _data_folder(source: DataInput, folder: Path, datastores: Mapping[str, Path]) -> Path:
    path = source.path
    if path.startswith("azureml:") and not path.startswith("azureml://"):
        local = folder / path.removeprefix("azureml:")  # Azure's own `job.dump()` writes local folders in this form
        if local.is_dir():
            return local
        raise BadLocation(
            "BAD_DATA_REF", f"registered data is not kept yet, but got {path!r}; give the path of a data folder"
        )
    return resolve_location(path, folder, datastores)


def _check_files(table: Table, faults: list[Fault]) -> None:
    """More than 5 % of missing images is a fault; fewer are left out by the trial, with a warning."""
    missing = [record for record in table.records if not record.image.is_file()]
    if len(missing) <= MAX_MISSING_SHARE * len(table.records):
        return
    for record in missing[:MAX_LISTED_FAULTS]:
        faults.append(Fault("BAD_DATA", record.source, f"the picture {record.image} does not exist"))
    if len(missing) > MAX_LISTED_FAULTS:
        faults.append(
            Fault("BAD_DATA", str(table.folder), f"{len(missing)} of {len(table.records)} pictures are missing")
        )


def _trial_spec(
    job: JobDocument, job_name: str, folder: Path, data: tuple[Path, Path | None], workspace: Workspace
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
        run_id=f"{job_name}_HD_0",
        job_name=job_name,
        task=job.task,
        target_column=job.data.target_column,
        training_data=data[0],
        validation_data=data[1],
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
        log_verbosity=job.log_verbosity,
    )


def _num_processes(asked: int | None, distributed: bool, warnings: list[str]) -> int:
    """One per GPU as on Azure, or what `x_num_processes` asks for on a machine without a GPU."""
    num_gpus = count_gpus()
    key = "training_parameters.advanced_settings.x_num_processes"
    if asked is not None and num_gpus:
        warnings.append(f"{key}: has no effect beside {num_gpus} GPUs; a process runs on each (distributed: true)")
    elif asked is not None and not distributed:
        warnings.append(f"{key}: has no effect with distributed: false")
    if not distributed:
        return 1
    return num_gpus or asked or 1
