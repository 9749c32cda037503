"""``keras_progress.py keras|tf_keras DIRECTORY``: what `progress.KerasCallback` says of real fits.

Prints one line of JSON, the steps of each case. Each step is written, and read back.
"""

from __future__ import annotations

import importlib
import json
import math
import os
import pathlib
import sys
from typing import Any

import numpy as np

from supervisor import progress

name, directory = sys.argv[1], pathlib.Path(sys.argv[2])
if name == "tf_keras":
    os.environ["TF_USE_LEGACY_KERAS"] = "1"
keras = importlib.import_module(name)
tf = importlib.import_module("tensorflow")
FILE = directory / "progress.json"
os.environ[progress.VARIABLE] = str(FILE)
setattr(progress, "THROTTLE_S", 0.0)  # noqa: B010  # it is final
POINTS = np.random.default_rng(7).normal(size=(40, 3)).astype("float32")
VALUES = POINTS.sum(axis=1, keepdims=True)


def model(**words: Any) -> Any:
    made = keras.Sequential([keras.layers.Input((3,)), keras.layers.Dense(1)])
    made.compile(optimizer="adam", loss="mse", **words)
    return made


class Reader(keras.callbacks.Callback):  # type: ignore[name-defined,misc]
    """Reads what stands there after each batch and at each epoch's begin."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[dict[str, Any]] = []

    def look(self) -> None:
        self.found.append(json.loads(FILE.read_text()))

    def on_epoch_begin(self, *_: Any, **__: Any) -> None:
        self.look()

    def on_train_batch_end(self, *_: Any, **__: Any) -> None:
        self.look()


def fit(one: Any, data: Any = None, **words: Any) -> dict[str, Any]:
    progress._teller.__init__()  # type: ignore[misc]
    reader = Reader()
    given = {"x": data} if data is not None else {"x": POINTS, "y": VALUES, "batch_size": 4}
    one.fit(**given, verbose=0, callbacks=[progress.KerasCallback(), reader], **words)
    losses = [each["loss"] for each in reader.found if "loss" in each]
    totals = [each.get("total") for each in reader.found]
    return {
        "steps": sorted({each["step"] for each in reader.found}),
        "totals": [value for n, value in enumerate(totals) if value not in totals[:n]],
        "finite": bool(losses) and all(map(math.isfinite, losses)),
    }


cases: dict[str, Any] = {}
trained = model()
cases["first"] = fit(trained, epochs=2, validation_data=(POINTS, VALUES))
trained.save(directory / "saved.keras")
trained.save_weights(directory / "saved.weights.h5")
cases["several at once"] = fit(model(steps_per_execution=3), epochs=1)
endless = tf.data.Dataset.from_tensor_slices((POINTS, VALUES)).filter(lambda *_: True).batch(4)
cases["without a size"] = fit(model(), endless, epochs=2)
cases["restored"] = fit(
    keras.models.load_model(directory / "saved.keras"), initial_epoch=2, epochs=4
)
weights = model()
weights.load_weights(directory / "saved.weights.h5")
if name == "tf_keras":  # which restores the optimizer with the weights, where it can
    weights = model()
cases["weights alone"] = fit(weights, initial_epoch=2, epochs=4)

told = []
for step, loss, total in (
    (np.int64(3), np.float32(0.5), np.int32(9)),
    (tf.Variable(4, dtype=tf.int64), tf.constant(0.25), tf.constant(9)),
):
    progress.step(step, loss=loss, total=total)
    read = json.loads(FILE.read_text())
    told.append([read["step"], read["total"], read["loss"]])
cases["tensors"] = told


@tf.function  # type: ignore[untyped-decorator]
def traced(step: Any) -> Any:
    progress.step(step)
    return step


try:
    traced(tf.constant(3))
except TypeError as error:
    cases["traced"] = str(error)
print(json.dumps(cases))
