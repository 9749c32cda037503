"""The house: rooms, what each may import, their faces, and how large a class may be.

Rooms are the packages of ``supervisor/``. Imports go down the floors; a room on the same floor is
another house's business. What a room shows to others stands in its ``__all__``: modules, and for
``streams`` names. All else in it is its own.
"""

from __future__ import annotations

import ast
import pathlib
from collections.abc import Iterator
from typing import Final, NamedTuple

import pytest

import supervisor

PACKAGE: Final = pathlib.Path(supervisor.__file__).parent
MOST_LINES: Final = 300
"""Of a class."""

FLOORS: Final[tuple[tuple[str, ...], ...]] = (
    ("faults", "regular", "aside", "progress"),
    ("life", "streams", "mpi", "training"),
    ("cluster",),
    ("linux",),
    ("children", "status", "programs"),
    ("storage",),
    ("contract",),
    ("plan", "engines"),
    ("host",),
    ("verbs",),
    ("__main__",),
)
"""Lowest first."""

MAY_IMPORT: Final[dict[str, frozenset[str]]] = {
    room: frozenset(may.split())
    for room, may in {
        "faults": "",
        "regular": "",
        "aside": "",
        "progress": "",
        "life": "faults",
        "streams": "faults regular",
        "mpi": "faults",
        "training": "regular",
        "cluster": "aside faults life",
        "linux": "cluster",
        "children": "aside life linux regular",
        "status": "cluster faults life linux streams",
        "programs": "faults linux",
        "storage": "aside children faults life linux regular streams",
        "contract": "faults life regular storage streams training",
        "plan": "contract faults life regular storage streams",
        "engines": "contract faults linux regular storage",
        "host": "aside children cluster contract engines faults life linux mpi plan regular status"
        " storage streams training",
        "verbs": "aside children cluster contract engines faults host life linux plan regular"
        " storage streams training",
        "__main__": "contract host verbs",
    }.items()
}

PURE: Final = {
    *("faults", "life.words", "life.events", "life.agreement", "life.outcome", "life.automaton"),
    *("life.attempts", "life.restarting", "life.returning", "life.world", "plan.world"),
    *("life.frozen", "life.ladder", "life.state", "life.joining", "life.ending", "life.lifecycle"),
    *("streams.masking", "mpi.words", "linux.memory", "cluster.protocol", "cluster.liveness"),
    *("children.attribution", "children.watchdog", "plan.requirements"),
    *("storage.location", "storage.job", "storage.notices", "storage.snapshot"),
    *("contract.paths", "contract.strangers", "contract.values", "contract.settings"),
    *("contract.reading", "contract.facts", "contract.document", "contract.hyperparameters"),
    *("contract.hosts", "contract.channels", "contract.places", "contract.entry_point"),
    *("contract.distribution", "contract.contract", "contract.told", "engines.hostlist"),
    *("engines.world", "engines.slurm", "engines.tf_config", "engines.kubernetes"),
    *("engines.hosts",),
    *("plan.arguments", "plan.proxies", "plan.given_config", "plan.environment", "plan.mpi"),
    *("training.reading", "training.framing", "training.events", "training.bundle"),
    *("training.lines", "training.words", "training.course", "training.ledger", "training.saves"),
    *("training.notices", "training.totals", "training.telling"),
    *("plan.storage", "plan.early", "plan.plan", "verbs.injection"),
}
"""Modules that decide and touch no world."""
WORLD: Final = {
    "asyncio", "subprocess", "aiohttp", "socket", "os", "threading", "multiprocessing", "select",
    "time", "logging", "tensorflow", "aiobotocore", "tenacity", "rich", "prometheus_client",
}  # fmt: skip


class Import(NamedTuple):
    """``from MODULE import NAME`` in ``source``; names of modules are below the package."""

    source: str
    module: str
    name: str


