"""`supervisor.progress`: what a script says of itself, and what that costs it."""

from __future__ import annotations

import atexit
import json
import math
import os
import pathlib
import subprocess
import sys
import threading
import types
from collections.abc import Iterator
from typing import Any

import pytest

from supervisor import progress
from supervisor.contract import record
from supervisor.contract.paths import Paths, paths_below
from tests.helpers.tree import SCRIPTS


class Clock:
    """In the place of the module ``time``."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return self.now + 1e9


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[Clock]:
    """What was said by an earlier test is forgotten; time stands still."""
    clock, teller = Clock(), progress._Teller()
    monkeypatch.setattr(progress, "time", clock)
    monkeypatch.setattr(progress, "_teller", teller)
    for name in progress.LOCAL_RANKS:
        monkeypatch.delenv(name, raising=False)
    yield clock
    atexit.unregister(teller._end)


@pytest.fixture
def paths(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Paths:
    """Where the supervisor reads what is said."""
    found = paths_below(str(tmp_path))
    os.makedirs(os.path.dirname(found.progress))
    monkeypatch.setenv(progress.VARIABLE, found.progress)
    return found


def said(paths: Paths) -> record.Progress:
    reading = record.reading(paths)
    assert reading is not None
    return reading


def run(source: str, path: str | os.PathLike[str], **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", source],
        env=os.environ | {progress.VARIABLE: str(path)} | env,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


# --------------------------------------------------------------------------- the file


def test_a_step_is_read_as_it_was_said(paths: Paths, clock: Clock) -> None:
    progress.step(12, loss=0.25, total=100)
    assert record.reading(paths) == record.Progress(12, 100, 0.25, clock.time())
    assert os.listdir(os.path.dirname(paths.progress)) == [os.path.basename(paths.progress)]


def test_total_and_loss_stay_until_others_are_said(paths: Paths, clock: Clock) -> None:
    progress.step(0, total=100)
    clock.now += 1
    progress.step(10, loss=2)
    clock.now += 1
    progress.step(11)
    assert said(paths)[:3] == (11, 100, 2.0)
    clock.now += 1
    progress.step(12, loss=1.5, total=90)
    assert said(paths)[:3] == (12, 90, 1.5)


def test_the_file_is_written_four_times_a_second_at_most(paths: Paths, clock: Clock) -> None:
    progress.step(1)
    clock.now += progress.THROTTLE_S * 0.99
    progress.step(2, loss=1.0)
    assert said(paths).step == 1
    clock.now += progress.THROTTLE_S * 0.02
    progress.step(3)
    assert said(paths)[:3] == (3, None, 1.0)


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_not_finite_is_written_at_once_and_survives(
    paths: Paths, clock: Clock, loss: float
) -> None:
    progress.step(1, loss=1.0)
    progress.step(2, loss=loss)
    progress.step(3, loss=loss)
    found = said(paths)
    assert found.step == 2, "once: a script that goes on with it does not write at each step"
    assert repr(found.loss) == repr(loss)
    assert json.loads(pathlib.Path(paths.progress).read_text())["step"] == 2


@pytest.mark.parametrize(
    "end", ["", "sys.exit(3)", "raise RuntimeError", "os.kill(os.getpid(), signal.SIGINT)"]
)
def test_the_last_step_is_written_at_the_end(tmp_path: pathlib.Path, end: str) -> None:
    source = (
        "import os, signal, sys\n"
        "from supervisor import progress\n"
        "for step in range(5001):\n"
        "    progress.step(step, loss=step / 2)\n"
    )
    run(source + end, tmp_path / "progress.json")
    written = json.loads((tmp_path / "progress.json").read_text())
    assert (written["step"], written["loss"]) == (5000, 2500.0)
    assert os.listdir(tmp_path) == ["progress.json"]


def test_a_reader_never_finds_half_a_file(
    paths: Paths, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "THROTTLE_S", 0.0)
    over = threading.Event()

    def write() -> None:
        for n in range(2000):
            progress.step(n, loss=1 / (n + 1), total=10**n if n < 18 else 1)
        over.set()

    progress.step(0)
    writer = threading.Thread(target=write)
    writer.start()
    steps = [said(paths).step]
    while not over.is_set():
        steps.append(said(paths).step)
    writer.join()
    assert steps == sorted(steps)
    assert said(paths).step == 1999


def test_many_threads_may_say_steps(
    paths: Paths, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "THROTTLE_S", 0.0)
    failed: list[Exception] = []

    def write() -> None:
        try:
            for n in range(500):
                progress.step(n, loss=0.5)
        except Exception as error:  # noqa: BLE001
            failed.append(error)

    threads = [threading.Thread(target=write) for _ in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert not failed
    progress.step(500)
    assert said(paths).step == 500


@pytest.mark.parametrize("kind", ["no directory", "a directory", "a device", "NUL", "not set"])
def test_where_nothing_can_be_written_nothing_happens(
    tmp_path: pathlib.Path, clock: Clock, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    target = {"no directory": tmp_path / "no" / "where", "a device": "/proc/self/none"}.get(
        kind, tmp_path / "there"
    )
    if kind == "not set":
        monkeypatch.delenv(progress.VARIABLE, raising=False)
    else:
        monkeypatch.setenv(progress.VARIABLE, str(target))
    if kind == "a directory":
        os.makedirs(tmp_path / "there" / "full")
    elif kind == "NUL":
        monkeypatch.setattr(os, "environ", {progress.VARIABLE: "a\0b"})
    for n in range(3):
        progress.step(n, loss=float(n), total=3)
        clock.now += 1
    assert os.listdir(tmp_path) == (["there"] if kind == "a directory" else [])


def test_what_could_not_be_written_is_written_when_it_can_be(paths: Paths, clock: Clock) -> None:
    os.rmdir(os.path.dirname(paths.progress))
    progress.step(1)
    os.mkdir(os.path.dirname(paths.progress))
    clock.now += 1
    progress.step(2)
    assert said(paths).step == 2


def test_a_child_that_was_forked_does_not_say_what_its_parent_has_said(
    tmp_path: pathlib.Path,
) -> None:
    """It would put an older step in the place of a newer one, at its end."""
    source = (
        "import os, sys\n"
        "from supervisor import progress\n"
        "progress.step(1)\n"
        "progress.step(2)\n"
        "if not os.fork():\n"
        "    sys.exit()\n"
        "os.wait()\n"
        "print(open(os.environ['SUPERVISOR_PROGRESS_FILE']).read())\n"
        "if not os.fork():\n"
        "    progress.step(7)\n"
        "    os._exit(0)\n"
        "os.wait()\n"
        "print(open(os.environ['SUPERVISOR_PROGRESS_FILE']).read())\n"
    )
    first, second = run(source, tmp_path / "progress.json").stdout.splitlines()
    assert json.loads(first)["step"] == 1
    assert json.loads(second)["step"] == 7, "its own it does say"


@pytest.mark.parametrize("name", progress.LOCAL_RANKS)
def test_of_the_ranks_of_a_host_the_first_one_writes(
    paths: Paths, clock: Clock, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, "1")
    progress.step(5)
    assert record.reading(paths) is None
    monkeypatch.setenv(name, "0")
    clock.now += 1
    progress.step(6)
    assert said(paths).step == 6


# --------------------------------------------------------------------------- arguments


class Scalar:
    """As a tensor of one value: a number when it is asked for one."""

    def __init__(self, value: float) -> None:
        self.value = value
        self.asked = 0

    def __int__(self) -> int:
        return int(self.value)

    def __float__(self) -> float:
        self.asked += 1
        return float(self.value)


class Shapeless:
    """As a tensor while a function is traced: it has no value."""

    def __int__(self) -> int:
        raise NotImplementedError("no value here")

    def __float__(self) -> float:
        raise NotImplementedError("no value here")


@pytest.mark.parametrize("n", [7, 7.0, 7.9, Scalar(7)])
def test_what_is_a_number_is_a_step(paths: Paths, clock: Clock, n: Any) -> None:
    progress.step(n, loss=Scalar(0.5), total=Scalar(9))
    assert said(paths)[:3] == (7, 9, 0.5)


def test_a_tensor_is_asked_for_its_value_when_that_is_written(paths: Paths, clock: Clock) -> None:
    """To ask for it waits for the GPU."""
    first, second = Scalar(0.5), Scalar(math.nan)
    progress.step(1, loss=first)
    progress.step(2, loss=second)
    assert (first.asked, second.asked) == (1, 0)
    clock.now += progress.THROTTLE_S
    progress.step(3)
    loss = said(paths).loss
    assert loss is not None
    assert math.isnan(loss)


@pytest.mark.parametrize(
    ("words", "error", "text"),
    [
        ({"n": "12"}, TypeError, "progress: n is '12', and is to be a number of steps"),
        ({"n": None}, TypeError, "progress: n is None, and is to be a number of steps"),
        ({"n": True}, TypeError, "progress: n is True"),
        ({"n": [1]}, TypeError, "progress: n is [1]"),
        ({"n": Shapeless()}, TypeError, "progress: n cannot be read as a number: no value here"),
        ({"n": -1}, ValueError, "progress: n is -1, and is to be from 0 to 2**63 - 1"),
        ({"n": 1 << 63}, ValueError, "progress: n is 9223372036854775808"),
        ({"n": math.nan}, ValueError, "progress: n is no whole number"),
        ({"n": math.inf}, ValueError, "progress: n is inf"),
        ({"n": 1, "total": "9"}, TypeError, "progress: total is '9'"),
        ({"n": 1, "total": -9}, ValueError, "progress: total is -9"),
        ({"n": 1, "loss": "nan"}, TypeError, "progress: the loss is 'nan', and is to be a number"),
        ({"n": 1, "loss": [0.5]}, TypeError, "progress: the loss is [0.5]"),
        ({"n": 1, "loss": Shapeless()}, TypeError, "progress: the loss cannot be read: no value"),
    ],
)
@pytest.mark.parametrize("supervised", [True, False])
def test_what_is_no_number_is_said_with_a_supervisor_and_without(
    paths: Paths,
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
    words: dict[str, Any],
    error: type[Exception],
    text: str,
    supervised: bool,
) -> None:
    if not supervised:
        monkeypatch.delenv(progress.VARIABLE)
    with pytest.raises(error) as raised:
        progress.step(**words)
    assert str(raised.value).startswith(text)
    assert record.reading(paths) is None


# --------------------------------------------------------------------------- what it costs


def test_nothing_else_is_loaded() -> None:
    source = (
        "import sys\n"
        "before = {*sys.modules}\n"
        "from supervisor import progress\n"
        "progress.step(1, loss=0.5, total=2)\n"
        "print(*sorted({*sys.modules} - before))\n"
    )
    loaded = run(source, os.devnull + "/none").stdout.split()
    assert loaded == ["__future__", "atexit", "supervisor", "supervisor.progress"]


# --------------------------------------------------------------------------- Keras


class Base:
    """As Keras's."""

    def __init__(self) -> None:
        self.params: dict[str, Any] = {}
        self.model: Any = None


