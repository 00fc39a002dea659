"""The wheel holds every file of the import roof: a lost directory link would lose code."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
ROOF = REPOSITORY / "src" / "clearsight"

BUILD = "import sys; from setuptools.build_meta import build_wheel; build_wheel(sys.argv[1])"


def test_the_wheel_holds_every_module_and_the_marker_of_types(tmp_path: Path) -> None:
    copy = tmp_path / "repository"
    copy.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE", "NOTICE"):
        shutil.copy(REPOSITORY / name, copy)
    for name in ("src", "handlers", "exporters", "training", "serving"):
        ignore = shutil.ignore_patterns("__pycache__", "*.egg-info")
        shutil.copytree(REPOSITORY / name, copy / name, symlinks=True, ignore=ignore)
    # The hook that pip and uv call; in a copy, since it writes beside the sources.
    subprocess.run([sys.executable, "-c", BUILD, str(tmp_path)], cwd=copy, check=True, capture_output=True, timeout=120)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        inside = set(archive.namelist())
    modules = {
        f"clearsight/{folder.name}/{file.relative_to(folder)}"
        for folder in ROOF.iterdir()
        if folder.is_dir() and folder.name != "__pycache__"
        for file in folder.rglob("*.py")
    } | {f"clearsight/{file.name}" for file in ROOF.glob("*.py")}
    assert {f"clearsight/{name}/__init__.py" for name in ("handlers", "exporters", "training", "serving")} <= modules
    assert modules <= inside, f"missing in the wheel: {sorted(modules - inside)}"
    assert "clearsight/py.typed" in inside
    licences = {Path(name).name for name in inside if ".dist-info/licenses/" in name}
    assert licences == {"LICENSE", "NOTICE"}
    assert not [name for name in inside if name.startswith(("tests/", "handlers/", "loadtests/"))]
