# SPDX-License-Identifier: Apache-2.0
"""Breaks the code on purpose, one small change at a time, and shows which changes no test notices.

Cosmic Ray makes the changes (a comparison turned, a number one off, a loop that does not run, a
decorator gone, ...). Each is tried in a copy of the tree against the tests named in `TARGETS`; the
working tree is never touched. Annotations stay as they are, because nothing evaluates them. A
number becomes one more or one less, by chance; with --all both are tried. `survivors.toml` says why
a survivor is harmless.

Needs, beside what the tests need: pip install cosmic-ray
Run: python tests/bench/mutate.py [--sample N] [--seed N] [--workers N] [--json FILE] [TARGET ...]
The exit code is 1 when more than 10 % survive, or one that `survivors.toml` does not explain.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import queue
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

try:
    from cosmic_ray.commands import init
    from cosmic_ray.mutating import mutate_and_test
    from cosmic_ray.work_db import WorkDB, use_db
    from cosmic_ray.work_item import MutationSpec, TestOutcome
except ImportError:
    sys.exit("this needs Cosmic Ray: pip install cosmic-ray")

ROOT = Path(__file__).resolve().parents[2]
BAR = 0.10
USED = re.compile(
    r"core/(ReplaceComparisonOperator_"
    r"(Eq_NotEq|NotEq_Eq|Lt_LtE|LtE_Lt|Gt_GtE|GtE_Gt|Is_IsNot|IsNot_Is)"
    r"|ReplaceBinaryOperator_(Add_Sub|Sub_Add|Mul_FloorDiv|FloorDiv_Mul|Mod_FloorDiv|"
    r"LShift_RShift|RShift_LShift|BitOr_BitAnd|BitAnd_BitOr|BitXor_BitAnd)"
    r"|ReplaceUnaryOperator_(USub_UAdd|Delete_Invert|Delete_Not)"
    r"|AddNot|NumberReplacer|ReplaceTrueWithFalse|ReplaceFalseWithTrue|ReplaceAndWithOr"
    r"|ReplaceOrWithAnd|ReplaceBreakWithContinue|ReplaceContinueWithBreak|ExceptionReplacer"
    r"|RemoveDecorator|ZeroIterationForLoop)$"
)
"""One counterpart of each operator; with others, such as `>` for `!=` 0, most changes are none."""
EMULATOR = "tests/unit/iop_emulator/"
HOST = tuple(
    f"tests/unit/host/test_{name}.py"
    for name in ("message_layer", "iop", "bring_up", "recovery", "waits", "drivers")
)
TARGETS: dict[str, tuple[str, tuple[str, ...]]] = {
    # name: modules by pattern, and the tests that must notice, quickest first; those that take
    # long and are about something else are left out, which can only make more survive
    "message_layer": ("i2o/message_layer.py", HOST),
    "request_path": ("i2o/request_path.py", HOST),
    "sgl_walk": (
        "i2o/frames/sgl_walk.py",
        ("tests/unit/frames/test_sgl_walk.py", EMULATOR + "test_block.py"),
    ),
    "parameters": (
        "iop_emulator/parameters.py",
        (EMULATOR + "test_parameters.py", EMULATOR + "test_every_function.py"),
    ),
    "executive": (
        "iop_emulator/executive*.py",
        (
            EMULATOR + "test_every_function.py",
            EMULATOR + "test_e*.py",
            EMULATOR + "test_parameters.py",
            EMULATOR + "test_[apsu]*.py",
            EMULATOR + "test_message_unit.py",
        ),
    ),
    "scsi": ("iop_emulator/scsi/*.py", (EMULATOR + "scsi", EMULATOR + "test_scsi.py")),
    "scsi_device": (
        "iop_emulator/ddm/sc*.py",
        (EMULATOR + "test_scsi.py", EMULATOR + "test_every_function.py"),
    ),
}


class Survivor(NamedTuple):
    """A change that no test noticed.

    Attributes:
        module: path in the tree.
        before: the line, without indentation.
        after: the same, changed; empty if it is gone.
        operator: Cosmic Ray's name of the change.
        line: its number.
    """

    module: str
    before: str
    after: str
    operator: str
    line: int


def main() -> int:
    """Try the changes and print what survives."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=", ".join(TARGETS))
    parser.add_argument("--sample", type=int, metavar="N", help="try N changes a target")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--all", action="store_true", help="every number both ways")
    parser.add_argument("--count", action="store_true", help="only say how many changes there are")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the outcome there")
    options = parser.parse_args()
    unknown = set(options.targets) - set(TARGETS)
    if unknown:
        parser.error(
            f"no such target: {', '.join(sorted(unknown))}; there are {', '.join(TARGETS)}"
        )
    explained = _explanations()
    outcome = {}
    failed = False
    with tempfile.TemporaryDirectory(prefix="i2o-mutate-") as place:
        trees = [_copy_of_tree(Path(place) / str(number)) for number in range(options.workers)]
        for name in options.targets or TARGETS:
            changes = _changes(trees[0], TARGETS[name][0], every=options.all, seed=options.seed)
            if options.sample is not None and options.sample < len(changes):
                changes = random.Random(options.seed).sample(changes, options.sample)
            if options.count:
                print(f"{name}: {len(changes)} changes")
                continue
            survivors = _try_all(trees, name, changes)
            strange = [s for s in survivors if (s.module, s.before, s.after) not in explained]
            share = len(survivors) / max(1, len(changes))
            failed |= share > BAR or bool(strange)
            outcome[name] = {
                "changes": len(changes),
                "survivors": [s._asdict() for s in survivors],
                "unexplained": len(strange),
            }
            print(
                f"{name}: {len(changes)} changes, {len(survivors)} survived "
                f"({100 * share:.1f} %, bar: at most {100 * BAR:g} %), "
                f"{len(strange)} of them unexplained"
            )
            for survivor in survivors:
                why = explained.get((survivor.module, survivor.before, survivor.after))
                print(f"  {survivor.module}:{survivor.line} {survivor.operator.split('/')[-1]}")
                print(f"    - {survivor.before}\n    + {survivor.after}")
                if why:
                    print(f"    harmless: {why}")
    if options.json:
        options.json.write_text(json.dumps(outcome, indent=2) + "\n")
    return 1 if failed else 0


