"""For scripts: ``from supervisor import progress``, and say how far training is.

::

    progress.step(n, loss=loss, total=steps)               # wherever a step is done
    model.fit(…, callbacks=[progress.KerasCallback()])     # Keras 3 and tf_keras

What is said stands in the file that ``SUPERVISOR_PROGRESS_FILE`` names, for the supervisor to read;
where the variable is not set nothing happens, and neither does where the file cannot be written.

Loads nothing that Python has not loaded already: no ``typing``, ``json`` or ``threading``, and no
Keras (``tests/test_progress.py`` measures that). A script does not wait for us.

Of several ranks on a host, which have the same file, the first one writes: the variables of
Open MPI, Horovod and Hydra tell which that is.
"""

from __future__ import annotations

import _thread
import atexit
import os
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Final

VARIABLE: Final = "SUPERVISOR_PROGRESS_FILE"
THROTTLE_S: Final = 0.25
"""Between two writes: whoever reads looks once a second."""
LOCAL_RANKS: Final = ("OMPI_COMM_WORLD_LOCAL_RANK", "HOROVOD_LOCAL_RANK", "MPI_LOCALRANKID")
_MOST_STEPS: Final = 1 << 63
"""No step is as great (``training.reading.MOST_STEPS``)."""
_INFINITE: Final = float("inf")


def step(n: Any, loss: Any = None, total: Any = None) -> None:
    """Say that step ``n`` is done.

    Costs less than a microsecond most times: the file is written every 0.25 s at most, at the end
    of the script, and at once when the loss is no longer finite. Never waits for another thread.

    Args:
        n: the number of steps that are done, from the beginning of the training and not of the
            attempt. What ``int`` makes a number of will do, NumPy's and TensorFlow's too.
        loss: of this step; what ``float`` makes a number of. That of a tensor is asked for when it
            is written, so that no step waits for a GPU. It stays until another one is said.
        total: the step that training ends with. Stays until another one is said.

    Raises:
        TypeError: an argument is no number.
        ValueError: a step is negative, infinite or no number.

    """
    if type(n) is not int or not 0 <= n < _MOST_STEPS:
        n = _whole("n", n)
    if total is not None and (type(total) is not int or not 0 <= total < _MOST_STEPS):
        total = _whole("total", total)
    if loss is not None and type(loss) is not float:
        loss = _checked(loss)
    _teller.take(n, loss, total)


class _Teller:
    """What has been said, and the file. Of this process; any thread may come."""

    def __init__(self) -> None:
        self._said = (0, 0.0)
        """The step, and when."""
        self._loss: Any = None
        self._total: int | None = None
        self._due = 0.0
        """By the steady clock."""
        self._owed = False
        """Something has been said and is not written."""
        self._finite = True
        self._known = False
        """That it is to write at the end."""
        self._writing = _thread.allocate_lock()

    def take(self, n: int, loss: Any, total: int | None) -> None:
        self._said, self._owed = (n, time.time()), True
        if total is not None:
            self._total = total
        at_once = False
        if loss is not None:
            self._loss = loss
            # x - x is 0 but for NaN and what is infinite.
            finite = type(loss) is not float or loss - loss == 0
            at_once, self._finite = self._finite and not finite, finite
        if at_once or time.monotonic() >= self._due:
            self.write(strict=loss is not None)

    def write(self, *, strict: bool = False) -> None:
        """``strict``: a loss that is no number is an error of this call. Another thread that writes
        will do."""
        if not self._writing.acquire(False):
            return
        try:
            if not self._known:
                self._known = True
                atexit.register(self._end)
            self._due = time.monotonic() + THROTTLE_S
            self._owed = False
            try:
                loss = None if self._loss is None else float(self._loss)
            except Exception as error:
                self._loss = None
                if strict:
                    raise TypeError(f"progress: the loss cannot be read: {error}") from error
                loss = None
            path = os.environ.get(VARIABLE)
            if path and _is_first_rank():
                _put(path, self._text(loss))
        finally:
            self._writing.release()

    def _text(self, loss: float | None) -> str:
        """JSON but for a loss that JSON has no words for, which stands as Python's ``json`` writes
        and reads it."""
        step, at = self._said
        text = f'{{"step": {step}, "at": {at:.3f}'
        if self._total is not None:
            text += f', "total": {self._total}'
        if loss is not None:
            word = repr(loss).replace("nan", "NaN").replace("inf", "Infinity")
            text += f', "loss": {word}'
        return text + "}"

    def _end(self) -> None:
        if self._owed:
            self.write()

    def forget(self) -> None:
        """In a child that was forked: the parent says what it has said, and its lock may be held
        by a thread that is not here."""
        self._owed, self._due = False, 0.0
        self._writing = _thread.allocate_lock()


