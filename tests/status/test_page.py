"""The page of the status port in a real browser."""

from __future__ import annotations

import asyncio

import pytest

from supervisor.cluster.protocol import encode_cause, encode_verdict
from supervisor.status.limits import Limits
from supervisor.status.snapshot import Snapshot
from tests.helpers import browser
from tests.helpers.cluster import CAUSE, VERDICT, master, snapshot

pytestmark = [
    pytest.mark.skipif(browser.why_not() is not None, reason=browser.why_not() or ""),
    pytest.mark.xdist_group("browser"),
]


def failed() -> Snapshot:
    shown = snapshot()
    shown["cause"] = encode_cause(CAUSE)
    shown["verdict"] = encode_verdict(VERDICT)
    return shown


def test_the_page_shows_the_end_and_keeps_what_it_showed() -> None:
    """It froze on ``running`` and said "no answer" when the job was over."""

    async def scenario() -> None:
        now = snapshot()
        async with (
            master(show=lambda: now, limits=Limits(cache_s=0)) as it,
            browser.opened(f"{it.url}/") as page,
        ):
            text = await page.wait_for("running")
            assert "has ended" not in text
            assert await page.ask("document.getElementById('ended').hidden")
            now = failed() | {"phase": "done", "exit_code": 84}
            it.server.publish({"at": 1.0, "event": "job.ended"})
            await it.server.stop()
            text = await page.wait_for("the job has ended: failed, algo-2 worker: ")
            assert "RuntimeError: loss is NaN (train.py:88); exit 1" in text
            await asyncio.sleep(4)  # longer than it would take to ask again
            text = await page.text()
            assert "the job has ended: failed" in text
            assert "no answer" not in text
            assert "worker" in text
            assert await page.ask("document.title") == "algo-1 · failed"

    asyncio.run(scenario())


def test_a_supervisor_that_is_gone_without_a_word_is_told() -> None:
    async def scenario() -> None:
        async with master() as it, browser.opened(f"{it.url}/") as page:
            await page.wait_for("running")
            it.server._feed._clients.clear()  # nobody is told
            await it.server.stop()
            text = await page.wait_for("no answer")
            assert "has ended" not in text

    asyncio.run(scenario())
