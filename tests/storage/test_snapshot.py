"""What of a directory is complete, and what is waited for."""

from __future__ import annotations

import pathlib
import shutil
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from supervisor.storage import snapshot, watch
from supervisor.storage.snapshot import (
    PATIENCE_S,
    Choice,
    Evidence,
    Fact,
    Memory,
    Sent,
    State,
)
from tests.helpers import writer

SETTLE_S = 2.0


def fact(path: str, *, size: int = 5, mtime_ns: int = 10, inode: int = 1) -> Fact:
    return Fact(path, size, mtime_ns, inode, 0o644)


def bundle(prefix: str, *, data_ns: int = 10, index_ns: int = 11, shards: int = 1) -> list[Fact]:
    rows = [fact(f"{prefix}.data-{n:05d}-of-{shards:05d}", mtime_ns=data_ns) for n in range(shards)]
    return [*rows, fact(f"{prefix}.index", mtime_ns=index_ns)]


def evidence(*facts: Fact, states: dict[str, State] | None = None, **more: Any) -> Evidence:
    """All indexes are whole tables."""
    tables = frozenset(each.path for each in facts if each.path.endswith(".index"))
    return Evidence(**{"tables": tables, "states": states or {}, **more})


def look(
    facts: list[Fact],
    told: Evidence | None = None,
    *,
    memory: Memory | None = None,
    now_s: float = 100.0,
    **more: Any,
) -> tuple[Memory, Choice]:
    told = told or evidence(*facts)
    after = snapshot.observe(memory or Memory(), facts, told, now_s=now_s, settle_s=SETTLE_S)
    return after, snapshot.checkpoint(
        after, told, root="/c", now_s=now_s, settle_s=SETTLE_S, **more
    )


def paths(choice: Choice) -> set[str]:
    return {each.path for each in choice.files}


# --------------------------------------------------------------------------- bundles


@pytest.mark.parametrize("newest", ["ckpt-1", "ckpt-2"])
def test_a_complete_bundle_is_taken_at_once(newest: str) -> None:
    facts = [*bundle("ckpt-1"), *bundle("ckpt-2", shards=2), fact("checkpoint")]
    told = evidence(*facts, states={"checkpoint": State(newest, ())})
    _, choice = look(facts, told)
    assert paths(choice) == {each.path for each in facts}
    assert choice.waiting == ()


def test_a_first_bundle_waits_for_the_state_file_which_may_never_come() -> None:
    """Between the two there was a manifest in which `tf.train.latest_checkpoint` finds nothing."""
    facts = [*bundle("sub/ckpt-1"), *bundle("other/ckpt-1"), fact("other/checkpoint")]
    told = evidence(*facts, states={"other/checkpoint": State("ckpt-1", ())})
    memory, choice = look(facts, told)
    assert set(choice.waiting) == {each.path for each in bundle("sub/ckpt-1")}
    assert choice.until_s == 100.0 + SETTLE_S
    named = [*facts, fact("sub/checkpoint")]
    states = {**told.states, "sub/checkpoint": State("ckpt-1", ())}
    _, choice = look(named, evidence(*named, states=states), memory=memory, now_s=100.1)
    assert choice.waiting == ()
    assert paths(choice) == {each.path for each in named}
    # tf.train.Checkpoint.write: no state file, and those that follow are not held up.
    memory, choice = look(facts, told, memory=memory, now_s=102.0)
    assert choice.waiting == ()
    facts += bundle("sub/ckpt-2")
    told = evidence(*facts, states=dict(told.states))
    assert look(facts, told, memory=memory, now_s=103.0)[1].waiting == ()
    assert look(facts[:2], final=True)[1].waiting == ()


