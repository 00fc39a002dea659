"""`clearsight serve` and the verbs of endpoints, as typed."""

from pathlib import Path

import pytest

from clearsight.cli import root
from clearsight.console import run
from clearsight.serving import cli


@pytest.mark.parametrize(
    ("host", "is_exposed"),
    [
        ("127.0.0.1", False),
        ("127.8.8.8", False),
        ("localhost", False),
        ("::1", False),
        ("0.0.0.0", True),
        ("::", True),
        ("192.0.2.7", True),
    ],
)
def test_serve_warns_when_other_machines_reach_it(
    host: str, is_exposed: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def serve(*args: object) -> None: ...

    monkeypatch.setattr(cli, "run_server", serve)
    assert run(root, ["serve", "--host", host]) == 0
    assert ("keys and pictures can be read" in " ".join(capsys.readouterr().err.split())) is is_exposed


def test_flags_without_effect_say_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CLEARSIGHT_HOME", str(tmp_path))
    assert run(root, ["online-endpoint", "list"]) == 0
    assert "note" not in capsys.readouterr().err
    assert run(root, ["online-endpoint", "list", "--local"]) == 0
    assert "note: --local has no effect: everything runs on this machine" in " ".join(capsys.readouterr().err.split())
    assert run(root, ["model", "list", "--registry-name", "azureml"]) == 0
    assert "note: --registry-name azureml means the models of this workspace" in capsys.readouterr().err
