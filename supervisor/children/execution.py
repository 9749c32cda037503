"""Why a program could not be executed: the kernel's error number → one sentence and a code.

The kernel says "No such file or directory" of a missing program, of a missing interpreter in its
first line, of a missing loader and of a missing working directory alike. This module looks at the
file to say which. 127 means not found and 126 found but not executable, as in POSIX shells.

What a shell would run though the kernel does not (a text without an interpreter line; exec(3p) and
XCU 2.9.1.1) can be run in its stead, and so can a script whose mode is not ours to change.
"""

from __future__ import annotations

import errno
import os
import shlex
import stat
import struct
from dataclasses import dataclass

from supervisor import regular
from supervisor.life.words import ProcessSpec

_MACHINES = {3: "i386", 40: "arm", 62: "x86_64", 183: "aarch64", 243: "riscv64", 21: "ppc64"}
"""ELF e_machine, elf(5)."""

MESSAGE_LIMIT = 400


_SHELL = "/bin/sh"
_BOM = b"\xef\xbb\xbf"
_HEAD_BYTES = 4096
_IN_TEXT = bytes({*b"\a\b\t\v\f\r\x1b", *range(0x20, 0x7F), *range(0x80, 0x100)})


@dataclass(frozen=True, slots=True)
class Instead:
    """A command that runs the file which the kernel refused, and why it is needed."""

    argv: tuple[str, ...]
    why: str


