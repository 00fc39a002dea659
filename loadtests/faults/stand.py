"""A `clearsight serve` of its own, with clients that count every answer, for provoked faults."""

import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from base64 import b64encode
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil

__all__ = ["Load", "Stand", "body_of", "open_stand"]

COMMAND = str(Path(sys.executable).with_name("clearsight"))
START_S = 120.0
POLL_S = 0.05

DEPLOYMENT = """\
name: blue
endpoint_name: fridge
model: {{path: {package}}}
instance_type: Standard_DS3_v2
instance_count: {instances}
environment_variables: {{CLEARSIGHT_EXPLAIN: "{explain}", CLEARSIGHT_BATCH_SIZE: "1", CLEARSIGHT_BACKEND: "{backend}",
  WORKER_COUNT: "{workers}"}}
request_settings: {{request_timeout_ms: {timeout_ms}, max_concurrent_requests_per_instance: 8}}
"""


def body_of(images: Sequence[Path]) -> bytes:
    """A request for the images."""
    rows = [b64encode(image.read_bytes()).decode() for image in images]
    return json.dumps({"input_data": {"columns": ["image"], "data": rows}}).encode()


class Load:
    """Clients that send one request after the other on connections of their own until they are stopped."""

    def __init__(self, port: int, key: str, body: bytes, num_clients: int, pause_s: float = 0.02) -> None:
        self.outcomes: Counter[str] = Counter()
        self.texts: dict[str, str] = {}
        self.longest_s = 0.0
        self._address = port, key, body
        self._pause_s = pause_s
        self._is_stopped = threading.Event()
        self._threads = [threading.Thread(target=self._work, daemon=True) for _ in range(num_clients)]
        for thread in self._threads:
            thread.start()

    def _work(self) -> None:
        port, key, body = self._address
        headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=180)
        while not self._is_stopped.wait(self._pause_s):
            began = time.monotonic()
            try:
                connection.request("POST", "/endpoints/fridge/score", body, headers)
                answer = connection.getresponse()
                outcome, text = str(answer.status), answer.read().decode(errors="replace")
            except (OSError, http.client.HTTPException) as error:
                outcome, text = type(error).__name__, str(error)
                connection.close()
            self.outcomes[outcome] += 1
            if outcome != "200":
                self.texts[outcome] = text[:200]
            self.longest_s = max(self.longest_s, time.monotonic() - began)
        connection.close()

    def stop(self) -> Counter[str]:
        """End all clients after their present request; the number of requests by outcome."""
        self._is_stopped.set()
        for thread in self._threads:
            thread.join()
        return self.outcomes


class Stand:
    """A workspace, its server, and one deployment `blue` with all traffic."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.port = int(listener.getsockname()[1])
        self.log = folder / "serve.log"
        self.key = ""
        self.server: subprocess.Popen[bytes] | None = None
        self._environment = {**os.environ, "CLEARSIGHT_HOME": str(folder / "workspace")}

    def serve(self, *options: str, wait: bool = True) -> "subprocess.Popen[bytes]":
        """Start `clearsight serve`, and wait until it serves."""
        begin = self.log.stat().st_size if self.log.exists() else 0
        command = [COMMAND, "serve", "--port", str(self.port), "--no-measure", *options]
        with self.log.open("ab") as output:
            self.server = subprocess.Popen(command, env=self._environment, stdout=output, stderr=output)
        if wait:
            self.wait(lambda: b"serving on" in self.log.read_bytes()[begin:], "the server must serve")
        return self.server

    def verb(self, *words: str, check: bool = True) -> "subprocess.CompletedProcess[str]":
        """Run a `clearsight` command."""
        done = subprocess.run(
            [COMMAND, *words],
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=300,
        )
        if check and done.returncode:
            raise RuntimeError(f"{' '.join(words)} failed: {done.stderr.strip()}")
        return done

    def deploy(self, package: Path, **settings: Any) -> None:
        """Create the endpoint and `blue`, and wait until it answers."""
        values = {
            "instances": 1,
            "explain": "0",
            "workers": 1,
            "timeout_ms": 60_000,
            "backend": "onnxruntime",
        } | settings
        file = self.folder / "blue.yml"
        file.write_text(DEPLOYMENT.format(package=package.absolute(), **values))
        self.verb("online-endpoint", "create", "-n", "fridge")
        self.verb("online-deployment", "create", "-f", str(file), "--all-traffic")
        self.key = self.verb(
            "online-endpoint", "get-credentials", "-n", "fridge", "-o", "tsv", "--query", "primaryKey"
        ).stdout.strip()

    def load(self, body: bytes, num_clients: int = 2) -> Load:
        return Load(self.port, self.key, body, num_clients)

    def processes(self, kind: str) -> list[psutil.Process]:
        """The living processes that the server has recorded: `gateway` or `server` (Java)."""
        file = self.folder / "workspace" / "endpoints" / "processes.json"
        entries = json.loads(file.read_bytes())["processes"]
        pids = [entry["identity"]["pid"] for entry in entries if entry["details"].get("kind") == kind]
        return [psutil.Process(pid) for pid in pids if psutil.pid_exists(pid)]

    def workers(self) -> list[psutil.Process]:
        """The Python processes of all servers, oldest first."""
        found = [child for java in self.processes("server") for child in java.children()]
        return sorted(found, key=lambda process: process.create_time())

    def num_loaded(self) -> int:
        """Workers of the predict lane that have loaded the package since the start of the deployment."""
        logs = (self.folder / "workspace" / "logs" / "deployments").glob("fridge--blue-*")
        return sum(log.read_text(errors="replace").count("this worker is of the predict lane") for log in logs)

    def is_up(self) -> bool:
        """Whether a health probe of the endpoint is answered with 200."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request("GET", "/endpoints/fridge/")
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def wait(self, is_true: Any, what: str, timeout_s: float = START_S) -> float:
        """Wait until `is_true()`; the seconds it took. Raises RuntimeError with the end of the server's log."""
        began = time.monotonic()
        while not is_true():
            if time.monotonic() - began > timeout_s:
                tail = self.log.read_text(errors="replace")[-2000:]
                raise RuntimeError(f"{what} within {timeout_s:.0f} s, but did not\n{tail}")
            time.sleep(POLL_S)
        return time.monotonic() - began

    def close(self) -> None:
        """Stop the server, and end what it left."""
        if self.server is not None and self.server.poll() is None:
            self.server.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.server.wait(60)
            self.server.kill()
        with contextlib.suppress(OSError, ValueError, KeyError):
            for process in (*self.processes("gateway"), *self.processes("server")):
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)


@contextlib.contextmanager
def open_stand() -> Iterator[Stand]:
    """A stand in a temporary folder, with its server running; everything is ended and removed afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="faults-"))
    stand = Stand(folder)
    try:
        stand.serve()
        yield stand
    finally:
        stand.close()
        shutil.rmtree(folder, ignore_errors=True)