KERAS = types.SimpleNamespace(callbacks=types.SimpleNamespace(Callback=Base))


class Fit:
    """The calls that Keras makes."""

    def __init__(
        self, *, steps: int | None, epochs: int, iterations: Any = 0, accumulate: int | None = None
    ) -> None:
        self.callback = progress.KerasCallback(KERAS)
        self.callback.params = {"steps": steps, "epochs": epochs}
        optimizer = types.SimpleNamespace(
            iterations=iterations, gradient_accumulation_steps=accumulate
        )
        self.callback.model = types.SimpleNamespace(optimizer=optimizer)
        self.callback.on_train_begin({})

    def epoch(self, epoch: int, batches: range, at_once: int = 1, loss: Any = 0.5) -> None:
        self.callback.on_epoch_begin(epoch, {})
        for first in batches[::at_once]:
            self.callback.on_train_batch_begin(first, logs={})
            last = min(first + at_once, batches.stop) - 1
            self.callback.on_train_batch_end(last, logs={"loss": loss})
        self.callback.on_epoch_end(epoch, {})


@pytest.fixture
def heard(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, Any, int | None]]:
    """What is said: step, loss, total."""
    calls: list[tuple[int, Any, int | None]] = []
    teller = types.SimpleNamespace(take=lambda *call: calls.append(call))
    monkeypatch.setattr(progress, "_teller", teller)
    return calls


