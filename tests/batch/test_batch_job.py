"""A batch job as a kind of job: planned from a deployment, run, shown and downloaded as other jobs are."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from clearsight.documents.batch.document import BatchDeployment
from clearsight.documents.batch.invocation import BatchInvocation
from clearsight.errors import Conflict, NotFound, UserError
from clearsight.executor.inline import Inline
from clearsight.runs.cli_job import job
from clearsight.runs.job_run import run_job
from clearsight.runs.package import ModelPackage
from clearsight.runs.run_folder import RunFolder
from clearsight.runs.start import resume_job, start_job
from clearsight.runs.stop_requests import StopRequests
from clearsight.runs.workspace import Workspace
from clearsight.serving.batch.submit import plan_batch

Deploy = Callable[..., BatchDeployment]


@pytest.fixture
def workspace(tmp_path: Path, drawn_images: list[Path], monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """A workspace with a mapped datastore that holds twelve images, one of them broken."""
    root = tmp_path / "workspace"
    monkeypatch.setenv("CLEARSIGHT_HOME", str(root))
    photos = tmp_path / "store" / "photos"
    photos.mkdir(parents=True)
    for number in range(12):
        shutil.copy(drawn_images[number % len(drawn_images)], photos / f"{number:02}.png")
    (photos / "07.png").write_bytes(drawn_images[0].read_bytes()[:200])
    root.mkdir()
    (root / "config.yaml").write_text(f"datastores: {{workspaceblobstore: {tmp_path / 'store'}}}\n")
    return Workspace(root)


@pytest.fixture
def deploy(tiny_package: ModelPackage) -> Deploy:
    def make(**changes: object) -> BatchDeployment:
        variables = {"CLEARSIGHT_BACKEND": "openvino"}  # without it, the package is measured first
        values = {"mini_batch_size": 5, "model": str(tiny_package.root), "environment_variables": variables, **changes}
        return BatchDeployment(name="blue", endpoint_name="kitchen", compute="local", **values)  # type: ignore[arg-type]

    return make


def invoke(workspace: Workspace, deployment: BatchDeployment, inputs: str, **options: object) -> dict[str, object]:
    invocation = BatchInvocation(endpoint_name="kitchen", inputs=inputs, **options)  # type: ignore[arg-type]
    plan = plan_batch(workspace, deployment, invocation, workspace.root.parent)
    with start_job(plan, workspace):
        return run_job(workspace, plan.record.name, Inline(), lambda event: None, StopRequests())


def test_a_job_scores_a_datastore_and_its_results_are_downloaded(
    workspace: Workspace, deploy: Deploy, tmp_path: Path
) -> None:
    uri = "azureml://datastores/workspaceblobstore/paths/photos/"
    deployment = deploy(logging_level="debug", properties={"save_overlays": "true"})
    result = invoke(workspace, deployment, uri, job_name="first", output_file_name="out.jsonl")
    assert (result["type"], result["status"]) == ("batch", "Completed")
    child = "first_batchscoring"
    assert [trial["run_id"] for trial in result["trials"]] == [child]  # type: ignore[index,attr-defined]
    assert result["outputs"]["score"]["path"] == workspace.runs / child / "outputs" / "score"  # type: ignore[index]
    events = [json.loads(line) for line in RunFolder(workspace.runs / child).events_file.read_text().splitlines()]
    assert [event["kind"] for event in events if event["kind"] != "progress"] == [
        "started",
        "data",
        "worker",
        "exporting",
        "ended",
    ]
    parts = sorted((workspace.runs / child / "parts").iterdir())
    assert [len(file.read_text().splitlines()) - 1 for file in parts] == [5, 5, 2]  # three calls for twelve files

    overview = (workspace.runs / child / "logs" / "job_progress_overview.txt").read_text()
    assert "12 of 12 done, 11 scored, 1 failed" in overview
    assert "3 of 3 done" in overview
    assert "Completed" in overview
    assert "PartRange(part=2, start=0, stop=2): 0 failed" in (workspace.runs / child / "trial.log").read_text()
    assert "07.png: " in (workspace.runs / child / "logs" / "user" / "error.txt").read_text()

    shown = json.loads(CliRunner().invoke(job, ["show", "-n", child]).stdout)
    assert (shown["parent_job_name"], shown["parameters"]["mini_batch_size"]) == ("first", 5)
    streamed = CliRunner().invoke(job, ["stream", "-n", "first"])
    assert streamed.exit_code == 0
    assert "11 of 12 scored, 1 failed" in streamed.stderr
    arguments = ["download", "-n", "first", "--output-name", "score", "--download-path", str(tmp_path / "got")]
    assert CliRunner().invoke(job, arguments).exit_code == 0
    lines = (tmp_path / "got/named-outputs/score/out.jsonl").read_text().splitlines()
    assert [json.loads(line)["filename"] for line in lines] == [f"{n:02}.png" for n in range(12) if n != 7]
    assert (tmp_path / "got/named-outputs/score/failed_files.jsonl").is_file()
    drawn = sorted(file.name for file in (tmp_path / "got/named-outputs/score/overlays").iterdir())
    assert drawn == [f"{n:02}.png.overlay.jpg" for n in range(12) if n != 7]

    # The file is repaired under its old size and time: only its part is scored again, and the results are replaced.
    broken = tmp_path / "store" / "photos" / "07.png"
    before = broken.stat()
    repaired = (tmp_path / "store" / "photos" / "08.png").read_bytes()
    listing = workspace.runs / child / "entries.jsonl"
    broken.write_bytes(repaired)
    os.utime(broken, ns=(before.st_atime_ns, before.st_mtime_ns))
    listing.write_text(listing.read_text().replace(f", {before.st_size},", f", {len(repaired)},"))
    times = [file.stat().st_mtime_ns for file in parts]
    with resume_job(workspace, "first", 1, lambda: None, retry_failed=True):
        again = run_job(workspace, "first", Inline(), lambda event: None, StopRequests())
    assert again["status"] == "Completed"
    assert [file.stat().st_mtime_ns != time for file, time in zip(parts, times, strict=True)] == [False, True, False]
    assert len((workspace.runs / child / "outputs/score/out.jsonl").read_text().splitlines()) == 12
    assert not (workspace.runs / child / "outputs/score/failed_files.jsonl").exists()


def test_what_cannot_run_is_refused_before_a_run_folder_exists(workspace: Workspace, deploy: Deploy) -> None:
    (workspace.root.parent / "taken").mkdir()
    (workspace.root.parent / "taken" / "predictions.csv").write_text("")
    photos, unknown = "store/photos", {"CLEARSIGHT_BACKEND": "tensorflow"}
    for deployment, options, kind, expected in (
        (deploy(), {"inputs": "nowhere"}, NotFound, "does not exist"),
        (deploy(), {"inputs": "azureml://datastores/other/paths/photos"}, UserError, "must be mapped"),
        (deploy(), {"inputs": photos, "output_path": "taken"}, Conflict, "predictions.csv"),
        (deploy(), {"inputs": photos, "output_path": "taken/predictions.csv"}, UserError, "must be one to write to"),
        (
            deploy(output_action="summary_only"),
            {"inputs": photos, "output_file_name": "a"},
            UserError,
            "need not",
        ),
        (deploy(model="azureml:unknown:1"), {"inputs": photos}, UserError, "unknown"),
        (deploy(environment_variables=unknown), {"inputs": photos}, UserError, "backend must be auto or one of"),
    ):
        invocation = BatchInvocation(endpoint_name="kitchen", **options)  # type: ignore[arg-type]
        with pytest.raises(kind, match=expected):
            plan_batch(workspace, deployment, invocation, workspace.root.parent)
    assert not workspace.runs.exists()
    refused = CliRunner().invoke(job, ["create", "-f", str(write_job(workspace))])
    assert "clearsight batch-endpoint invoke" in str(refused.exception)


def write_job(workspace: Workspace) -> Path:
    file = workspace.root.parent / "job.yml"
    file.write_text("type: batch\n")
    return file
