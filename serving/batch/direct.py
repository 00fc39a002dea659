"""A batch job without an endpoint or a workspace: a package, an input, a file of results.

The state of an unfinished job lies in a folder beside the file of results; the same call goes on where it was.
"""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from clearsight.errors import ClearsightError, Conflict, UserError
from clearsight.executor.local import Local
from clearsight.files import write_atomically
from clearsight.handlers.backends import Precision
from clearsight.handlers.scoring.scorer import choose_backend
from clearsight.runs.model_registry import ModelRegistry
from clearsight.runs.package import ModelPackage
from clearsight.runs.run_folder import RunFolder
from clearsight.runs.stop_requests import StopRequests
from clearsight.runs.workspace import Workspace
from clearsight.serving.batch.controller import EventSink
from clearsight.serving.batch.inputs.opening import open_input
from clearsight.serving.batch.plan import BatchPlan, new_plan, read_plan, require_same
from clearsight.serving.batch.results.summary import Summary
from clearsight.serving.batch.results.write import require_free
from clearsight.serving.batch.row_outputs import RowOutputs
from clearsight.serving.batch.run import run_batch

__all__ = ["Stopped", "run"]


class Stopped(ClearsightError):
    """A stop was requested before the end."""


def run(
    package: ModelPackage | Path | str,
    inputs: Path | str,
    output: Path | str,
    *,
    recursive: bool = False,
    workers: int = 1,
    mini_batch_size: int = 10,
    max_retries: int = 3,
    timeout_s: float = 30.0,
    error_threshold: int = -1,
    backend: str = "auto",
    device: Literal["auto", "cpu", "cuda"] = "auto",
    precision: Precision = "f32",
    output_format: Literal["csv", "jsonl", "space"] | None = None,
    overlays: bool = False,
    masks: bool = False,
    explain: Mapping[str, Any] | None = None,
    explanations: Literal["files", "inline"] = "files",
    on_event: EventSink = lambda kind, **fields: None,
    stop: StopRequests | None = None,
) -> Summary:
    """Score every image of an input once, into one file of results; return what was counted.

    `package` is a folder or `azureml:<name>:<version>` of the workspace. `inputs` is a folder (`recursive`: with those
    below), a file, a glob pattern, a list, a table, an archive, or registered data. The form of the results follows the
    ending of `output`: `.jsonl`, `.parquet`, else Azure's comma-separated one; `output_format` chooses among the forms
    of text. Images that cannot be scored are listed in `failed_files.jsonl` beside it; more than `error_threshold` of
    them (unless it is -1) end the job. `workers` processes share the cores. One attempt at a mini-batch of
    `mini_batch_size` images, or at one image that is explained, may take `timeout_s` seconds; an image that fails
    without an answer is tried again up to `max_retries` times.

    `overlays` and `masks` write an image for each answer into folders of these names beside `output`. `explain` has
    the `xai_parameters` of a scoring request, and may be empty for a classifier: every image is then explained, into
    files in the folder `explanations` that the results name, or `inline` in the results.

    `<output>.partial` holds the state until the end: the same call continues an interrupted job, and writes the same
    bytes. Raises `Conflict` when `output` exists, or when the state is that of another package, input or option;
    `Stopped` when `stop` was set; `UserError` for what cannot be used; `ClearsightError` for a job that failed.
    """
    workspace, target = Workspace.default(), Path(output).absolute()
    if not isinstance(package, ModelPackage):
        package = ModelPackage.open(ModelRegistry(workspace).resolve(package))
    if workers < 1 or mini_batch_size < 1:
        raise UserError(f"workers and mini_batch_size must be at least 1, but got {workers} and {mini_batch_size}")
    chosen, on = choose_backend(package, backend, device, precision)
    asked = RowOutputs(
        overlays=overlays,
        masks=masks,
        explain=None if explain is None else dict(explain),
        explanations=explanations,
    )
    rows = asked.for_package(package, {})
    plan = new_plan(
        package,
        run_id=f"{target.name}.partial",
        backend=chosen,
        device=on,
        precision=precision,
        inputs=str(inputs),
        input_folder=Path.cwd(),
        is_recursive=recursive,
        part_size=mini_batch_size,
        num_workers=workers,
        num_threads=max(1, len(os.sched_getaffinity(0)) // workers),
        max_retries=max_retries,
        timeout_s=timeout_s,
        error_threshold=error_threshold,
        output_file=target,
        output_format=output_format,
        rows=rows,
    )
    require_free(target, plan.form())
    folder = RunFolder(target.with_name(plan.run_id))
    if folder.spec_file.exists():
        _require_same_job(read_plan(folder), plan, folder)
        write_atomically(folder.spec_file, plan.to_json())  # options that decide no byte may change, such as limits
    else:
        rows.require_free(target.parent)
        open_input(plan.inputs, plan.input_folder, workspace, is_recursive=recursive)
        folder.root.mkdir(parents=True, exist_ok=True)
        write_atomically(folder.spec_file, plan.to_json())
    ending = run_batch(folder, Local(), stop or StopRequests(), on_event)
    advice = f"the same command goes on; {folder.root} holds what is done"
    if ending.state == "Canceled":
        raise Stopped(f"{ending.message}: {advice}")
    if ending.state == "Completed" and ending.summary is not None:
        shutil.rmtree(folder.root, ignore_errors=True)
        return ending.summary
    if ending.reason == "no_answers":
        shutil.rmtree(folder.root, ignore_errors=True)
        raise ClearsightError(ending.message)
    raise ClearsightError(f"{ending.message}; {advice}")


def _require_same_job(before: BatchPlan, now: BatchPlan, folder: RunFolder) -> None:
    """Raise `Conflict` when the state in a folder is not that of the same job."""
    advice = f"remove {folder.root} to start anew"
    try:
        require_same(before.fingerprint, now.fingerprint, str(folder.root))
    except Conflict as error:
        raise Conflict(f"{error}: {advice}") from error
    if (before.inputs, before.is_recursive) != (now.inputs, now.is_recursive):
        raise Conflict(f"{folder.root} is the state of a job over {before.inputs!r}, but got {now.inputs!r}; {advice}")