@pytest.mark.parametrize(
    "facts",
    [
        bundle("ckpt-1", shards=2)[1:],
        bundle("ckpt-1")[:-1],
        bundle("ckpt-1", data_ns=12, index_ns=11),
        bundle("ckpt-1")[-1:],
    ],
    ids=["a shard is missing", "no index", "an older index", "no data"],
)
def test_an_incomplete_bundle_is_waited_for_then_left_out(facts: list[Fact]) -> None:
    memory, choice = look(facts)
    assert set(choice.waiting) == {each.path for each in facts}
    times = [100.0]
    while choice.waiting:
        assert choice.until_s is not None
        times.append(choice.until_s)
        memory, choice = look(facts, memory=memory, now_s=choice.until_s)
    assert times[1:3] == pytest.approx([100.1, 100.2]), (
        "soon at first, for it should take a moment only"
    )
    assert times[-1] == pytest.approx(100.0 + PATIENCE_S)
    assert len(times) < 15
    _, later = look(facts, memory=memory, now_s=100.0 + PATIENCE_S)
    assert later.waiting == ()
    assert later.files == ()
    assert set(later.incomplete) == {each.path for each in facts}


def test_an_index_without_its_end_is_still_being_written() -> None:
    facts = bundle("ckpt-1")
    assert look(facts, Evidence())[1].waiting == ("ckpt-1.data-00000-of-00001", "ckpt-1.index")


def test_a_bundle_that_is_rewritten_all_the_time_is_taken_whenever_it_is_whole() -> None:
    """Same prefix, every second: it must not count as one that never settles."""
    memory = Memory()
    for second in range(200):
        torn = second % 2 == 0
        facts = bundle("w", data_ns=2 * second + torn * 5, index_ns=2 * second + 1)
        memory, choice = look(facts, memory=memory, now_s=float(second))
        torn = torn or second < SETTLE_S  # there may be a state file yet
        assert bool(choice.waiting) == torn
        assert bool(choice.files) != torn


def test_shards_of_another_number_do_not_disturb() -> None:
    facts = [*bundle("w"), fact("w.data-00000-of-00003", mtime_ns=99)]
    memory, _ = look(facts)
    assert look(facts, memory=memory, now_s=102.0)[1].waiting == ()


def test_an_index_that_is_no_table_is_any_file() -> None:
    memory, choice = look([fact("faiss.index")], Evidence())
    assert choice.waiting == ("faiss.index",)
    assert choice.until_s == 100.0 + SETTLE_S
    assert paths(look([fact("faiss.index")], Evidence(), memory=memory, now_s=102.0)[1])


@pytest.mark.parametrize(
    "path",
    [
        "ckpt-1.index.tempstate123",
        "ckpt-1.data-00000-of-00001.tempstate9",
        "ckpt-1_temp/part-00000-of-00001.index",
        "m.ckpt-1_temp_0123456789abcdef0123456789abcdef/part-00000-of-00001.data-00000-of-00001",
        "checkpoint.tmp0123456789abcdef0123456789abcdef",
        "model.h5.tmp",
        "step_5.orbax-checkpoint-tmp-17/_METADATA",
        "a/.nfs0000000012345678000001",
        ".supervisor-restoring",
        ".supervisor-staging-00/x",
    ],
)
def test_names_of_files_in_the_making_are_left_out(path: str) -> None:
    assert snapshot.temporary(path)
    assert look([fact(path)])[1] == Choice(())


@pytest.mark.parametrize("path", ["model_temp/weights.h5", "checkpoint", "tmp/x", "a.tmpl"])
def test_other_names_are_not(path: str) -> None:
    assert not snapshot.temporary(path)


# --------------------------------------------------------------------------- the state file

STATE = State("ckpt-2", ("ckpt-1", "ckpt-2"))


def test_a_state_file_goes_with_what_it_names() -> None:
    facts = [*bundle("ckpt-1"), *bundle("ckpt-2"), fact("checkpoint")]
    choice = look(facts, evidence(*facts, states={"checkpoint": STATE}))[1]
    assert paths(choice) == {each.path for each in facts}