def _explanations() -> dict[tuple[str, str, str], str]:
    """Return why known survivors are harmless, by module and by the line before and after."""
    listed = tomllib.loads((Path(__file__).parent / "survivors.toml").read_text())
    return {
        (entry["module"], entry["before"], entry["after"]): entry["why"]
        for entry in listed.get("survivor", ())
    }


def _copy_of_tree(place: Path) -> Path:
    """Copy what git knows or would take, and assemble the package in `package/`."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split("\0")
    for name in filter(None, listed):
        if (ROOT / name).is_file():
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, place / name)
    package = place / "package"
    package.mkdir()
    shutil.copytree(place / "i2o", package / "i2o")
    folders = tomllib.loads((place / "pyproject.toml").read_text())["tool"]["setuptools"]
    for dotted, folder in folders["package-dir"].items():
        if dotted != "i2o":
            shutil.copytree(place / folder, package.joinpath(*dotted.split(".")))
    return place


def _module_in_package(tree: Path, module: str) -> Path:
    """Return where a module of the tree lies in the assembled package."""
    inside = module if module.startswith("i2o/") else f"i2o/{module}"
    return tree / "package" / inside


def _changes(tree: Path, pattern: str, *, every: bool, seed: int) -> list[MutationSpec]:
    """List the changes to try."""
    found: list[MutationSpec] = []
    chooser = random.Random(seed)
    for source in sorted(tree.glob(pattern)):
        module = str(source.relative_to(tree))
        annotations = list(_annotations(source.read_text()))
        with use_db(str(tree / "session.sqlite"), WorkDB.Mode.create) as database:
            init([source], database, {})
            specs = [spec for item in database.work_items for spec in item.mutations]
        kinds: dict[tuple[object, ...], list[MutationSpec]] = {}
        for spec in sorted(specs, key=lambda s: (s.start_pos, s.operator_name, s.occurrence)):
            inside = any(start <= spec.start_pos < end for start, end in annotations)
            if inside or not USED.match(spec.operator_name):
                continue
            spec = MutationSpec(
                module_path=module,
                operator_name=spec.operator_name,
                occurrence=spec.occurrence,
                start_pos=tuple(spec.start_pos),
                end_pos=tuple(spec.end_pos),
                definition_name=spec.definition_name,
            )
            kind = spec.operator_name.split("_")[0]
            kinds.setdefault((spec.start_pos, spec.end_pos, kind), []).append(spec)
        for alternatives in kinds.values():
            found += alternatives if every else [chooser.choice(alternatives)]
    if not found:
        sys.exit(f"{pattern} has nothing to change: is TARGETS right?")
    return found


def _annotations(source: str) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
    """Yield where annotations start and end: nothing evaluates them."""
    for node in ast.walk(ast.parse(source)):
        for name in ("annotation", "returns"):
            part = getattr(node, name, None)
            if isinstance(part, ast.expr) and part.end_lineno and part.end_col_offset:
                yield (
                    (part.lineno, part.col_offset),
                    (part.end_lineno, part.end_col_offset),
                )


def _try_all(trees: list[Path], name: str, changes: list[MutationSpec]) -> list[Survivor]:
    """Try changes, as many at a time as there are copies of the tree."""
    tests: list[str] = []
    for pattern in TARGETS[name][1]:
        matches = sorted(str(path.relative_to(trees[0])) for path in trees[0].glob(pattern))
        tests += [test for test in matches if test not in tests]
    idle: queue.SimpleQueue[Path] = queue.SimpleQueue()
    start = time.monotonic()
    if not _passes(trees[0], tests):
        sys.exit(f"{name}: its tests fail without any change: {' '.join(tests)}")
    timeout = 10 + 4 * (time.monotonic() - start)
    for tree in trees:
        idle.put(tree)

    def attempt(change: MutationSpec) -> Survivor | None:
        tree = idle.get()
        try:
            return _try(tree, change, tests, timeout)
        finally:
            idle.put(tree)

    with ThreadPoolExecutor(len(trees)) as pool:
        survivors = []
        for number, survivor in enumerate(pool.map(attempt, changes), 1):
            if survivor is not None:
                survivors.append(survivor)
            if sys.stderr.isatty():
                print(
                    f"\r{name}: {number} of {len(changes)}, {len(survivors)} survived ",
                    end="",
                    file=sys.stderr,
                )
    return survivors


def _command(tree: Path, tests: list[str]) -> str:
    words = [
        "env",
        f"PYTHONPATH={tree / 'package'}",
        "PYTHONDONTWRITEBYTECODE=1",
        sys.executable,
        *("-P", "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider"),
        f"--rootdir={tree}",
        f"--config-file={tree / 'pyproject.toml'}",
        *(str(tree / test) for test in tests),
    ]
    return " ".join(words)


def _passes(tree: Path, tests: list[str]) -> bool:
    return subprocess.run(_command(tree, tests).split(), cwd=tree, check=False).returncode == 0


def _try(tree: Path, change: MutationSpec, tests: list[str], timeout: float) -> Survivor | None:
    """Make one change in one copy of the tree, run the tests, and take the change back."""
    target = MutationSpec(
        module_path=_module_in_package(tree, str(change.module_path)),
        operator_name=change.operator_name,
        occurrence=change.occurrence,
        start_pos=change.start_pos,
        end_pos=change.end_pos,
    )
    result = mutate_and_test([target], _command(tree, tests), timeout)
    if result.test_outcome != TestOutcome.SURVIVED:
        return None
    lines = (result.diff or "").splitlines()[4:]
    before = " ".join(line[1:].strip() for line in lines if line.startswith("-"))
    after = " ".join(line[1:].strip() for line in lines if line.startswith("+"))
    line = change.start_pos[0]
    return Survivor(str(change.module_path), before, after, change.operator_name, line)


if __name__ == "__main__":
    sys.exit(main())
