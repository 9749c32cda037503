"""The project's own Dockerfile, built and run by real engines, from nothing.

A base image is made of Debian's packages and stands for ``python:3.12-slim``; buildah builds the
Dockerfile unchanged; podman runs what came out as the hosts of jobs, on a network that has a name
server, and as pods. Each check is a line that says what was seen. By hand, for it takes minutes
and gigabytes. As root, with Debian's ``podman buildah runc netavark aardvark-dns catatonit
mmdebstrap openssh-client``.

    python -m tests.image                   from nothing, and nothing stays
    python -m tests.image --keep DIRECTORY  images and logs stay there, and are used the next time
    python -m tests.image --only stop pods  these checks (--list names them)

The build uses the network and this machine's configuration of pip. The checks run in namespaces of
their own, network, mounts and processes, so that nothing of them can stay, and nothing of them gets
out. Exit status: 0 all held; 1 a check did not; 2 there is nothing to check with.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from typing import Final, NoReturn

from tests.helpers.tree import ROOT
from tests.image.checks import BASE, CHECKS, IMAGE, MPI_IMAGE, Stage
from tests.image.podman import Podman, Timed, missing, pip_options

SUITE: Final = "trixie"
PACKAGES: Final = "ca-certificates,passwd,python3,python3-venv"
PIP: Final = (
    "set -- /usr/share/python-wheels/pip-*.whl && "
    "python $1/pip install --quiet --root-user-action ignore --no-index $1"
)
HOOKS: Final = (
    # As in the image that it stands for: pip is pip's own, may install, and python is its name.
    'rm -f "$1"/usr/lib/python3*/EXTERNALLY-MANAGED',
    'ln -s /usr/bin/python3 "$1"/usr/local/bin/python',
    f"""chroot "$1" sh -c '{PIP}'""",
)
CLEARING_S: Final = 60.0
FREE_BYTES: Final = 12 << 30


def main(argv: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(argv)
    if options.list:
        for name, check in CHECKS.items():
            print(f"{name:8} {(check.__doc__ or '').splitlines()[0]}")
        return 0
    signal.signal(signal.SIGTERM, _leave)
    signal.signal(signal.SIGINT, _leave)
    if options.inside:
        return _checks(pathlib.Path(options.keep), options.only)
    if os.geteuid() != 0 or (absent := missing()):
        print("needs root" if os.geteuid() != 0 else f"not installed: {', '.join(absent)}")
        return 2
    with _directory(options.keep) as directory:
        free = os.statvfs(directory)
        if free.f_bavail * free.f_frsize < FREE_BYTES:
            print(f"{directory}: needs {FREE_BYTES >> 30} GiB for images")
            return 2
        whole = Timed()
        try:
            _made(directory, mpi=not options.only or "mpi" in options.only)
        except (AssertionError, subprocess.SubprocessError) as error:
            print(f"FAILED {whole.s:6.1f} s  {error}")
            return 2
        inside = ("--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc")
        again = (sys.executable, "-P", "-m", "tests.image", "--inside", "--keep", str(directory))
        bound = ("setpriv", "--pdeathsig", "KILL", "unshare", *inside)
        code = _inside((*bound, *again, "--only", *options.only))
        print(f"{'all held' if code == 0 else 'FAILED'}, {whole.s:.0f} s", flush=True)
        return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tests.image",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--keep", metavar="DIRECTORY", help="where images and logs stay")
    parser.add_argument("--only", nargs="*", default=[], choices=CHECKS, metavar="CHECK")
    parser.add_argument("--list", action="store_true", help="the checks")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    return parser


@contextlib.contextmanager
def _directory(kept: str | None) -> Iterator[pathlib.Path]:
    with contextlib.ExitStack() as stack:
        if kept is None:
            made = stack.enter_context(tempfile.TemporaryDirectory(prefix="supervisor-image-"))
        else:
            os.makedirs(made := os.path.abspath(kept), exist_ok=True)
        directory = pathlib.Path(made)
        try:
            yield directory
        finally:
            # The store mounts itself while images are made. The directory cannot go before it.
            subprocess.run(
                ("umount", "--lazy", str(directory / "graph" / "overlay")),
                capture_output=True,
                check=False,
            )
            for name in ("libpod_parent/conmon", "libpod_parent"):
                for group in pathlib.Path("/sys/fs/cgroup").glob(f"*/{name}"):
                    with contextlib.suppress(OSError):  # somebody else's containers are in it
                        group.rmdir()


def _made(directory: pathlib.Path, *, mpi: bool) -> None:
    """The base and the images, or an AssertionError."""
    podman = Podman(directory)
    if podman.code("image", "exists", BASE):
        took = Timed()
        tree = directory / "base.tar"
        hooks = [f"--customize-hook={hook}" for hook in HOOKS]
        made = subprocess.run(
            ("mmdebstrap", "--variant=apt", f"--include={PACKAGES}", *hooks, SUITE, str(tree)),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=1800,
            check=False,
        )
        assert made.returncode == 0, f"mmdebstrap: {made.stderr.decode()[-2000:]}"
        podman("import", str(tree), BASE, timeout_s=600)
        tree.unlink()
        _say(took, "base", f"{SUITE}, stands for {BASE}")
    options = (*pip_options(directory), "--format", "docker", "--layers", "--pull-never")
    images = {"build": (IMAGE, ()), "build-mpi": (MPI_IMAGE, ("--build-arg", "MPI=yes"))}
    for name, (tag, arguments) in images.items():
        if name == "build-mpi" and not mpi:
            continue
        took = Timed()
        log = directory / f"{name}.log"
        podman.build(*options, *arguments, "--tag", tag, str(ROOT), log=log)
        size = podman.inspect("image", tag)["Size"]
        how = " ".join(("the Dockerfile as it is", *arguments))
        _say(took, name, f"{how}, {size / 1e9:.1f} GB")


def _inside(command: Sequence[str]) -> int:
    """Run the checks; when we are to leave they are told to, and remove what they have made."""
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, env=env) as process:
        try:
            return process.wait()
        finally:
            if process.poll() is None:
                children = pathlib.Path(f"/proc/{process.pid}/task/{process.pid}/children")
                for pid in children.read_text(encoding="ascii").split():
                    os.kill(int(pid), signal.SIGTERM)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(CLEARING_S)
                process.kill()


def _checks(directory: pathlib.Path, only: Sequence[str]) -> int:
    """In namespaces of our own, whose first process we are."""
    podman = Podman(directory)
    # As after the machine's start: what a call that was killed had running runs no more, and podman
    # sees that by these being empty.
    for place in (pathlib.Path("/run/netns"), directory / "tmp", directory / "run"):
        place.mkdir(parents=True, exist_ok=True)
        subprocess.run(("mount", "-t", "tmpfs", "tmpfs", str(place)), check=True)
    subprocess.run(("ip", "link", "set", "lo", "up"), check=True)
    failed = 0
    for name, check in CHECKS.items():
        if only and name not in only:
            continue
        took = Timed()
        stage = Stage(podman, directory / "checks" / name)
        try:
            with stage:
                seen = check(stage)
        except (AssertionError, subprocess.SubprocessError) as error:
            failed += 1
            print(f"FAILED {took.s:6.1f} s  {name}: {error}", flush=True)
        else:
            _say(took, name, seen)
    return 1 if failed else 0


def _say(took: Timed, name: str, seen: str) -> None:
    print(f"ok     {took.s:6.1f} s  {name}: {seen}", flush=True)


def _leave(*_: object) -> NoReturn:
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, signal.SIG_IGN)  # once is enough, and the way out is not a long one
    sys.exit(128 + signal.SIGTERM)  # through every ``finally``


if __name__ == "__main__":
    sys.exit(main())