def test_a_state_file_that_names_no_complete_bundle_is_waited_for_then_left_out() -> None:
    facts = [*bundle("ckpt-1"), fact("checkpoint")]
    told = evidence(*facts, states={"checkpoint": STATE})
    memory, choice = look(facts, told)
    assert choice.waiting == ("checkpoint",)
    _, later = look(facts, told, memory=memory, now_s=100.0 + PATIENCE_S)
    assert later.incomplete == ("checkpoint",)
    assert paths(later) == {each.path for each in bundle("ckpt-1")}


def test_a_state_file_may_name_removed_ones_besides_the_newest() -> None:
    """Between the removal and the second writing of the state file; or for good."""
    facts = [*bundle("ckpt-2"), fact("checkpoint")]
    told = evidence(*facts, states={"checkpoint": STATE})
    memory, choice = look(facts, told)
    assert choice.waiting == ("checkpoint",)
    assert choice.until_s == 100.0 + SETTLE_S
    assert "checkpoint" in paths(look(facts, told, memory=memory, now_s=102.0)[1])


@pytest.mark.parametrize(
    ("newest", "there"),
    [("/c/ckpt-1", True), ("/c/sub/../ckpt-1", True), ("/c/ckpt-9", False), ("/other/x", True)],
)
def test_a_state_file_may_name_them_by_absolute_paths(newest: str, there: bool) -> None:
    facts = [*bundle("ckpt-1"), fact("checkpoint")]
    told = evidence(*facts, states={"checkpoint": State(newest, ())})
    assert ("checkpoint" in paths(look(facts, told)[1])) == there


def test_state_files_are_read_as_tensorflow_writes_them() -> None:
    text = writer.state(["ckpt-1", "ckpt-2"], 5).decode()
    assert snapshot.parse_state(text) == STATE
    escaped = snapshot.parse_state('model_checkpoint_path: "a\\"b\\303\\\\"\n')
    assert escaped is not None
    assert escaped.newest == 'a"b\xc3\\'
    for other in ("", "hello", "model_checkpoint_path: 5", 'all_model_checkpoint_paths: "x"'):
        assert snapshot.parse_state(other) is None


# --------------------------------------------------------------------------- other files


def test_a_file_is_taken_when_nobody_wrote_to_it_for_a_while() -> None:
    memory, choice = look([fact("a.h5")])
    assert choice.waiting == ("a.h5",)
    memory, choice = look([fact("a.h5", mtime_ns=20)], memory=memory, now_s=101.0)
    assert choice.until_s == 101.0 + SETTLE_S
    assert paths(look([fact("a.h5", mtime_ns=20)], memory=memory, now_s=103.0)[1]) == {"a.h5"}


def test_a_file_that_is_not_whole_by_its_format_is_waited_for_longer() -> None:
    told = Evidence(broken=frozenset({"a.h5"}))
    memory, choice = look([fact("a.h5")], told)
    memory, choice = look([fact("a.h5")], told, memory=memory, now_s=110.0)
    assert choice.waiting == ("a.h5",)
    assert paths(look([fact("a.h5")], told, memory=memory, now_s=100.0 + PATIENCE_S)[1])


def test_a_file_that_never_settles_holds_up_the_others_for_a_minute() -> None:
    memory = Memory()
    for second in range(100):
        facts = [*bundle("ckpt-1"), fact("events.out", size=second)]
        memory, choice = look(facts, memory=memory, now_s=float(second))
        assert (choice.restless == ("events.out",)) == (second >= PATIENCE_S)
        assert ("events.out" in choice.waiting) == (second < PATIENCE_S)
    quiet = [*bundle("ckpt-1"), fact("events.out", size=99)]
    memory, choice = look(quiet, memory=memory, now_s=99 + SETTLE_S)
    assert "events.out" in paths(choice)
    memory, choice = look(
        [*bundle("ckpt-1"), fact("events.out", size=500)], memory=memory, now_s=110.0
    )
    assert choice.waiting == ("events.out",), "it had settled: it is waited for again"


