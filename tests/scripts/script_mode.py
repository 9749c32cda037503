"""A script as people wrote them for the predecessor: nothing in it knows of this program.

What the published examples have in common: an argument parser whose defaults are ``SM_…``
variables, ``type=list`` over the hosts, unknown arguments let through, NumPy files in a channel,
a Keras model without a strategy, saved by the first host.
"""

from __future__ import annotations

import argparse
import json
import os

import numpy as np
import tensorflow as tf


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--model_dir", type=str)
    parser.add_argument("--sm-model-dir", type=str, default=os.environ["SM_MODEL_DIR"])
    parser.add_argument("--output-data-dir", type=str, default=os.environ["SM_OUTPUT_DATA_DIR"])
    parser.add_argument("--train", type=str, default=os.environ["SM_CHANNEL_TRAINING"])
    parser.add_argument("--hosts", type=list, default=json.loads(os.environ["SM_HOSTS"]))
    parser.add_argument("--current-host", type=str, default=os.environ["SM_CURRENT_HOST"])
    args, unknown = parser.parse_known_args()

    images = np.load(os.path.join(args.train, "images.npy"))
    labels = np.load(os.path.join(args.train, "labels.npy"))
    model = tf.keras.Sequential(
        [
            tf.keras.layers.Flatten(),
            tf.keras.layers.Dense(16, activation=tf.nn.relu),
            tf.keras.layers.Dense(10, activation=tf.nn.softmax),
        ]
    )
    model.compile(optimizer="adam", loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    history = model.fit(images, labels, epochs=args.epochs)

    seen = {**vars(args), "unknown": unknown, "epochs": len(history.epoch)}
    with open(os.path.join(args.output_data_dir, "seen.json"), "w", encoding="utf-8") as file:
        json.dump(seen, file)
    if args.current_host == args.hosts[0]:
        model.save(os.path.join(args.sm_model_dir, "my_model.h5"))


if __name__ == "__main__":
    main()
