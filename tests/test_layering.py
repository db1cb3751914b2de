"""The packages import in one direction only, and heavy libraries only where docs/architecture.md lists them."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.support.sources import PACKAGE, ROOT, sources

NAME = "hotwheels.amct_pytorch"
# Lowest first. Packages of one line may import each other's types only through the lines above.
ORDER = [
    {"errors", "version", "log_file", "trees"},
    {"torch_names"},
    {"torch_private", "torch_torchscript"},
    {"log", "files", "proto", "capacity"},
    {"core", "custom_op"},
    {"ops", "onnx_io"},
    {"graph", "record"},
    {"config"},
    {"plan"},
    {"quantizers"},
    {"nn"},
    {"backends"},
    {"oracle"},
    {"export"},
    {"report"},
    {"workflows"},
    {"api"},
    {"cli"},
    {"__init__", "__main__"},
]
WRITERS = {"backends/dynamic", "backends/torchscript", "backends/writer", "backends/fx/write"}
LIBRARIES = {
    "onnx": {"onnx_io", "export", "oracle", *WRITERS},
    "onnx_ir": {"onnx_io", "export", "oracle", *WRITERS},
    "google": {"proto", "record", "config"},
    "torch.fx": {"backends/fx", "backends/writer/symbolic_example.py", "report"},
}


def relative(path: Path) -> Path:
    return path.relative_to(PACKAGE if path.is_relative_to(PACKAGE) else ROOT)


def level(part: str) -> int:
    return next(index for index, names in enumerate(ORDER) if part in names)


def imported_modules(path: Path) -> list[str]:
    """Absolute dotted names of everything imported while the program runs, wherever the statement stands."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for_types = {id(inner) for node in ast.walk(tree) if _is_type_checking(node) for inner in ast.walk(node)}
    found = []
    for node in ast.walk(tree):
        if id(node) in for_types:
            continue
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = _absolute(path, node)
            found += [f"{base}.{alias.name}" for alias in node.names]
    return found


def _is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def _absolute(path: Path, node: ast.ImportFrom) -> str:
    if not node.level:
        return node.module or ""
    package = [*NAME.split("."), *relative(path).parts][: -node.level]
    return ".".join([*package, *([node.module] if node.module else [])])


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(relative(path)))
def test_imports_only_from_the_lines_above(path: Path) -> None:
    own = relative(path).parts[0].removesuffix(".py")
    for module in imported_modules(path):
        if not module.startswith(f"{NAME}."):
            continue
        other = module.removeprefix(f"{NAME}.").split(".")[0]
        if own != other and other != own:
            assert level(other) < level(own), f"{relative(path)} imports {module}"


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(relative(path)))
def test_libraries_stay_in_their_packages(path: Path) -> None:
    own = relative(path).as_posix()
    for module in imported_modules(path):
        for library, homes in LIBRARIES.items():
            if module == library or module.startswith(f"{library}."):
                assert any(own == home or own.startswith(f"{home}/") for home in homes), f"{own} imports {module}"


def test_fx_and_dynamic_do_not_import_each_other() -> None:
    for path in sources():
        own = relative(path).as_posix()
        for here, there in (("fx", "dynamic"), ("dynamic", "fx")):
            for room in ("backends", "config"):
                other = f"{NAME}.{room}.{there}"
                if own.startswith(f"{room}/{here}/"):
                    assert not any(module.startswith(other) for module in imported_modules(path)), own


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(relative(path)))
def test_files_stay_readable(path: Path) -> None:
    assert path.read_text(encoding="utf-8").count("\n") <= 400


def test_tests_import_helpers_from_support_only() -> None:
    """tests/zoo and tests/benchmarks test the benchmarks' own code."""
    for path in sorted((ROOT / "tests").rglob("*.py")):
        own = path.relative_to(ROOT).parts
        for module in _absolute_imports(path):
            parts = module.split(".")
            if parts[0] == "tests" and parts[1] != "support":
                assert parts[1] == own[1] and not parts[2].startswith("test_"), f"{'/'.join(own)} imports {module}"
            assert parts[0] != "benchmarks" or own[1] in ("zoo", "benchmarks"), f"{'/'.join(own)} imports {module}"


def _absolute_imports(path: Path) -> list[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    froms = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and not node.level]
    return found + [f"{node.module}.{alias.name}" for node in froms for alias in node.names]


def test_modules_import_each_other_one_way() -> None:
    """No circles, not even of imports for types only or inside of functions."""
    modules = {_dotted(path): path for path in sources()}
    graph = {name: sorted(_read_modules(path, modules) - {name}) for name, path in modules.items()}
    done: set[str] = set()
    for start in graph:
        _refuse_circle(start, graph, done, [])


def _refuse_circle(name: str, graph: dict[str, list[str]], done: set[str], way: list[str]) -> None:
    assert name not in way, " -> ".join([*way[way.index(name) :], name])
    if name not in done:
        for other in graph[name]:
            _refuse_circle(other, graph, done, [*way, name])
        done.add(name)


def _dotted(path: Path) -> str:
    return ".".join([NAME, *relative(path).with_suffix("").parts]).removesuffix(".__init__")


def _read_modules(path: Path, modules: dict[str, Path]) -> set[str]:
    """The modules of the package that ``path`` names in imports; a package counts where one of its names is taken."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = set()
    for node in (one for one in ast.walk(tree) if isinstance(one, ast.ImportFrom)):
        base = _absolute(path, node)
        named = {f"{base}.{alias.name}" for alias in node.names}
        found |= {one if one in modules else base for one in named} & modules.keys()
    return found