def _put(path: str, text: str) -> None:
    """The file is replaced, and so never half there for a reader.

    Rejected: to write into it in place, which is one call less and not atomic everywhere, nor seen
    where the supervisor has taken the file away meanwhile. The name of the new one is of this
    process, so that what a kill leaves behind is at most one file, written over by no other.
    """
    new = f"{path}.{os.getpid()}"
    try:
        fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
        try:
            os.write(fd, text.encode())
        finally:
            os.close(fd)
        os.replace(new, path)
    except (OSError, ValueError):  # a full disk is not the script's matter; once more in 0.25 s
        try:  # noqa: SIM105  # nothing is imported here
            os.unlink(new)
        except (OSError, ValueError):
            pass


def _is_first_rank() -> bool:
    for name in LOCAL_RANKS:
        if name in os.environ:
            return os.environ[name] == "0"
    return True


def _whole(name: str, value: Any) -> int:
    """A step of any type."""
    if isinstance(value, str | bytes | bool) or not (
        hasattr(value, "__index__") or hasattr(value, "__int__") or hasattr(value, "__float__")
    ):
        raise TypeError(f"progress: {name} is {value!r:.80}, and is to be a number of steps")
    try:
        number = int(value)
    except OverflowError:  # of an infinite one
        raise ValueError(
            f"progress: {name} is {value!r:.80}, and is to be a whole number"
        ) from None
    except ValueError as error:
        raise ValueError(f"progress: {name} is no whole number: {error}") from None
    except Exception as error:  # whatever a tensor raises that has no value, or several
        raise TypeError(f"progress: {name} cannot be read as a number: {error}") from error
    if not 0 <= number < _MOST_STEPS:
        raise ValueError(f"progress: {name} is {number}, and is to be from 0 to 2**63 - 1")
    return number


def _checked(loss: Any) -> Any:
    """A number that is at hand as a float; a tensor as it is."""
    if isinstance(loss, str | bytes | bool) or not hasattr(loss, "__float__"):
        raise TypeError(f"progress: the loss is {loss!r:.80}, and is to be a number")
    if isinstance(loss, int | float) or type(loss).__module__ == "numpy":
        try:
            return float(loss)
        except OverflowError:  # an int without end
            return _INFINITE if loss > 0 else -_INFINITE
        except TypeError as error:  # an array
            raise TypeError(f"progress: the loss is no single number: {error}") from None
    return loss


_teller = _Teller()
os.register_at_fork(after_in_child=_teller.forget)


# --------------------------------------------------------------------------- Keras

_callbacks: dict[type, type] = {}
"""By the class of Keras's that each is made from."""


def KerasCallback(keras: Any = None) -> Any:  # noqa: N802  # it makes one
    """A callback for ``fit`` that says each step, of how many, and the loss.

    A step is the optimizer's. Training that goes on from a checkpoint goes on counting: by
    ``optimizer.iterations`` where the optimizer was restored too, which is the step that stands in
    the checkpoint; else, where weights alone were, by ``initial_epoch``. Where both are there and
    differ (a batch of another size, a model that had been trained before) the optimizer knows. The
    total is where this ``fit`` ends by the same count.

    Args:
        keras: Keras 3, ``tf_keras`` or ``tf.keras``; None: the one that the script has imported.

    Raises:
        RuntimeError: none is imported.

    """
    base = (keras or _keras_of_script()).callbacks.Callback
    made = _callbacks.get(base)
    if made is None:
        made = _callbacks[base] = type("KerasCallback", (_Counting, base), {})
    return made()


