"""What users may import, name by name, against `public_names.txt`.

`pytest tests/architecture/test_public_names.py --rewrite-golden` writes the file anew. A name that comes or goes is
then seen in review: a program of a user may import it.
"""

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[2] / "src"
FILE = Path(__file__).with_name("public_names.txt")

PUBLIC = [
    "clearsight.batch",
    "clearsight.documents.data.mltable",
    "clearsight.documents.deployment.document",
    "clearsight.documents.job",
    "clearsight.documents.settings",
    "clearsight.errors",
    "clearsight.executor",
    "clearsight.exporters.write",
    "clearsight.handlers.backends",
    "clearsight.handlers.explain.answering.explainer",
    "clearsight.handlers.explain.answering.scoring",
    "clearsight.handlers.explain.parameters",
    "clearsight.handlers.mlflow_pyfunc",
    "clearsight.handlers.scoring.scorer",
    "clearsight.handlers.torchserve",
    "clearsight.runs.model_registry",
    "clearsight.runs.package",
    "clearsight.runs.workspace",
    "clearsight.tasks",
    *(
        f"clearsight.{folder}.{file.stem}"
        for folder in ("testing", "wire")
        for file in (SOURCE / "clearsight" / folder).glob("[!_]*.py")
    ),
]
"""The modules whose names are a promise. Others may change with any version."""


def names_of(module: str) -> list[str]:
    """The module's `__all__`, sorted."""
    path = SOURCE / module.replace(".", "/")
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    for node in ast.parse(file.read_text()).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return sorted(ast.literal_eval(node.value))
    return []


def test_public_names_are_those_of_the_list(pytestconfig: pytest.Config) -> None:
    found = [f"{module}: {', '.join(names_of(module))}" for module in sorted(PUBLIC)]
    if pytestconfig.getoption("rewrite_golden"):
        FILE.write_text("\n".join(found) + "\n")
    assert found == FILE.read_text().splitlines()


def test_each_public_module_has_names() -> None:
    assert [module for module in PUBLIC if not names_of(module)] == []