class SpawnError(Exception):
    """A program could not be executed. ``code`` is 126 or 127, ``message`` one sentence.

    ``instead`` is what may be executed in its stead, None where nothing can be.
    """

    def __init__(self, code: int, message: str, instead: Instead | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.instead = instead


def explain(spec: ProcessSpec, error: OSError | ValueError) -> SpawnError:
    """The sentence for what ``subprocess.Popen`` raised when it was to execute ``spec``."""
    name = spec.argv[0] if spec.argv else ""
    shown = repr(name if len(name) <= 120 else name[:119] + "…")
    code, reason = _reason(spec, name, error)
    message = f"cannot execute {shown}: {reason}"
    if len(message) > MESSAGE_LIMIT:
        message = message[: MESSAGE_LIMIT - 1] + "…"
    return SpawnError(code, message, _instead(spec, name, error))


def refusal(path: str) -> str:
    """Why ``path`` could not be executed, not even by an interpreter; empty where nothing is seen
    against it."""
    if not os.access(path, os.X_OK):
        return _unfit(path, errno.EACCES)
    head = _head(path)
    if head is None:
        return ""
    if head.startswith(b"#!") and head[2:].split(b"\n", 1)[0].strip():
        return _unfit_interpreter(head) or ""
    if _is_text(head):
        return ""  # a shell's
    if head.startswith(b"\x7fELF"):
        return _unfit_binary(path, head) or ""
    return _unfit(path, errno.ENOEXEC)


def spoiled_by_line_end(spec: ProcessSpec) -> str:
    """Why an interpreter that was found did not run the script: its first line's carriage return
    is a part of its argument (``#!/usr/bin/env bash``, CR). Empty where that is not so."""
    path = _find(spec.argv[0], spec)
    line = ((path and _head(path)) or b"").split(b"\n", 1)[0]
    if not (line.startswith(b"#!") and line.endswith(b"\r")):
        return ""
    return f"{spec.argv[0]}: {_unfit_interpreter(line)}"


def make_executable(base: str, code: str, name: str) -> None:
    """Make the entry point executable, where it is a copy of ours or what the platform laid below
    ``base``. Raises OSError.

    A link leads to somebody's file, another name of it may be anywhere, and what is mounted at the
    code directory or below it is a directory of the user's: those stay as they are.
    """
    path = os.path.join(code, name)
    if os.access(path, os.X_OK):
        return
    from supervisor.linux.mounts import is_mount  # noqa: PLC0415  # rare

    root = os.path.realpath(base)
    own = os.path.join(root, os.path.relpath(code, base))
    real = os.path.normpath(os.path.join(own, name))
    if os.path.realpath(path) != real or not real.startswith(f"{own}/"):
        return
    at = real
    while at != root:
        if is_mount(at):
            return
        at = os.path.dirname(at)
    fd = regular.open_file(real, os.O_RDONLY, alone=True)
    try:
        os.fchmod(fd, stat.S_IMODE(os.fstat(fd).st_mode) | 0o111)
    finally:
        os.close(fd)


def _instead(spec: ProcessSpec, name: str, error: OSError | ValueError) -> Instead | None:
    number = error.errno if isinstance(error, OSError) else None
    if number not in {errno.ENOEXEC, errno.EACCES} or not name:
        return None
    path = _find(name, spec)
    if path is None or not os.path.isfile(path):
        return None
    head = _head(path)
    if head is None or not _is_text(head):
        return None
    if number == errno.EACCES:
        # A script of the job's by all signs, to which nothing but its mode is to be objected.
        named = head.startswith(b"#!") or name.endswith(".sh")
        if os.stat(path).st_mode & 0o111 or os.path.isabs(name) or not named:
            return None
    line = head.removeprefix(_BOM).split(b"\n", 1)[0]
    words = line[2:].split(None, 1) if line.startswith(b"#!") else []
    interpreter = [os.fsdecode(word.strip()) for word in words] or [_SHELL]
    if words and head.startswith(b"#!") and _unfit_interpreter(head) is not None:
        return None
    given = name if "/" in name else path
    if number == errno.EACCES:
        why = "is not executable; chmod +x it"
    elif head.startswith(_BOM):
        why = "begins with a byte order mark, which hides its first line; save it without"
    else:
        why = "has no interpreter line; begin it with #!/bin/sh"
    if not words and b"\r\n" in head:
        why += ", and with Unix line ends: its lines end in carriage returns"
    return Instead(
        (*interpreter, given, *spec.argv[1:]),
        f"{given} is run by {' '.join(interpreter)}: it {why}",
    )


def _is_text(head: bytes) -> bool:
    """No NUL, as shells decide it, nor what else no line of a script begins with."""
    first = head.split(b"\n", 1)[0]
    return bool(head.strip()) and b"\0" not in head and not first.translate(None, _IN_TEXT)


def _reason(spec: ProcessSpec, name: str, error: OSError | ValueError) -> tuple[int, str]:
    if not isinstance(error, OSError):
        return 126, f"{error} in its arguments or environment"
    if not name:
        return 127, "the command is empty"
    number = error.errno
    if number == errno.E2BIG:
        size = sum(len(os.fsencode(a)) + 1 for a in spec.argv)
        size += sum(len(os.fsencode(k)) + len(os.fsencode(v)) + 2 for k, v in spec.env.items())
        return 126, (
            f"its arguments and environment are too long for the kernel ({size} bytes in all,"
            " at most 131072 in one string); pass large values in a file"
        )
    if number in (errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE):
        return 126, _RESOURCES[number]
    if (place := _bad_directory(spec.cwd)) is not None:
        return 126, place
    path = _find(name, spec)
    if path is None:
        if "/" in name:
            return 127, "no such file"
        searched = spec.env.get("PATH", os.defpath)
        return 127, f"no such program in PATH ({searched})"
    return 126, _unfit(path, number or 0)


_RESOURCES = {
    errno.EAGAIN: "no more processes are allowed (see ulimit -u and the container's pids limit)",
    errno.ENOMEM: "out of memory",
    errno.EMFILE: "the supervisor has too many open files (see ulimit -n)",
    errno.ENFILE: "the machine has too many open files",
}


def _bad_directory(cwd: str) -> str | None:
    try:
        mode = os.stat(cwd).st_mode
    except FileNotFoundError:
        return f"its working directory {cwd!r} does not exist"
    except OSError as error:
        return f"its working directory {cwd!r} cannot be entered ({error.strerror})"
    if not stat.S_ISDIR(mode):
        return f"its working directory {cwd!r} is not a directory"
    if not os.access(cwd, os.X_OK):
        return f"its working directory {cwd!r} cannot be entered (permission denied)"
    return None


def _find(name: str, spec: ProcessSpec) -> str | None:
    """The file that exec looked at, relative to the child's working directory."""
    if "/" in name:
        path = os.path.join(spec.cwd, name)
        # A path below a file, or one we may not look into, is not "no such file".
        return path if os.path.lexists(path) or not _absent(path) else None
    for directory in spec.env.get("PATH", os.defpath).split(os.pathsep):
        path = os.path.join(spec.cwd, directory, name)
        if os.path.lexists(path) and not os.path.isdir(path):
            return path
    return None


def _absent(path: str) -> bool:
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False
    return False


def _unfit(path: str, number: int) -> str:
    """Why a file that is there could not be executed."""
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return f"it is a link to {os.readlink(path)!r}, which does not exist"
    except OSError as error:
        return f"it cannot be reached ({error.strerror})"
    if stat.S_ISDIR(mode):
        return "it is a directory"
    if not stat.S_ISREG(mode):
        return "it is not a regular file"
    if number == errno.EACCES and not mode & 0o111:
        return f"it is not executable; chmod +x {shlex.quote(path)}"
    if number == errno.ETXTBSY:
        return "it is open for writing"
    head = _head(path)
    if head is None:
        if number == errno.EACCES:
            return "permission denied"
        return f"{os.strerror(number)}"
    if head.startswith(b"#!"):
        if (reason := _unfit_interpreter(head)) is not None:
            return reason
    elif head.startswith(b"\x7fELF"):
        if (reason := _unfit_binary(path, head)) is not None:
            return reason
    elif number == errno.ENOEXEC:
        if not head.strip():
            return "it is empty"
        return "it is neither a program nor a script with an interpreter line (#!)"
    if number == errno.EACCES:
        return "permission denied (its mode, its interpreter's, or a file system mounted noexec)"
    return os.strerror(number)


def _head(path: str) -> bytes | None:
    try:
        return regular.read(path, _HEAD_BYTES, follow=True)
    except OSError:
        return None


def _unfit_interpreter(head: bytes) -> str | None:
    line = head.split(b"\n", 1)[0]
    words = line[2:].split(None, 1)
    if not words:
        return "its first line (#!) names no interpreter"
    shown = os.fsdecode(words[0])
    if line.endswith(b"\r") and not os.path.exists(os.fsdecode(line[2:].strip(b" \t"))):
        shown = os.fsdecode(line[2:].strip())
        return (
            f"its first line ends in a carriage return, so the interpreter {shown!r} is not"
            " found; save it with Unix line ends"
        )
    if not os.path.exists(shown):
        return f"its interpreter {shown!r} (first line) does not exist"
    if not os.access(shown, os.X_OK) or os.path.isdir(shown):
        return f"its interpreter {shown!r} (first line) is not executable"
    return None


def _unfit_binary(path: str, head: bytes) -> str | None:
    """Wrong machine, or a loader that is not there. Source: elf(5)."""
    if len(head) < 64:
        return "it is a damaged program file"
    order = ">" if head[5] == 2 else "<"
    machine = struct.unpack_from(order + "H", head, 18)[0]
    here = os.uname().machine
    built = _MACHINES.get(machine, f"machine type {machine}")
    if built != here and not (here == "x86_64" and built == "i386"):
        return f"it is built for {built} and this machine is {here}"
    loader = _loader(head, order, wide=head[4] == 2)
    if loader is not None and not os.path.exists(loader):
        return f"its loader {loader!r} does not exist: {path} is built for another C library"
    return None


def _loader(head: bytes, order: str, *, wide: bool) -> str | None:
    """The PT_INTERP entry, if it lies in what was read."""
    try:
        if wide:
            table, size, count = (
                struct.unpack_from(order + "Q", head, 32)[0],
                *struct.unpack_from(order + "HH", head, 54),
            )
        else:
            table, size, count = (
                struct.unpack_from(order + "I", head, 28)[0],
                *struct.unpack_from(order + "HH", head, 42),
            )
        for index in range(count):
            at = table + index * size
            if struct.unpack_from(order + "I", head, at)[0] != 3:  # PT_INTERP
                continue
            if wide:
                start = struct.unpack_from(order + "Q", head, at + 8)[0]
                length = struct.unpack_from(order + "Q", head, at + 32)[0]
            else:
                start = struct.unpack_from(order + "I", head, at + 4)[0]
                length = struct.unpack_from(order + "I", head, at + 16)[0]
            name = head[start : start + length]
            return os.fsdecode(name.rstrip(b"\0")) if len(name) == length else None
    except struct.error:
        return None
    return None