Heard = list[tuple[int, Any, int | None]]


def test_steps_are_counted_over_epochs(heard: Heard) -> None:
    fit = Fit(steps=3, epochs=2)
    fit.epoch(0, range(3))
    fit.epoch(1, range(3), loss=0.25)
    assert heard == [
        *[(0, None, 6), (1, 0.5, 6), (2, 0.5, 6), (3, 0.5, 6)],
        *[(3, None, 6), (4, 0.25, 6), (5, 0.25, 6), (6, 0.25, 6)],
    ]


def test_several_batches_may_be_one_execution(heard: Heard) -> None:
    fit = Fit(steps=5, epochs=1)
    fit.epoch(0, range(4), at_once=2)
    fit.callback.on_epoch_begin(1)
    fit.callback.on_train_batch_begin(0)
    fit.callback.on_train_batch_end(5)
    assert [step for step, _, _ in heard] == [0, 2, 4, 4, 9]


def test_a_size_that_is_not_known_is_known_after_an_epoch(heard: Heard) -> None:
    fit = Fit(steps=None, epochs=3)
    fit.epoch(0, range(4))
    fit.epoch(1, range(4))
    assert [(step, total) for step, _, total in heard] == [
        *[(step, None) for step in range(5)],
        *[(step, 12) for step in range(4, 9)],
    ]