def test_at_the_end_nothing_is_waited_for() -> None:
    facts = [*bundle("ckpt-1")[:-1], *bundle("ckpt-2"), fact("a.h5"), fact("checkpoint")]
    told = evidence(*facts, states={"checkpoint": State("ckpt-9", ())}, broken=frozenset({"a.h5"}))
    choice = look(facts, told, final=True)[1]
    assert choice.waiting == ()
    assert paths(choice) == {"a.h5", *(each.path for each in bundle("ckpt-2"))}
    assert set(choice.incomplete) == {"checkpoint", "ckpt-1.data-00000-of-00001"}


def test_the_clock_of_the_host_plays_no_part() -> None:
    """Times of files are of 1970 or of the far future: only whether they change counts."""
    for mtime_ns in (-(10**18), 0, 4 * 10**18):
        memory, _ = look([fact("a", mtime_ns=mtime_ns)])
        assert paths(look([fact("a", mtime_ns=mtime_ns)], memory=memory, now_s=102.0)[1]) == {"a"}


# --------------------------------------------------------------------------- formats


def _hdf5(version: int, end: int) -> bytes:
    word = end.to_bytes(8, "little")
    if version >= 2:
        return b"\x89HDF\r\n\x1a\n" + bytes([version, 8, 8, 0]) + bytes(16) + word + bytes(28)
    skip = bytes(4) if version else b""
    head = b"\x89HDF\r\n\x1a\n" + bytes([version, 0, 0, 0, 0, 8, 8, 0]) + bytes(8) + skip
    return head + bytes(16) + word + bytes(16)


@pytest.mark.parametrize(
    ("path", "size", "head", "tail", "expected"),
    [
        ("c.index", 100, b"", writer.MAGIC, True),
        ("c.index", 100, b"", b"other", None),
        *(("m.h5", 4096, _hdf5(version, 4096), b"", True) for version in range(4)),
        *(("m.weights.h5", 4096, _hdf5(version, 800), b"", False) for version in range(4)),
        ("m.h5", 0, b"", b"", False),
        ("m.h5", 9, b"something", b"something", None),
        ("m.keras", 500, b"PK\x03\x04", b"PK\x05\x06" + bytes(18), True),
        ("m.keras", 500, b"PK\x03\x04", bytes(64), False),
        ("m.txt", 5, b"hello", b"hello", None),
    ],
)
def test_formats_tell_whether_they_are_whole(
    path: str, size: int, head: bytes, tail: bytes, expected: bool | None
) -> None:
    assert snapshot.whole(path, size, head, tail) is expected


# --------------------------------------------------------------------------- mirrors


def mirrored(facts: list[Fact], memory: Memory, now_s: float, **more: Any) -> Choice:
    sent = more.pop("sent", {})
    told = evidence(*facts)
    return snapshot.mirror(memory, told, sent, root="/c", now_s=now_s, settle_s=SETTLE_S, **more)


def test_a_mirror_sends_each_file_when_it_has_settled_and_again_when_it_changed() -> None:
    facts = [fact("a"), fact("b")]
    memory, _ = look(facts)
    facts = [fact("a"), fact("b", mtime_ns=99)]
    memory, _ = look(facts, memory=memory, now_s=102.0)
    choice = mirrored(facts, memory, 102.0)
    assert paths(choice) == {"a"}
    assert choice.waiting == ("b",)
    assert choice.until_s == 104.0
    sent = {"a": Sent(fact("a"), 102.0), "b": Sent(fact("b"), 0.0)}
    assert paths(mirrored(facts, memory, 104.0, sent=sent)) == {"b"}


def test_a_log_that_never_rests_is_sent_as_far_as_it_goes_now_and_then() -> None:
    memory = Memory()
    sent: dict[str, Sent] = {}
    times = []
    for second in range(200):
        facts = [fact("log", size=second)]
        memory, _ = look(facts, memory=memory, now_s=float(second))
        choice = mirrored(facts, memory, float(second), sent=sent)
        if choice.files:
            assert choice.growing == {"log"}
            sent["log"] = Sent(facts[0], float(second))
            times.append(second)
    assert times == [60, 120, 180]


