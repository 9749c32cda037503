"""The page of the status port in a real browser."""

from __future__ import annotations

import asyncio
import dataclasses

import pytest

from supervisor.cluster.protocol import encode_cause, encode_verdict
from supervisor.status.limits import Limits
from supervisor.status.snapshot import AttemptRow, Snapshot
from tests.helpers import browser
from tests.helpers.cluster import CAUSE, VERDICT, master, snapshot, training

pytestmark = [
    pytest.mark.twice,
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


def test_training_is_shown_once_a_step_was_seen() -> None:
    async def scenario() -> None:
        now = snapshot()
        async with (
            master(show=lambda: now, limits=Limits(cache_s=0)) as it,
            browser.opened(f"{it.url}/") as page,
        ):
            await page.wait_for("running")
            assert await page.ask("document.getElementById('training').hidden")
            now = training(runs=2)
            it.server.publish({"at": 1.0, "event": "training.began"})
            text = await page.wait_for("step 1,234 of 10,000, 0.2 /s, 10 h 41 min left, loss 0.346")
            assert "(event files, logs/<b>train</b>)" in text
            assert "goodput 92 % of 1 h 38 min, 1,230 new steps · goodput 89 %" in text
            assert "of 2 runs" in text
            bar = "document.getElementById('bar')"
            assert await page.ask(f"[{bar}.value, {bar}.max, {bar}.hidden].join()") == (
                "1234,10000,false"
            )
            rows = "[...document.querySelectorAll('#ledger tr')].map(r => r.innerText).join('|')"
            assert "done again" in str(await page.ask(rows))
            assert now["progress"] is not None
            now["progress"]["total"] = None
            it.server.publish({"at": 2.0, "event": "phase.entered"})
            await page.wait_for("step 1,234, 0.2 /s")
            assert await page.ask(f"{bar}.hidden")

    asyncio.run(scenario())


def test_attempts_are_shown_once_there_was_a_restart_and_their_causes_are_text() -> None:
    async def scenario() -> None:
        now = snapshot()
        cause = encode_cause(dataclasses.replace(CAUSE, message="<b>killed</b>\x1b[2J"))
        async with (
            master(show=lambda: now, limits=Limits(cache_s=0)) as it,
            browser.opened(f"{it.url}/") as page,
        ):
            assert "attempt" not in (await page.wait_for("running")).lower()
            first: AttemptRow = {
                "attempt": 1, "began_at": 100.0, "prepared_s": 0.0, "ended_at": 175.0,
                "cause": cause, "kind": "crash", "scope": "all", "progressed": True,
            }  # fmt: skip
            second: AttemptRow = {
                "attempt": 2, "began_at": 176.0, "prepared_s": 1.0, "ended_at": None,
                "cause": None, "kind": None, "scope": None, "progressed": None,
            }  # fmt: skip
            now = {**snapshot(), "attempt": 2, "restarts": 1, "attempts": [first, second]}
            it.server.publish({"at": 1.0, "event": "attempt.restarted"})
            text = await page.wait_for("attempt 2")
            assert "1 min 15 s" in text
            assert "algo-2 worker: <b>killed</b>\\u001b[2J (crash)" in text
            rows = "[...document.querySelectorAll('#attempts tr')].map(r => r.cells[0].textContent)"
            assert await page.ask(f"{rows}.join()") == "2,1", "the newest first"

    asyncio.run(scenario())