@pytest.mark.parametrize(
    ("iterations", "epoch", "begins", "total", "why"),
    [
        (50, 5, 50, 100, "both are there and agree"),
        (0, 5, 50, 100, "weights alone were restored"),
        (40, 2, 40, 120, "an epoch had 20 steps before: fewer hosts, larger batches"),
        (1000, 0, 1000, 1100, "a model that had been trained before"),
        (Scalar(50), 5, 50, 100, "a variable"),
        (None, 0, 0, 100, "no optimizer of Keras's"),
    ],
)
def test_what_goes_on_goes_on_counting(
    heard: Heard, iterations: Any, epoch: int, begins: int, total: int, why: str
) -> None:
    fit = Fit(steps=10, epochs=10, iterations=iterations)
    fit.epoch(epoch, range(10))
    assert (heard[0], heard[-1]) == ((begins, None, total), (begins + 10, 0.5, total)), why


def test_an_epoch_may_be_begun_in_its_middle(heard: Heard) -> None:
    fit = Fit(steps=10, epochs=3, iterations=14)
    fit.epoch(1, range(4, 10))
    fit.epoch(2, range(10))
    assert [step for step, _, _ in heard] == [*range(14, 21), *range(20, 31)]
    assert heard[-1][2] == 30


def test_gradients_that_are_added_up_are_one_step(heard: Heard) -> None:
    fit = Fit(steps=8, epochs=2, iterations=2, accumulate=4)
    fit.epoch(1, range(8))
    assert [step for step, _, _ in heard] == [2, 2, 2, 2, 3, 3, 3, 3, 4]
    assert heard[-1][2] == 4


def test_a_callback_may_be_used_again(heard: Heard) -> None:
    fit = Fit(steps=2, epochs=1)
    fit.epoch(0, range(2))
    fit.callback.model.optimizer.iterations = 2
    fit.callback.on_train_begin()
    fit.epoch(0, range(2))
    assert [step for step, _, _ in heard] == [0, 1, 2, 2, 3, 4]
    assert heard[-1][2] == 4