def _keras_of_script() -> Any:
    loaded = [sys.modules[name] for name in ("keras", "tf_keras") if name in sys.modules]
    if len(loaded) == 2:  # TensorFlow's own rule
        return loaded[os.environ.get("TF_USE_LEGACY_KERAS", "").lower() in {"1", "true"}]
    if loaded:
        return loaded[0]
    if "tensorflow" in sys.modules:
        return sys.modules["tensorflow"].keras
    raise RuntimeError(
        "progress.KerasCallback: no Keras is imported; import it before, or say which: "
        "KerasCallback(tf.keras)"
    )


class _Counting:
    """What a callback of any Keras does. Whatever Keras hands over, it never raises."""

    async_safe = True
    """Keras 3: the end of a batch may be told by any thread, in any order."""
    _supports_tf_logs = True
    """tf_keras: tensors will do, so that no step waits for a GPU. Without it a callback for batches
    is refused under ``ParameterServerStrategy``."""
    params: Any
    model: Any

    def __init__(self) -> None:
        super().__init__()
        self._base: int | None = None
        """Batches before this epoch, as if all were of this ``fit``."""
        self._first: int | None = None
        """The index of the first batch of this epoch that is trained here: not 0 in the first one
        of a training that goes on from the middle of an epoch."""
        self._last = -1
        """The greatest index of this epoch."""
        self._steps: int | None = None
        """Batches of an epoch."""
        self._end: int | None = None
        """Where ``fit`` ends, in batches."""
        self._per_step = 1
        """Batches for one step of the optimizer."""

    def on_train_begin(self, logs: Any = None) -> None:  # noqa: ARG002  # as Keras calls it
        self._base = None

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:  # noqa: ARG002
        if self._base is None:
            # Not before: other callbacks restore at the beginning of training.
            self._begin(epoch)
        self._first, self._last = None, -1
        self._tell(0, None)

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:  # noqa: ARG002
        if self._first is None:
            self._first = batch
            if batch and self._end is not None:
                self._end -= batch

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        # Where several batches are one execution, the last one may be told as if it were full.
        last = batch if self._steps is None else min(batch, self._steps - 1)
        self._last = max(self._last, last)
        self._tell(self._last + 1 - (self._first or 0), logs)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:  # noqa: ARG002
        done = self._last + 1 - (self._first or 0)
        self._base = (self._base or 0) + done
        if self._steps is None and done:  # a data set whose size was not known
            self._steps = done
            epochs = (self.params or {}).get("epochs")
            if isinstance(epochs, int):
                self._end = self._base + done * max(0, epochs - epoch - 1)

    def _begin(self, epoch: int) -> None:
        params = self.params or {}
        steps, epochs = params.get("steps"), params.get("epochs")
        self._steps = steps if isinstance(steps, int) and steps > 0 else None
        optimizer = getattr(self.model, "optimizer", None)
        self._per_step = _read(getattr(optimizer, "gradient_accumulation_steps", None)) or 1
        done = _read(getattr(optimizer, "iterations", None)) * self._per_step
        self._base = done or epoch * (self._steps or 0)
        self._end = None
        if self._steps is not None and isinstance(epochs, int):
            self._end = self._base + self._steps * max(0, epochs - epoch)

    def _tell(self, done: int, logs: Any) -> None:
        """``done``: batches of this epoch."""
        try:
            loss = _checked(logs["loss"]) if logs and "loss" in logs else None
        except (TypeError, ValueError):
            loss = None
        total = None if self._end is None else self._end // self._per_step
        try:  # noqa: SIM105
            _teller.take(((self._base or 0) + done) // self._per_step, loss, total)
        except TypeError:  # the value of a worker of ParameterServerStrategy
            pass


def _read(variable: Any) -> int:
    """0 where it has no value."""
    for read in (int, lambda one: int(one.numpy())):
        try:
            return read(variable)
        except Exception:  # noqa: BLE001, S112  # whichever Keras, backend and strategy
            continue
    return 0
