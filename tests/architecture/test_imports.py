"""Imports point one way: core, vision, networks, handlers, exporters, training; serving beside training.

Read from the syntax trees of all modules, imports inside functions included.
"""

import ast
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

SOURCE = Path(__file__).resolve().parents[2] / "src" / "clearsight"

ROOT = "root"
"""The files directly below `clearsight`: errors, tasks, environment, console, …"""

CORE = {ROOT, "catalogue", "documents", "executor", "images", "runs", "wire"}

LAYERS: dict[str, set[str]] = {
    ROOT: {ROOT},
    "catalogue": {ROOT, "catalogue"},
    "documents": {ROOT, "catalogue", "documents"},
    "images": {ROOT, "documents", "images"},
    "wire": {ROOT, "images", "wire"},
    "executor": {ROOT, "executor"},
    "runs": CORE - {"images", "wire"},
    "vision": CORE - {"executor", "runs"} | {"vision"},
    "networks": CORE - {"executor"} | {"vision", "networks"},
    "handlers": CORE | {"vision", "networks", "handlers"},
    "exporters": CORE | {"vision", "networks", "handlers", "exporters"},
    "training": CORE | {"vision", "networks", "handlers", "exporters", "training"},
    "serving": CORE | {"handlers", "serving"},
    "batch": {"serving", "batch"},
    "demo": CORE | {"vision", "networks", "handlers", "exporters", "training", "demo"},
    "testing": CORE | {"vision", "networks", "handlers", "exporters", "training", "serving", "testing"},
}
"""What the modules of a folder may import. A folder that is not named here fails the test."""

# A few modules see less than their layer.
GATEWAY = "clearsight.serving.gateway"
MLFLOW_MIRROR = "clearsight.runs.mlflow_mirror"
NO_TORCH_OR_HTTP = {
    "torch", "torchvision", "aiohttp", "httptools", "ts", "mlflow", "onnxruntime", "openvino", "ray", "uvloop",
}  # fmt: skip


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
    return parts[1] if (SOURCE / parts[1]).is_dir() else ROOT


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


def test_every_folder_has_a_layer_and_every_layer_a_folder() -> None:
    assert {layer_of(name) for name, _ in ALL} - {None} == set(LAYERS)
    assert "clearsight.networks.families.table.family_of" in IMPORTS["clearsight.exporters.write"]


def test_a_module_imports_only_its_layer_and_those_before_it() -> None:
    wrong = [
        f"{name} imports {imported}"
        for name, found in IMPORTS.items()
        if (layer := layer_of(name)) is not None
        for imported in found
        if (target := layer_of(imported)) is not None and target not in LAYERS[layer]
    ]
    assert wrong == []


def test_no_files_import_each_other_in_a_circle() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"a"}}) == [["b", "c"]]
    files = {name for name, _ in ALL}

    def file_of(imported: str) -> str:
        while imported and imported not in files:
            imported = imported.rpartition(".")[0]
        return imported

    graph = {
        name: {file_of(imported) for imported in found} - {name, "", "clearsight"} for name, found in IMPORTS.items()
    }
    assert circles(graph) == []


def circles(graph: Mapping[str, set[str]]) -> list[list[str]]:
    """Groups of nodes that reach each other, each in alphabetical order."""
    reach: dict[str, set[str]] = {}
    for start in graph:
        seen: set[str] = set()
        waiting = list(graph[start])
        while waiting:
            node = waiting.pop()
            if node not in seen:
                seen.add(node)
                waiting += graph.get(node, ())
        reach[start] = seen
    inside = sorted(node for node in graph if node in reach[node])
    groups = {tuple(other for other in inside if other in reach[node] and node in reach[other]) for node in inside}
    return sorted(map(list, groups))


def test_the_core_knows_no_torch_and_no_http() -> None:
    core = [name for name in IMPORTS if layer_of(name) in CORE and name != MLFLOW_MIRROR]
    assert outside(core, NO_TORCH_OR_HTTP) == []
    assert outside([MLFLOW_MIRROR], NO_TORCH_OR_HTTP - {"mlflow"}) == []


def test_the_gateway_imports_the_core_alone_and_no_torch() -> None:
    gateway = [name for name in IMPORTS if name.startswith(GATEWAY)]
    assert outside(gateway, {"torch", "torchvision", "ts", "onnxruntime", "openvino", "numpy"}) == []
    for name in gateway:
        for imported in IMPORTS[name]:
            allowed = {None, *CORE - {"runs", "executor"}}
            assert layer_of(imported) in allowed or imported.startswith(GATEWAY), f"{name} imports {imported}"


def test_only_the_adapter_imports_torchserve() -> None:
    importers = [name for name, found in IMPORTS.items() if any(item.split(".")[0] == "ts" for item in found)]
    assert set(importers) <= {"clearsight.handlers.torchserve"}


def test_packages_are_written_without_mlflow() -> None:
    writers = [name for name in IMPORTS if layer_of(name) in ("vision", "networks", "handlers", "exporters")]
    writers.remove("clearsight.handlers.mlflow_pyfunc")
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
