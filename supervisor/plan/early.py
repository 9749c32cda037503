"""What a script's start reads from the environment, and what the script itself puts there first.

``import tensorflow`` reads variables, and most scripts that set some do so in the lines before it:
``os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"``. Who imports for the script beforehand must have them
as well, or must not import. Measured with TensorFlow 2.21, whose import asks for 110 names
(``tests/host/test_warm.py`` holds ``reads_early`` against them).
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

_LATE: Final = re.compile(
    r"TF_CONFIG|NOTIFY_SOCKET|WATCHDOG_USEC|CURRENT_HOST|S3_REGION|NO_PROXY|no_proxy|(SUPERVISOR|SM|SAGEMAKER)_.*"
)
"""What the plan may give a script otherwise than it was foreseen: no import reads it."""
_EARLY: Final = re.compile(
    r"_?PYTHON\w*|__PYVENV_LAUNCHER__"
    r"|(LD|LC|MALLOC|GLIBC|TF|XLA|KERAS|NPY|NUMPY|OPENBLAS|GOTO|OMP|GOMP|KMP|MKL|HDF5"
    r"|GCS|GFORTRAN|OPENSSL|PROTOCOL|TEMPORARILY|WRAPT|ABSL|LLVM|TEST|CUDA|NVIDIA|HIP|ROCR|JAX"
    r"|TCMALLOC|GRPC_THREAD|PILLOW)_\w*|HOME|PATH|TMPDIR|TEMP|TMP|LANG|LANGUAGE|TZ|PY_SAX_PARSER"
    r"|ENABLE_RUNTIME_UPTIME_TELEMETRY|DISABLE_HOST_SEND_RECV_REGISTRATION"
)


def reads_early(name: str) -> bool:
    """Whether an import may read this variable."""
    return _EARLY.fullmatch(name) is not None and not may_differ(name)


def may_differ(name: str) -> bool:
    """Whether a script's environment may have another value than what was imported with."""
    return _LATE.fullmatch(name) is not None


def difference(before: Mapping[str, str], now: Mapping[str, str]) -> str | None:
    """A variable that is not what it was and that an import may have read; None: there is none."""
    names = {*before, *now}
    return min(
        (name for name in names if not may_differ(name) and before.get(name) != now.get(name)),
        default=None,
    )


class Early(NamedTuple):
    """What a script puts into the environment of its imports."""

    values: Mapping[str, str]
    """By constants, in the lines before its imports."""
    unclear: str | None
    """A variable that it sets in some other way, of those that an import reads."""


def early_settings(source: bytes, environ: Mapping[str, str]) -> Early:
    """What the script ``source`` sets before it imports a library. It will have ``environ``."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return Early({}, None)  # it will not run
    values: dict[str, str] = {}
    understood: set[ast.AST] = set()
    late: set[ast.AST] = set()
    libraries = False
    for statement in tree.body:
        if not libraries and not (libraries := _imports_library(statement)):
            for name, value, default in _constants(statement):
                understood.update(ast.walk(statement))
                if reads_early(name) and not (default and name in {**environ, **values}):
                    values[name] = value
        elif isinstance(statement, ast.Import | ast.ImportFrom) and _imports_tensorflow(statement):
            late.update(*map(ast.walk, tree.body[tree.body.index(statement) :]))
            break
    for node in ast.walk(tree):
        if node not in understood and node not in late:
            for name in _written(node):
                if reads_early(name):
                    return Early(values, name)
    return Early(values, None)


def other_settings(source: bytes) -> str | None:
    """A variable that an import reads and that this module of the user's sets; None: none."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    return next((n for node in ast.walk(tree) for n in _written(node) if reads_early(n)), None)


def imports(source: bytes) -> Iterator[tuple[int, str]]:
    """The modules that a module's statements import, and what may be modules: how many packages
    up, 0 for the search path, and the dotted name."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((0, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                yield node.level, ".".join(filter(None, (node.module, alias.name)))


def _imports_library(statement: ast.stmt) -> bool:
    modules = (module for node in ast.walk(statement) for module in _modules(node))
    return any(module not in sys.stdlib_module_names for module in modules)


def _imports_tensorflow(statement: ast.stmt) -> bool:
    return any(module in {"tensorflow", "keras"} for module in _modules(statement))


def _modules(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name.partition(".")[0] for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        yield "" if node.level else (node.module or "").partition(".")[0]


def _constants(statement: ast.stmt) -> Iterator[tuple[str, str, bool]]:
    """``os.environ[NAME] = VALUE`` and ``os.environ.setdefault(NAME, VALUE)``; whether it is the
    latter."""
    match statement:
        case ast.Assign(
            targets=[ast.Subscript(value=place, slice=ast.Constant(value=str(name)))],
            value=ast.Constant(value=str(value)),
        ) if _is_environ(place):
            yield name, value, False
        case ast.Expr(
            value=ast.Call(
                func=ast.Attribute(value=place, attr="setdefault"),
                args=[ast.Constant(value=str(name)), ast.Constant(value=str(value))],
                keywords=[],
            )
        ) if _is_environ(place):
            yield name, value, True


def _is_environ(node: ast.expr) -> bool:
    return ast.unparse(node) in {"os.environ", "environ"}


_READING: Final = frozenset({"get", "getenv", "add_argument"})


def _written(node: ast.AST) -> Iterator[str]:
    """Names of variables in this node, where it does not only read them."""
    match node:
        case ast.Subscript(slice=ast.Constant(value=str(name)), ctx=ast.Store() | ast.Del()):
            yield name
        case ast.Call(func=function, args=arguments, keywords=keywords):
            called = getattr(function, "attr", getattr(function, "id", ""))
            if called not in _READING:
                yield from (
                    each.value
                    for each in arguments
                    if isinstance(each, ast.Constant) and isinstance(each.value, str)
                )
                yield from (each.arg for each in keywords if each.arg)
        case ast.Dict(keys=keys):
            yield from (
                key.value
                for key in keys
                if isinstance(key, ast.Constant) and isinstance(key.value, str)
            )
