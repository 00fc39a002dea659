"""The README's commands, typed in its order on real photographs."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from clearsight.runs.workspace import Workspace

README = Path(__file__).parents[2] / "README.md"

_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)

# A reader needs longer to type the next command than the server to start.
_WAIT = 'while ! [ -S "$CONTROL_SOCKET" ]; do sleep 0.1; done\n'


def blocks(section: str) -> list[tuple[str, str]]:
    """Language and text of the fenced blocks of a section of the README."""
    [text] = [part for part in README.read_text().split("\n## ") if part.startswith(section)]
    return _BLOCK.findall(text)


@pytest.mark.slow
@pytest.mark.torchserve
@pytest.mark.timeout(900)
def test_the_commands_of_the_readme_lead_to_an_answer(shared_data: Path, workspace: Workspace, tmp_path: Path) -> None:
    photographs = shared_data / "fridge_multiclass"
    shutil.copytree(photographs, tmp_path / "photos")
    shutil.copy(next(photographs.rglob("*.jpg")), tmp_path / "picture.jpg")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    job, deployment = (text for language, text in blocks("Your own images") if language == "yaml")
    (tmp_path / "job.yml").write_text(job.rstrip() + "\n  number_of_epochs: 2\n")
    (tmp_path / "deployment.yml").write_text(deployment)
    [request] = [text for language, text in blocks("A request and its answer") if not language]
    request = request.replace("fridge", "mine").replace("8000", str(port))
    commands = "".join(text for language, text in blocks("Your own images") if not language)
    before, invoke = commands.split("clearsight online-endpoint invoke")
    script = "\n".join(
        [
            "set -euo pipefail",
            "trap 'kill $(jobs -p) && wait' EXIT",
            before.replace("clearsight serve &", f"clearsight serve --port {port} &", 1).replace(
                "clearsight online-endpoint create", f"{_WAIT}clearsight online-endpoint create", 1
            ),
            *(line for line in request.splitlines() if not line.startswith("source ")),
            "echo; echo INVOKED",
            f"clearsight online-endpoint invoke{invoke}",
        ]
    )
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "CLEARSIGHT_WEIGHTS": str(shared_data / "weights"),
        "CONTROL_SOCKET": str(workspace.control_socket),
    }
    done = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=800
    )
    assert done.returncode == 0, f"{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    assert len(list((tmp_path / "looked-at").rglob("*.*"))) == len(list(photographs.rglob("*.jpg")))
    curled, invoked = done.stdout.split("INVOKED\n")
    [answer] = json.loads(curled.splitlines()[-1])
    assert answer["labels"] == ["can", "carton", "milk_bottle", "water_bottle"]
    assert sum(answer["probs"]) == pytest.approx(1, abs=1e-4)
    assert [answer] == json.loads(invoked)
