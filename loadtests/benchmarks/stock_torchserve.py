"""Eager torch behind TorchServe's own `image_classifier` handler: serving without Clearsight.

Everything is TorchServe's default (one worker per core, batch size 1) except the addresses (loopback, free ports), the
token check (off) and, optionally, the threads of a worker. The body is the raw JPEG that the handler is documented
for; it costs the stock server less than the JSON body costs Clearsight.
"""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import torchvision

from clearsight.serving.supervisor.torchserve_files import free_ports
from loadtests.benchmarks.client import LoadTarget

__all__ = ["stock_torchserve"]

MODEL = "stock"
START_TIMEOUT_S = 90.0
MODEL_FILE = """
from torchvision.models.resnet import Bottleneck, ResNet


class Stock(ResNet):
    def __init__(self):
        super().__init__(Bottleneck, [3, 4, 6, 3], num_classes={num_classes})
"""


@contextmanager
def stock_torchserve(
    num_classes: int, java_home: str, folder: Path, threads_per_worker: int | None
) -> Iterator[LoadTarget]:
    """Serve an eager ResNet-50 with seeded random weights with stock TorchServe; yields where to send raw JPEGs.

    `threads_per_worker` None leaves torch's default, which is every core in every worker. The handler always answers
    with the five best classes, so there must be at least five. Raises RuntimeError when no
    worker is ready in time.
    """
    store = folder / "store" / MODEL
    (store / "MAR-INF").mkdir(parents=True)
    (store / "model.py").write_text(MODEL_FILE.format(num_classes=num_classes))
    torch.manual_seed(0)
    torch.save(torchvision.models.resnet50(num_classes=num_classes).state_dict(), store / "model.pth")
    manifest = {
        "createdOn": "01/01/2026 00:00:00",
        "runtime": "python",
        "model": {
            "modelName": MODEL,
            "modelFile": "model.py",
            "serializedFile": "model.pth",
            "handler": "image_classifier",
            "modelVersion": "1.0",
        },
        "archiverVersion": "0.12.0",
    }
    (store / "MAR-INF" / "MANIFEST.json").write_text(json.dumps(manifest))
    inference, management, metrics, grpc_inference, grpc_management = free_ports(5)
    config = folder / "config.properties"
    config.write_text(
        f"inference_address=http://127.0.0.1:{inference}\nmanagement_address=http://127.0.0.1:{management}\n"
        f"metrics_address=http://127.0.0.1:{metrics}\ngrpc_inference_port={grpc_inference}\n"
        f"grpc_management_port={grpc_management}\ndisable_token_authorization=true\nmodel_store={folder}/store\n"
        f"load_models={MODEL}\n"
    )
    command = [str(Path(sys.executable).with_name("torchserve")), "--start", "--ncs", "--foreground",
               "--ts-config", str(config)]  # fmt: skip
    temporary = folder / "tmp"
    temporary.mkdir()
    environment = {
        **os.environ,
        "JAVA_HOME": java_home,
        "TMPDIR": str(temporary),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    if threads_per_worker:
        environment["OMP_NUM_THREADS"] = str(threads_per_worker)
    with (folder / "server.log").open("wb") as log:
        server = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        _wait_until_ready(f"http://127.0.0.1:{management}/models/{MODEL}", server, folder / "server.log")
        yield LoadTarget(
            f"127.0.0.1:{inference}", f"/predictions/{MODEL}", {"Content-Type": "application/octet-stream"}
        )
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        try:
            server.wait(15)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()


def _wait_until_ready(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline and server.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=5) as response:
                workers = json.load(response)[0]["workers"]
            if workers and all(worker["status"] == "READY" for worker in workers):
                return
        except OSError:
            pass
        time.sleep(0.5)
    raise RuntimeError(f"stock TorchServe has no ready worker after {START_TIMEOUT_S:.0f} s: {log.read_text()[-2000:]}")
