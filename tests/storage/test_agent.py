"""The supervisor's side of the sync process, with real processes that speak and misbehave."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator

import pytest

from supervisor.life.words import ProcessSpec, Role
from supervisor.storage.agent import Agent
from supervisor.storage.notices import Failed, Standing, Unsent
from tests.children.test_child import Reader
from tests.helpers.leaks import no_leaks
from tests.helpers.tree import ROOT
from tests.helpers.waiting import wait_until_async

pytestmark = pytest.mark.twice

HEAD = """
import os, signal, sys, time
from supervisor.storage import notices
from supervisor.storage.notices import *
def say(notice):
    sys.stdout.buffer.write(notices.encode(notice)); sys.stdout.flush()
def order():
    return notices.decode(sys.stdin.buffer.readline())
"""


class Owner(Reader):
    """A reader to which the descriptor belongs."""

    def close(self) -> None:
        open_still = not self._ended.is_set()
        super().close()
        if open_still:
            os.close(self._fd)


class Heard:
    """Everything that an agent tells its supervisor."""

    def __init__(self) -> None:
        self.said: list[tuple[str, str, dict[str, object]]] = []
        self.failed: list[Failed] = []
        self.watched: list[int] = []
        self.stderr: list[Owner] = []

    def events(self, event: str) -> list[dict[str, object]]:
        return [fields for _, name, fields in self.said if name == event]


@contextlib.asynccontextmanager
async def agent_of(code: str) -> AsyncIterator[tuple[Agent, Heard, asyncio.Task[None]]]:
    heard = Heard()

    def attach(fd: int) -> Owner:
        heard.stderr.append(Owner(fd))
        return heard.stderr[-1]

    spec = ProcessSpec(
        name="sync",
        role=Role.STORAGE,
        argv=(sys.executable, "-c", HEAD + code),
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)},
        cwd="/",
    )
    agent = Agent(
        spec,
        attach=attach,
        watch=heard.watched.append,
        forget=heard.watched.remove,
        say=lambda level, event, **fields: heard.said.append((level, event, fields)),
        failed=heard.failed.append,
    )
    with no_leaks():
        task = asyncio.create_task(agent.run())
        try:
            yield agent, heard, task
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        assert heard.watched == []


def test_what_it_says_is_heard_and_publishing_is_its_end() -> None:
    code = """
say(Said("storage.sent", "info", (("transfer", "checkpoints"), ("files", 3))))
say(State((Standing("checkpoints", 3, 300, lag_s=1.5),)))
say(Failed("logs", "PutObject s3://b/k: AccessDenied"))
print("not json", flush=True)
print("x" * 200_000, flush=True)
print("to people", file=sys.stderr)
now = order()
assert now.results and 4 < now.budget_s < 5, now
say(PublishedAll((Unsent("model", 2, 20, ("a", "b"), "no time"),)))
"""

    async def main() -> None:
        async with agent_of(code) as (agent, heard, task):
            await wait_until_async(lambda: heard.failed)
            unsent = await agent.publish(5.0, results=True)
            assert unsent == (Unsent("model", 2, 20, ("a", "b"), "no time"),)
            await asyncio.wait_for(task, 5)
            assert heard.events("storage.sent") == [{"transfer": "checkpoints", "files": 3}]
            assert agent.standings == (Standing("checkpoints", 3, 300, lag_s=1.5),)
            assert heard.failed == [Failed("logs", "PutObject s3://b/k: AccessDenied")]
            lines = heard.events("storage.unintelligible")
            assert lines == [{"line": "not json"}], "a line that is too long is passed over"
            assert b"to people" in heard.stderr[0].data

    asyncio.run(main())


def test_a_process_that_dies_is_started_again_and_then_publishes(
    tmp_path: os.PathLike[str],
) -> None:
    mark = os.path.join(tmp_path, "first")
    code = f"""
if not os.path.exists({mark!r}):
    open({mark!r}, "w").close()
    os.kill(os.getpid(), signal.SIGKILL)
order()
say(PublishedAll(()))
"""

    async def main() -> None:
        async with agent_of(code) as (agent, heard, _):
            await wait_until_async(lambda: heard.events("storage.ended"))
            assert heard.events("storage.ended")[0]["how"] == "killed by SIGKILL"
            assert await agent.publish(10.0, results=False) == ()
            assert len(heard.events("storage.started")) == 2

    asyncio.run(main())


def test_one_that_dies_of_the_order_is_given_it_again(tmp_path: os.PathLike[str]) -> None:
    mark = os.path.join(tmp_path, "first")
    code = f"""
order()
if not os.path.exists({mark!r}):
    open({mark!r}, "w").close()
    sys.exit(3)
say(PublishedAll(()))
"""

    async def main() -> None:
        async with agent_of(code) as (agent, heard, _):
            await wait_until_async(lambda: heard.events("storage.started"))
            assert await agent.publish(10.0, results=False) == ()
            assert heard.events("storage.ended") == [{"how": "exit 3", "again_in_s": 0.0}]

    asyncio.run(main())


@pytest.mark.parametrize("obeys", [True, False])
def test_out_of_time_what_is_unsent_is_known_all_the_same(obeys: bool) -> None:
    code = f"""
def leave(*_):
    say(PublishedAll((Unsent("checkpoints", 1, 10, ("ckpt-3.index",), "out of time"),)))
    os._exit(0)
signal.signal(signal.SIGTERM, leave if {obeys} else signal.SIG_IGN)
say(State((Standing("checkpoints", pending_files=2, pending_bytes=20), Standing("logs"))))
while True:
    time.sleep(1)
"""

    async def main() -> None:
        async with agent_of(code) as (agent, _, task):
            await wait_until_async(lambda: agent.standings)
            (unsent,) = await agent.publish(0.3, results=True)
            if obeys:
                assert unsent.names == ("ckpt-3.index",)
            else:
                assert (unsent.files, unsent.bytes, unsent.reason) == (2, 20, "out of time")
            await asyncio.wait_for(task, 5)

    asyncio.run(main())


def test_a_stop_shortens_the_time_that_was_given() -> None:
    code = """
first, second = order(), order()
assert first.budget_s > 100 > second.budget_s, (first, second)
say(PublishedAll(()))
"""

    async def main() -> None:
        async with agent_of(code) as (agent, heard, _):
            await wait_until_async(lambda: heard.events("storage.started"))
            publishing = asyncio.create_task(agent.publish(600.0, results=True))
            await asyncio.sleep(0)
            agent.hurry(30.0)
            agent.hurry(60.0)  # time that is over does not come back
            assert await asyncio.wait_for(publishing, 10) == ()

    asyncio.run(main())


def test_a_program_that_cannot_be_started_does_not_end_the_job() -> None:
    async def main() -> None:
        heard = Heard()
        spec = ProcessSpec(
            name="sync", role=Role.STORAGE, argv=("/no/such/program",), env={}, cwd="/"
        )
        agent = Agent(
            spec,
            attach=Owner,
            watch=heard.watched.append,
            forget=heard.watched.remove,
            say=lambda level, event, **fields: heard.said.append((level, event, fields)),
            failed=heard.failed.append,
        )
        task = asyncio.create_task(agent.run())
        (unsent,) = await agent.publish(0.5, results=True)
        assert unsent.reason == "nothing heard"
        assert "/no/such/program" in str(heard.events("storage.ended")[0]["how"])
        await asyncio.wait_for(task, 5)

    asyncio.run(main())