def test_batches_that_end_in_any_order_are_counted(heard: Heard) -> None:
    """Keras tells them from threads where all callbacks allow that."""
    fit = Fit(steps=4, epochs=1)
    fit.callback.on_epoch_begin(0)
    for batch in range(4):
        fit.callback.on_train_batch_begin(batch)
    for batch in (1, 0, 3, 2):
        fit.callback.on_train_batch_end(batch)
    fit.callback.on_epoch_end(0)
    assert [step for step, _, _ in heard] == [0, 2, 2, 4, 4]


@pytest.mark.parametrize("logs", [None, {}, {"accuracy": 1.0}, {"loss": "?"}, {"loss": [1]}])
def test_a_loss_that_keras_does_not_tell_is_none(heard: Heard, logs: Any) -> None:
    fit = Fit(steps=1, epochs=1)
    fit.callback.on_epoch_begin(0)
    fit.callback.on_train_batch_begin(0)
    fit.callback.on_train_batch_end(0, logs)
    assert heard[-1] == (1, None, 1)


def test_a_loss_without_a_value_does_not_end_the_training(paths: Paths, clock: Clock) -> None:
    fit = Fit(steps=1, epochs=1)
    clock.now += 1
    fit.epoch(0, range(1), loss=Shapeless())
    clock.now += 1
    progress.step(2)
    assert said(paths)[:3] == (2, 1, None)


class Legacy(Base):
    pass


LEGACY = types.SimpleNamespace(callbacks=types.SimpleNamespace(Callback=Legacy))


@pytest.mark.parametrize(
    ("modules", "variable", "base"),
    [
        ({"keras": KERAS}, "", Base),
        ({"tf_keras": LEGACY}, "", Legacy),
        ({"keras": KERAS, "tf_keras": LEGACY}, "", Base),
        ({"keras": KERAS, "tf_keras": LEGACY}, "1", Legacy),
        ({"tensorflow": types.SimpleNamespace(keras=LEGACY)}, "", Legacy),
    ],
)
def test_the_keras_that_the_script_uses_is_found(
    monkeypatch: pytest.MonkeyPatch, modules: dict[str, Any], variable: str, base: type
) -> None:
    for name in ("keras", "tf_keras", "tensorflow"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setenv("TF_USE_LEGACY_KERAS", variable)
    callback = progress.KerasCallback()
    assert isinstance(callback, base)
    assert type(callback) is type(progress.KerasCallback())


def test_without_keras_there_is_no_callback(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("keras", "tf_keras", "tensorflow"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    with pytest.raises(RuntimeError, match=r"no Keras is imported; import it before, or say which"):
        progress.KerasCallback()


@pytest.mark.once
@pytest.mark.tensorflow
@pytest.mark.parametrize("name", ["keras", "tf_keras"])
def test_a_real_fit_is_counted(tmp_path: pathlib.Path, name: str) -> None:
    """Two epochs, a checkpoint, and the rest from it; tensors of both kinds; Keras's own views."""
    done = subprocess.run(
        [sys.executable, str(SCRIPTS / "keras_progress.py"), name, str(tmp_path)],
        # What AutoGraph makes of a function is a file that it leaves.
        env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3", "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    cases = json.loads(done.stdout.splitlines()[-1])
    assert cases["first"] == {"steps": list(range(21)), "totals": [20], "finite": True}
    assert cases["several at once"] == {"steps": [0, 3, 6, 9, 10], "totals": [10], "finite": True}
    assert cases["without a size"] == {
        "steps": list(range(21)),
        "totals": [None, 20],
        "finite": True,
    }
    assert cases["restored"] == {"steps": list(range(20, 41)), "totals": [40], "finite": True}
    assert cases["weights alone"] == {"steps": list(range(20, 41)), "totals": [40], "finite": True}
    assert cases["tensors"] == [[3, 9, 0.5], [4, 9, 0.25]]
    assert "progress: n is <tf.Tensor 'step:0'" in cases["traced"]