def _modules() -> dict[str, ast.Module]:
    """Every module of the package by its name below it; a package by its own, ours by ``""``."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        if parts[0] != "examples":  # to be copied: nothing of them is ours
            name = ".".join(parts).removesuffix("__init__").removesuffix(".")
            found[name] = ast.parse(path.read_text())
    return found


TREES: Final = _modules()
ROOMS: Final = {name.partition(".")[0] for name in TREES} - {""}


def _imports(source: str, tree: ast.AST) -> Iterator[Import]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [(alias.name, "") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [(node.module or "", alias.name) for alias in node.names]
        else:
            continue
        for module, name in names:
            top, _, below = module.partition(".")
            if top != "supervisor":
                continue
            full = f"{below}.{name}".strip(".")
            if full in TREES and name:  # a module that is imported as a name
                yield Import(source, full, "")
            else:
                yield Import(source, below, name)


IMPORTS: Final = [one for source, tree in TREES.items() for one in _imports(source, tree)]


def _room(module: str) -> str:
    return module.partition(".")[0]


def _face(room: str) -> set[str]:
    for node in TREES[room].body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return set(ast.literal_eval(node.value))
    return set()


def breaks(one: Import) -> str | None:
    """What an import breaks, in one sentence."""
    here, there = _room(one.source), _room(one.module)
    if here in {there, ""} or there == "":
        return None
    if there not in MAY_IMPORT[here]:
        return (
            f"supervisor.{one.source} imports supervisor.{one.module}: the room {here} may import "
            f"{', '.join(sorted(MAY_IMPORT[here])) or 'nothing of ours'} (tests/test_house.py)"
        )
    if one.name.startswith("_"):
        return f"supervisor.{one.source} imports {one.name}, which is supervisor.{one.module}'s own"
    shown = one.module.partition(".")[2] or one.name
    if (PACKAGE / there).is_dir() and shown not in _face(there):
        return (
            f"supervisor.{one.source} imports {shown} of {there}, which is not in the __all__ of "
            f"supervisor/{there}/__init__.py: it is the room's own"
        )
    return None


def test_every_import_goes_down_to_the_face_of_a_room_that_may_be_imported() -> None:
    assert len(IMPORTS) > 300
    broken = [sentence for one in IMPORTS if (sentence := breaks(one))]
    assert not broken, "\n".join(broken)


@pytest.mark.parametrize(
    ("source", "line", "sentence"),
    [
        (
            *("life.lifecycle", "from supervisor.host.run import live"),
            "life.lifecycle imports supervisor.host.run: the room life may import faults",
        ),
        (
            *("host.run", "from supervisor.status import gate"),
            "host.run imports gate of status, which is not in the __all__ of",
        ),
        (
            *("host.run", "from supervisor.linux.procfs import _stat"),
            "host.run imports _stat, which is supervisor.linux.procfs's own",
        ),
    ],
)
def test_an_import_that_breaks_a_wall_is_one_sentence(
    source: str, line: str, sentence: str
) -> None:
    [one] = _imports(source, ast.parse(line))
    assert (breaks(one) or "").startswith(f"supervisor.{sentence}")


def test_the_rooms_are_those_of_the_floors_and_may_import_from_below_alone() -> None:
    assert {room for floor in FLOORS for room in floor} == ROOMS == set(MAY_IMPORT)
    below: set[str] = set()
    for floor in FLOORS:
        for room in floor:
            assert MAY_IMPORT[room] <= below, f"{room} may import a room that is not below it"
        below |= {*floor}


def test_no_permission_is_left_over() -> None:
    used = {(_room(one.source), _room(one.module)) for one in IMPORTS}
    idle = {(room, other) for room, may in MAY_IMPORT.items() for other in may} - used
    assert not idle, "rooms that may import another, and do not"


@pytest.mark.parametrize("room", sorted(room for room in ROOMS if (PACKAGE / room).is_dir()))
def test_a_room_says_what_lives_there_and_shows_what_is_used(room: str) -> None:
    assert ast.get_docstring(TREES[room])
    outside = [one for one in IMPORTS if _room(one.source) != room and _room(one.module) == room]
    used = {one.module.partition(".")[2] or one.name for one in outside}
    names = {one.name for one in IMPORTS if one.source == room}
    idle = {name for name in _face(room) - used if name not in names}
    assert not idle, "shown by the room, and used by none"


def test_no_modules_import_each_other_in_a_circle() -> None:
    graph = {
        source: {one.module for one in IMPORTS if one.source == source} & set(TREES) - {""}
        for source in TREES
        if source
    }
    done: set[str] = set()

    def visit(module: str, way: tuple[str, ...]) -> None:
        assert module not in way, f"a circle: {' -> '.join((*way, module))}"
        if module not in done:
            for other in sorted(graph[module]):
                visit(other, (*way, module))
            done.add(module)

    for module in graph:
        visit(module, ())


def test_the_pure_modules_touch_no_world() -> None:
    assert set(TREES) >= PURE
    for module in sorted(PURE):
        for node in ast.walk(TREES[module]):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            for name in names:
                assert _room(name) not in WORLD, f"supervisor.{module} is pure and imports {name}"
        for one in (one for one in IMPORTS if one.source == module):
            assert one.module in PURE, (
                f"supervisor.{module} is pure, supervisor.{one.module} is not"
            )


def test_only_the_child_imports_tensorflow() -> None:
    for module, tree in TREES.items():
        if module == "programs.parameter_server":
            continue
        for node in ast.walk(tree):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            assert not {_room(name) for name in names} & {"tensorflow", "keras"}, module


def test_no_class_is_too_large_to_be_read() -> None:
    for module, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                lines = (node.end_lineno or 0) - node.lineno + 1
                assert lines <= MOST_LINES, f"{module}.{node.name} has {lines} lines"