def test_what_only_grows_is_sent_at_once_and_as_often_as_asked() -> None:
    memory = Memory()
    sent: dict[str, Sent] = {}
    times = []
    for second in range(40):
        facts = [fact("log", size=second)]
        memory, _ = look(facts, memory=memory, now_s=float(second))
        choice = mirrored(facts, memory, float(second), sent=sent, grows_s=15.0)
        if choice.files:
            sent["log"] = Sent(facts[0], float(second))
            times.append(second)
    assert times == [0, 15, 30]


def test_a_reader_of_a_mirror_sees_what_is_named_before_what_names_it() -> None:
    facts = [
        fact("checkpoint"),
        fact("v/variables.index"),
        fact("saved_model.pb"),
        fact("v/variables.data-00000-of-00001"),
        fact("a.txt"),
    ]
    order = [{each.path for each in wave} for wave in snapshot.waves(facts)]
    assert order == [
        {"a.txt", "v/variables.data-00000-of-00001"},
        {"v/variables.index"},
        {"saved_model.pb"},
        {"checkpoint"},
    ]


def test_at_the_end_a_mirror_sends_all_that_it_lacks() -> None:
    facts = [*bundle("w")[:-1], fact("a"), fact("b")]
    memory, _ = look(facts)
    sent = {"a": Sent(fact("a"), 0.0)}
    choice = mirrored(facts, memory, 100.0, sent=sent, final=True)
    assert paths(choice) == {"w.data-00000-of-00001", "b"}


def test_lag_is_counted_from_the_oldest_change_that_was_not_sent() -> None:
    memory, _ = look([fact("a")], now_s=100.0)
    since = snapshot.unsent_since(memory, ["a"], {})
    memory, _ = look([fact("a", mtime_ns=50)], memory=memory, now_s=130.0)
    assert snapshot.unsent_since(memory, ["a"], since) == {"a": 100.0}
    assert snapshot.unsent_since(memory, ["a"], {}) == {"a": 130.0}
    assert snapshot.unsent_since(memory, [], since) == {}


# --------------------------------------------------------------------------- a writer, stopped


class _StoppedError(Exception):
    pass


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    stop_after=st.integers(0, 60),
    keep=st.integers(1, 3),
    fixed=st.booleans(),
    looks=st.integers(1, 3),
)
def test_whenever_a_writer_is_looked_at_what_is_chosen_is_what_it_had(
    stop_after: int, keep: int, fixed: bool, looks: int
) -> None:
    """The writer is stopped between any two of its system calls that change the directory."""
    import tempfile

    with tempfile.TemporaryDirectory() as place:
        directory = pathlib.Path(place) / "c"
        count = 0

        def counting() -> None:
            nonlocal count
            count += 1
            if count > stop_after:
                raise _StoppedError

        step = 0
        with pytest.MonkeyPatch.context() as patch:
            for name in ("rename", "replace", "unlink", "write_bytes"):
                real = getattr(pathlib.Path, name)

                def stopping(self: Any, *args: Any, _real: Any = real, **kwargs: Any) -> Any:
                    counting()
                    return _real(self, *args, **kwargs)

                patch.setattr(pathlib.Path, name, stopping)
            try:
                for step in range(1, 9):
                    writer.save(directory, step, keep=keep, size=40, fixed=fixed)
            except _StoppedError:
                pass
        memory, scan = Memory(), None
        for number in range(looks):
            scan = watch.scan(str(directory), scan)
            memory = snapshot.observe(
                memory, scan.facts, scan.evidence, now_s=float(number), settle_s=SETTLE_S
            )
            choice = snapshot.checkpoint(
                memory, scan.evidence, root=str(directory), now_s=float(number), settle_s=SETTLE_S
            )
        if choice.waiting or not choice.files:
            return
        copy = pathlib.Path(place) / "copy"
        for each in choice.files:
            (copy / each.path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(directory / each.path, copy / each.path)
        assert step - 1 <= writer.step_of(copy) <= step
