"""Imports point one way: core, vision, networks, handlers, exporters, training; serving beside training.

Read from the syntax trees of all modules, imports inside functions included.
"""

import ast
from collections.abc import Iterable, Iterator
from pathlib import Path

SOURCE = Path(__file__).resolve().parents[2] / "src" / "clearsight"

LAYERS: dict[str, set[str]] = {
    "core": {"core"},
    "executor": {"core", "executor"},
    "vision": {"core", "vision"},
    "networks": {"core", "vision", "networks"},
    "handlers": {"core", "vision", "networks", "handlers"},
    "exporters": {"core", "vision", "networks", "handlers", "exporters"},
    "training": {"core", "executor", "vision", "networks", "handlers", "exporters", "training", "demo"},
    "serving": {"core", "executor", "handlers", "serving"},
    "demo": {"core", "executor", "vision", "networks", "handlers", "exporters", "training", "demo"},
}

# A few modules see less than their layer.
GATEWAY = "clearsight.serving.gateway"
NO_TORCH_OR_HTTP = {"torch", "torchvision", "aiohttp", "ts", "mlflow", "onnxruntime", "openvino", "ray", "uvloop"}


def modules() -> list[tuple[str, Path]]:
    """Dotted names and files of all modules; the directory links are followed."""
    found = []
    for folder in [SOURCE, *(entry for entry in sorted(SOURCE.iterdir()) if entry.is_dir())]:
        files = folder.glob("*.py") if folder == SOURCE else folder.rglob("*.py")
        for file in sorted(files):
            parts = file.relative_to(SOURCE).with_suffix("").parts
            name = ".".join(["clearsight", *(part for part in parts if part != "__init__")])
            found.append((name, file))
    return found


def imports(name: str, tree: ast.AST) -> Iterator[str]:
    """Full names of what a module imports; `from a import b` gives both `a` and `a.b`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name} imports relatively"
            assert node.module is not None
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def layer_of(name: str) -> str | None:
    """The layer of a module of ours, `None` for the root package and for others' modules."""
    parts = name.split(".")
    if parts[0] != "clearsight" or len(parts) == 1:
        return None
    return parts[1] if parts[1] in LAYERS else "core"


ALL = modules()
IMPORTS = {name: sorted(set(imports(name, ast.parse(file.read_text(), str(file))))) for name, file in ALL}


def outside(names: Iterable[str], forbidden: set[str]) -> list[str]:
    """Imports of forbidden packages."""
    return [
        f"{name} imports {imported}"
        for name in names
        for imported in IMPORTS[name]
        if imported.split(".")[0] in forbidden
    ]


def test_the_walk_sees_every_layer() -> None:
    assert {layer_of(name) for name, _ in ALL} >= {"core", "vision", "networks", "handlers", "exporters", "training"}
    assert "clearsight.networks.families.classifiers.spec_for" in IMPORTS["clearsight.exporters.classifier"]


def test_a_module_imports_only_its_layer_and_those_before_it() -> None:
    wrong = [
        f"{name} imports {imported}"
        for name, found in IMPORTS.items()
        if (layer := layer_of(name)) is not None
        for imported in found
        if (target := layer_of(imported)) is not None and target not in LAYERS[layer]
    ]
    assert wrong == []


def test_the_core_knows_no_torch_and_no_http() -> None:
    core = [name for name in IMPORTS if layer_of(name) in ("core", "executor")]
    assert outside(core, NO_TORCH_OR_HTTP) == []


def test_the_gateway_imports_the_core_alone_and_no_torch() -> None:
    gateway = [name for name in IMPORTS if name.startswith(GATEWAY)]
    assert outside(gateway, {"torch", "torchvision", "ts", "onnxruntime", "openvino", "numpy"}) == []
    for name in gateway:
        for imported in IMPORTS[name]:
            assert layer_of(imported) in (None, "core") or imported.startswith(GATEWAY), f"{name} imports {imported}"


def test_only_the_adapter_imports_torchserve() -> None:
    importers = [name for name, found in IMPORTS.items() if any(item.split(".")[0] == "ts" for item in found)]
    assert set(importers) <= {"clearsight.handlers.torchserve"}


def test_packages_are_written_without_mlflow() -> None:
    writers = [name for name in IMPORTS if layer_of(name) in ("core", "vision", "networks", "exporters")]
    assert outside(writers, {"mlflow"}) == []


def test_no_module_reads_the_environment_but_the_one_for_it() -> None:
    """Settings of ours; `os.environ` handed to a child process is another matter and is allowed."""
    for name, file in ALL:
        if name == "clearsight.environment":
            continue
        for node in ast.walk(ast.parse(file.read_text())):
            text = ast.unparse(node) if isinstance(node, (ast.Call, ast.Subscript)) else ""
            assert "os.getenv" not in text, name
            assert not (text.startswith(("os.environ.get('CLEARSIGHT", "os.environ['CLEARSIGHT"))), name


def test_no_bare_name_of_a_linked_folder_is_imported() -> None:
    """`import handlers` would load a second copy of what `clearsight.handlers` holds."""
    assert outside(IMPORTS, {"handlers", "exporters", "training", "serving"}) == []


def test_public_modules_declare_what_they_export() -> None:
    assert [fault for name, file in ALL if (fault := fault_of_exports(name, file)) is not None] == []


def fault_of_exports(name: str, file: Path) -> str | None:
    body = ast.parse(file.read_text()).body
    defines = [node for node in body if isinstance(node, (ast.FunctionDef, ast.ClassDef, ast.AsyncFunctionDef))]
    public = {node.name for node in defines if not node.name.startswith("_")}
    if file.name == "__main__.py" or not public:
        return None
    assigned = {
        target.id: node.value
        for node in body
        if isinstance(node, (ast.Assign, ast.AnnAssign))
        for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
        if isinstance(target, ast.Name)
    }
    imported = {alias.asname or alias.name for node in body if isinstance(node, ast.ImportFrom) for alias in node.names}
    if "__all__" not in assigned:
        return f"{name} has no __all__"
    declared = ast.literal_eval(assigned["__all__"])
    undefined = set(declared) - public - assigned.keys() - imported
    return f"{name} declares {sorted(undefined)} without defining them" if undefined else None
