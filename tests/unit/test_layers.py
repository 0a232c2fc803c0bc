# SPDX-License-Identifier: Apache-2.0
"""The architecture as a test: who imports whom, and what no module may contain."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = {
    "i2o": "i2o",
    "transport": "i2o.transport",
    "iop_emulator": "i2o.iop_emulator",
    "tools": "i2o.tools",
}
LOWEST = ("i2o.errors", "i2o.clock", "i2o.closing", "i2o._version")
ON_TOP = ("i2o.tools", "i2o.testing", "i2o.__main__")
EMULATOR = "i2o.iop_emulator"
MAY_NAME_THE_EMULATOR = ("i2o.transport.registry", EMULATOR, *ON_TOP)

WIRE_FORMAT = tuple(
    f"i2o.frames.{name}"
    for name in ("header", "sgl", "sgl_walk", "layout", "codec", "construct_tree")
)
"""The modules of `i2o.frames` that know no function code: all that a transport may use."""

ALLOWED = {
    "lowest": ("lowest",),
    "frames": ("lowest", "frames"),
    "transport": ("lowest", "frames", "transport"),
    "host": ("lowest", "frames", "transport", "host"),
    "emulator": ("lowest", "frames", "transport", "emulator"),
    "top": ("lowest", "frames", "transport", "host", "emulator", "top"),
}


@dataclass(frozen=True)
class Module:
    name: str
    path: Path
    text: str = field(repr=False)

    @property
    def tree(self) -> ast.Module:
        return _parse(self.path)

    @property
    def layer(self) -> str:
        return layer_of(self.name)

    @property
    def imports(self) -> set[str]:
        """Modules of the project that this one imports anywhere, even lazily or for types only."""
        found: set[str] = set()
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                found.update(alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                assert not node.level, f"{self.name}: relative import"
                found.update(_target(node.module or "", alias.name) for alias in node.names)
        return {name for name in found if name == "i2o" or name.startswith("i2o.")}


@cache
def modules() -> dict[str, Module]:
    found = {}
    for folder, package in FOLDERS.items():
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            name = ".".join((package, *parts)).removesuffix(".__init__")
            found[name] = Module(name, path, path.read_text())
    return found


@cache
def _parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), str(path))


@pytest.fixture(scope="module", autouse=True)
def _forget_trees() -> Iterator[None]:
    """Most of a million objects would slow down every test behind these that collects garbage."""
    yield
    _parse.cache_clear()


def _target(module: str, name: str) -> str:
    """Return the module that `from module import name` needs."""
    if f"{module}.{name}" in modules():
        return f"{module}.{name}"
    if module == "i2o.frames":
        for node in modules()[module].tree.body:
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "_HOMES":
                return f"{module}.{ast.literal_eval(node.value)[name]}"
    return module


def layer_of(name: str) -> str:
    if name in LOWEST:
        return "lowest"
    for top in ON_TOP:
        if is_in(name, top):
            return "top"
    for prefix, layer in (
        ("i2o.frames", "frames"),
        ("i2o.transport", "transport"),
        (EMULATOR, "emulator"),
    ):
        if is_in(name, prefix):
            return layer
    return "host"


def is_in(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


def every_module() -> list[pytest.ParameterSet]:
    return [pytest.param(module, id=name) for name, module in modules().items()]


def test_every_folder_has_modules() -> None:
    layers = {module.layer for module in modules().values()}
    assert layers == set(ALLOWED)


@pytest.mark.parametrize("module", every_module())
def test_imports_point_down(module: Module) -> None:
    wrong = {
        name
        for name in module.imports
        if layer_of(name) not in ALLOWED[module.layer]
        and not (name == "i2o" and module.layer == "top")
    }
    assert not wrong, f"{module.name} ({module.layer}) imports {sorted(wrong)}"


@pytest.mark.parametrize("module", every_module())
def test_only_the_top_imports_the_package_itself(module: Module) -> None:
    assert "i2o" not in module.imports or module.layer == "top"


@pytest.mark.parametrize(
    "module", [param for param in every_module() if layer_of(str(param.id)) == "transport"]
)
def test_a_transport_knows_no_function_codes(module: Module) -> None:
    frames = {name for name in module.imports if is_in(name, "i2o.frames")}
    assert frames <= set(WIRE_FORMAT)


@pytest.mark.parametrize("module", every_module())
def test_the_emulator_is_found_by_the_registry_alone(module: Module) -> None:
    if any(is_in(module.name, package) for package in MAY_NAME_THE_EMULATOR):
        return
    named = [
        node.value
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and re.fullmatch(r"i2o\.iop_emulator[\w.:]*", node.value)
    ]
    assert not named, f"{module.name} names {named}"


def test_no_import_cycles() -> None:
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " -> ".join((*path[path.index(name) :], name))
        if name not in done and name in modules():
            for target in sorted(modules()[name].imports - {name}):
                visit(target, (*path, name))
            done.add(name)

    for name in modules():
        visit(name, ())


@pytest.mark.parametrize("module", every_module())
def test_every_file_names_its_licence(module: Module) -> None:
    head = module.text.splitlines()[:2]
    assert "# SPDX-License-Identifier: Apache-2.0" in head


def test_scripts_name_their_licence() -> None:
    for name in ("tools/setup.sh", ".ci/run", "pyproject.toml"):
        head = (ROOT / name).read_text().splitlines()[:2]
        assert "# SPDX-License-Identifier: Apache-2.0" in head, name


_MUTABLE = (ast.List, ast.Dict, ast.Set, ast.ListComp, ast.DictComp, ast.SetComp)
_MUTABLE_CALLS = ("list", "dict", "set", "bytearray", "deque", "defaultdict", "Counter")


@pytest.mark.parametrize("module", every_module())
def test_no_mutable_state_in_modules(module: Module) -> None:
    for node in module.tree.body:
        if isinstance(node, ast.Assign):
            targets, value = node.targets, node.value
        elif isinstance(node, ast.AnnAssign) and node.value is not None:
            targets, value = [node.target], node.value
        else:
            continue
        is_call = isinstance(value, ast.Call) and ast.unparse(value.func) in _MUTABLE_CALLS
        if not isinstance(value, _MUTABLE) and not is_call:
            continue
        for target in targets:
            name = ast.unparse(target)
            is_constant = name.isupper() or re.fullmatch(r"__\w+__", name)
            assert is_constant, f"{module.name}: module-level {name} can be changed"


@pytest.mark.parametrize("module", every_module())
def test_no_global_statements(module: Module) -> None:
    assert not [node for node in ast.walk(module.tree) if isinstance(node, ast.Global)]


@pytest.mark.parametrize("module", every_module())
def test_nothing_is_left_to_do(module: Module) -> None:
    for word in ("TODO", "FIXME", "XXX", "raise NotImplementedError"):
        assert word not in module.text, f"{module.name} contains {word}"


@pytest.mark.parametrize("module", every_module())
def test_module_names_say_what_is_inside(module: Module) -> None:
    vague = {"utils", "util", "helpers", "helper", "common", "misc"}
    assert not vague & set(module.name.split("."))
