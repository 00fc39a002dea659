"""A real server: `clearsight serve` with its gateway, TorchServe and workers."""

import base64
import contextlib
import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator
from email.message import Message
from pathlib import Path

import psutil
import pytest

from clearsight.runs.workspace import Workspace

ARCHIVE = Path(__file__).resolve().parents[1] / "golden" / "workspace-a7b3fc6.zip"
TEXT = {".json", ".jsonl", ".yml", ".yaml", ".log"}


def unpack_golden(folder: Path, written_for: Path | None = None) -> Path:
    """Unpack the workspace of an earlier version into a folder; its paths lead there, or to `written_for`."""
    with zipfile.ZipFile(ARCHIVE) as archive:
        for entry in archive.infolist():
            content = archive.read(entry)
            if Path(entry.filename).suffix in TEXT:
                content = content.replace(b"@FOLDER@", str(written_for or folder).encode())
            file = folder / entry.filename
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
    return folder


def explains(worker: psutil.Process) -> bool:
    """Such a worker computes when nobody else does, once it is ready."""
    return os.sched_getscheduler(worker.pid) == os.SCHED_IDLE


class Server:
    """`clearsight serve` in a process of its own, on free ports."""

    def __init__(self, workspace: Workspace) -> None:
        listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
        self.port, self.metrics_port = (listener.getsockname()[1] for listener in listeners)
        for listener in listeners:
            listener.close()
        self.log_file = workspace.root / "serve.log"
        workspace.root.mkdir(parents=True, exist_ok=True)
        with self.log_file.open("ab") as log:
            self.process = subprocess.Popen(
                [
                    *[sys.executable, "-c", "from clearsight.cli import main; main()", "serve"],
                    *["--port", str(self.port), "--metrics-port", str(self.metrics_port)],
                ],
                env={**os.environ, "CLEARSIGHT_HOME": str(workspace.root)},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + 60
        while not workspace.control_socket.is_socket():
            assert self.process.poll() is None, self.log_file.read_text()
            assert time.monotonic() < deadline, self.log_file.read_text()
            time.sleep(0.05)

    def family(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def workers(self) -> list[psutil.Process]:
        """Those that predict."""
        return [worker for worker in self.running("model_service_worker.py") if not explains(worker)]

    def explainers(self) -> list[psutil.Process]:
        """Those that explain, once they are ready."""
        return [worker for worker in self.running("model_service_worker.py") if explains(worker)]

    def running(self, program: str) -> list[psutil.Process]:
        """Processes of the family whose command line holds `program`; ended ones do not count."""
        found = []
        for process in self.family():
            with contextlib.suppress(psutil.NoSuchProcess):  # a zombie is one, too
                if program in " ".join(process.cmdline()):
                    found.append(process)
        return found

    @staticmethod
    def post(uri: str, key: str, body: bytes, **headers: str) -> tuple[int, bytes]:
        """Status and body."""
        return Server.exchange(uri, key, body, **headers)[:2]

    @staticmethod
    def exchange(
        uri: str, key: str, body: bytes | None, method: str = "POST", **headers: str
    ) -> tuple[int, bytes, Message]:
        """Status, body and headers."""
        request = urllib.request.Request(
            uri, body, {"Authorization": f"Bearer {key}", "Content-Type": "application/json", **headers}, method=method
        )
        try:
            with urllib.request.urlopen(request, timeout=180) as response:
                return response.status, response.read(), response.headers
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read(), error.headers

    def metrics(self) -> str:
        """What Prometheus sees."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics_port}/metrics", timeout=60) as response:
            return str(response.read().decode())

    @staticmethod
    def body_of(*images: Path) -> bytes:
        """Azure's request for these files."""
        cells = [base64.encodebytes(image.read_bytes()).decode() for image in images]
        return json.dumps({"input_data": {"columns": ["image"], "index": [*range(len(cells))], "data": cells}}).encode()


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    monkeypatch.setenv("CLEARSIGHT_HOME", str(tmp_path / "workspace"))
    return Workspace.default()


@pytest.fixture
def server(workspace: Workspace) -> Iterator[Server]:
    server = Server(workspace)
    family = []
    try:
        yield server
    finally:
        if server.process.poll() is None:
            family = server.family()
            server.process.terminate()
        try:
            server.process.wait(60)
        except subprocess.TimeoutExpired:
            server.process.kill()
            server.process.wait()
        for process in family:
            if process.is_running():
                process.kill()
