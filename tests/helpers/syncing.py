"""The sync process from outside: started with a job, its notices read, told to publish."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import pathlib
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any, Self, TypeVar

from supervisor.storage import job as jobs
from supervisor.storage import notices, restore
from supervisor.storage.epochs import decode
from supervisor.storage.job import Kind, Options, Restore, SyncJob, Transfer
from supervisor.storage.location import Location
from supervisor.storage.manifest import Manifest, generation_of_manifest, newest_first
from supervisor.storage.notices import Notice, PublishedAll, PublishNow, Said, Standing, State
from supervisor.storage.places import open_store
from tests.helpers.job import environment
from tests.helpers.waiting import wait_until

COMMAND = (sys.executable, "-P", "-m", "supervisor.storage.sync")
N = TypeVar("N")


def sync_job(*transfers: Transfer, **settings: Any) -> SyncJob:
    """Quick: tests are not to wait for files to settle."""
    quick = SyncJob(transfers, host="algo-1", job="j", settle_s=0.3, rescan_s=5.0)
    return dataclasses.replace(quick, **settings)


def checkpoints(source: pathlib.Path, target: str, **more: Any) -> Transfer:
    return Transfer("checkpoints", Kind.CHECKPOINTS, str(source), Location.parse(target), **more)


def mirror(source: pathlib.Path, target: str, **more: Any) -> Transfer:
    return Transfer("intermediate", Kind.MIRROR, str(source), Location.parse(target), **more)


def result(source: pathlib.Path, target: str, **more: Any) -> Transfer:
    return Transfer("model", Kind.RESULT, str(source), Location.parse(target), **more)


class Syncing:
    """A context manager that ends it."""

    def __init__(self, job: SyncJob, **env: str) -> None:
        self.notices: list[Notice] = []
        self.process = subprocess.Popen(
            COMMAND,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment(**{jobs.VARIABLE: jobs.encode(job)}, **env),
        )
        self.errors = b""
        self._threads = [
            threading.Thread(target=self._read, daemon=True),
            threading.Thread(target=self._read_errors, daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.notices.append(notices.decode(line))

    def _read_errors(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.errors += line

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(10)
        for thread in self._threads:
            thread.join(10)
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            assert pipe is not None
            pipe.close()

    def wait_for(self, holds: Callable[[], N], timeout_s: float = 60.0, what: str = "") -> N:
        def look() -> N:
            ended = self.process.poll() is not None
            found = holds()
            assert found or not ended, f"it ended:\n{self.errors.decode()}\n{self.notices[-5:]}"
            return found

        return wait_until(look, timeout_s, what or f"not in time; last: {self.notices[-4:]}")

    def said(self, event: str) -> list[dict[str, str | int | float]]:
        return [
            dict(n.fields) for n in list(self.notices) if isinstance(n, Said) and n.event == event
        ]

    def heard(self, kind: type[N]) -> list[N]:
        return [each for each in list(self.notices) if isinstance(each, kind)]

    def standing(self, name: str) -> Standing | None:
        states = self.heard(State)
        return (
            next((row for row in states[-1].transfers if row.name == name), None)
            if states
            else None
        )

    def saved(self) -> int:
        return len(self.said("checkpoint.saved"))

    def is_idle(self, name: str = "checkpoints") -> bool:
        row = self.standing(name)
        return row is not None and row.sent_files > 0 and row.pending_files == 0

    def publish(self, budget_s: float = 20.0, *, results: bool = True) -> PublishedAll:
        self.order(budget_s, results=results)
        assert self.process.wait(budget_s + 10) == 0, self.errors.decode()
        for thread in self._threads:
            thread.join(10)
        (outcome,) = self.heard(PublishedAll)
        return outcome

    def order(self, budget_s: float, *, results: bool = True) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(notices.encode(PublishNow(budget_s, results)))
        self.process.stdin.flush()

    def kill(self) -> None:
        """At once; what it had said is heard."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(10)
        for thread in self._threads:
            thread.join(10)


async def restored(
    target: str, into: pathlib.Path, mode: str = "auto", options: Options | None = None
) -> str:
    """The place of what was restored."""
    location = Location.parse(target)
    async with open_store(location, options or Options()) as store:
        request = Restore(location, str(into), mode)
        done = await restore.restore(store, request, moved=lambda _: None, said=lambda _: None)
        return done.place


def restore_now(
    target: str, into: pathlib.Path, mode: str = "auto", options: Options | None = None
) -> str:
    return asyncio.run(restored(target, into, mode, options))


def manifests(place: pathlib.Path) -> list[Manifest]:
    """Of a local target, newest first; claims are none."""
    folder = place / "manifests"
    names = [
        name
        for entry in (os.listdir(folder) if folder.exists() else ())
        if (name := generation_of_manifest(f"manifests/{entry}"))
    ]
    found = [decode((folder / f"{name}.json").read_bytes()) for name in newest_first(names)]
    return [each for each in found if isinstance(each, Manifest)]
