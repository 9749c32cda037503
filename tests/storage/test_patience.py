"""How long silence is borne: less where it is a sign of a fault, all of it where it is not."""

from __future__ import annotations

import asyncio
import socket
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.storage.patience import Patience, Waits


def attempts(waits: Waits, answer_s: float, *, limit_s: float = 30.0) -> list[float]:
    """Patience of each attempt of an operation at a server that answers after so long."""
    made: list[float] = []
    spent_s = 0.0
    while True:
        made.append(waits.patience_s("GetObject", len(made), spent_s))
        if answer_s < made[-1]:
            waits.answered("GetObject", answer_s)
            return made
        spent_s += made[-1]
        assert made[-1] < limit_s or answer_s >= limit_s


def test_it_begins_low_and_doubles_up_to_the_limit() -> None:
    waits = Waits(30, 300)
    assert [waits.patience_s("GetObject", failed, 0) for failed in range(6)] == [
        2,
        4,
        8,
        16,
        30,
        30,
    ]
    assert waits.patience_s("GetObject", 5000, 0) == 30
    assert waits.patience_s("CompleteMultipartUpload", 0, 0) == 8


def test_a_fast_server_s_silence_is_noticed_sooner() -> None:
    waits = Waits(30, 300)
    waits.answered("GetObject", 0.01)
    assert waits.patience_s("GetObject", 0, 0) == 1
    assert waits.patience_s("PutObject", 0, 0) == 2


def test_a_slow_server_is_asked_once() -> None:
    """Only the first requests to it are made more than once."""
    waits = Waits(30, 300)
    assert [len(attempts(waits, 3)) for _ in range(50)] == [2] + [1] * 49


def test_one_slow_answer_is_forgotten() -> None:
    waits = Waits(30, 300)
    attempts(waits, 3)
    assert waits.patience_s("GetObject", 0, 0) == 24
    for _ in range(200):
        attempts(waits, 0.01)
    assert waits.patience_s("GetObject", 0, 0) == 1


@given(
    limit_s=st.floats(0.1, 600), retry_s=st.floats(0.1, 3600), share=st.floats(0, 0.99),
    before=st.lists(st.floats(0, 600), max_size=5),
)  # fmt: skip
def test_what_would_answer_within_the_limit_is_waited_for(
    limit_s: float, retry_s: float, share: float, before: list[float]
) -> None:
    """However short the time for all attempts is: as without impatience."""
    waits = Waits(limit_s, retry_s)
    for silence_s in before:
        waits.answered("GetObject", silence_s)
    answer_s = share * limit_s
    spent_s, failed = 0.0, 0
    while (wait_s := waits.patience_s("GetObject", failed, spent_s)) <= answer_s:
        spent_s, failed = spent_s + wait_s, failed + 1
        assert spent_s + limit_s <= retry_s
    assert wait_s <= limit_s


def test_silence_ends_a_block_and_its_answer_is_remembered() -> None:
    async def scenario() -> None:
        patience = Patience(0.2)
        async with patience:
            await asyncio.sleep(0.05)
        assert 0.05 <= patience.longest_s < 0.2
        with pytest.raises(TimeoutError):
            async with patience:
                await asyncio.Event().wait()
        async with patience:  # what is on us is no silence of theirs
            patience.pause()
            await asyncio.sleep(0.3)

    asyncio.run(scenario())


def test_who_was_held_up_himself_hears_what_came_meanwhile() -> None:
    """This process did not run for longer than its patience, and the answer is there."""

    async def scenario() -> bytes:
        here, there = socket.socketpair()
        with there:
            reader, writer = await asyncio.open_connection(sock=here)

            def hold_up() -> None:
                time.sleep(0.2)
                there.send(b"answer")

            async with Patience(0.05):
                asyncio.get_running_loop().call_soon(hold_up)
                answer = await reader.read(6)
            writer.close()
            await writer.wait_closed()
            return answer

    assert asyncio.run(scenario()) == b"answer"
