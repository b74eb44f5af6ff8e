"""One arm of `backends.py`: a process that trains and grows a network when it is told to.

It uses public names only, so that `PYTHONPATH` may point to another version of the package. Reads
one JSON list a line, a command with its arguments, and answers each with a line of JSON:

    ["train", steps]   -> {"train": seconds of that many steps of `fit`, input included}
    ["grow", method]   -> {"choosing": ..., "widening": ..., "retracing": seconds of the first step
                          after the growth less those of one more}
"""

from __future__ import annotations

import json
import os
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")

import keras
import numpy as np

import keras_grow

NETWORKS = {"vgg16": keras_grow.models.VGG16, "mobilenet": keras_grow.models.MobileNetV1}


class Arm:
    """A network, its data, and what can be measured of them.

    Args:
        network: Name of the network.
        width: Its width.
        batch_size: Examples per step.
        steps: The most steps at a time.
    """

    def __init__(self, network: str, width: int, batch_size: int, steps: int):
        rng = np.random.default_rng(0)
        self._batch_size = batch_size
        examples = batch_size * max(steps, 8)
        self._x = rng.standard_normal((examples, 32, 32, 3), dtype="float32")
        self._y = rng.integers(0, 10, examples)
        keras.utils.set_random_seed(0)
        self._model = self._compiled(NETWORKS[network](width=width))
        self.train(1)  # traces

    @staticmethod
    def _compiled(model):
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.SGD(0.01, momentum=0.9), loss)
        return model

    def train(self, steps: int) -> dict[str, float]:
        """Takes steps by `fit`."""
        return {"train": self._seconds(self._model, steps)}

    def _seconds(self, model, steps: int) -> float:
        examples = self._batch_size * steps
        started = time.perf_counter()
        model.fit(
            self._x[:examples],
            self._y[:examples],
            batch_size=self._batch_size,
            shuffle=False,
            verbose=0,
        )
        return time.perf_counter() - started

    def grow(self, method: str) -> dict[str, float]:
        """Grows a copy of the network that has trained, and trains on."""
        model = self._compiled(keras_grow.GrowableModel.from_config(self._model.get_config()))
        model.set_weights(self._model.get_weights())
        self._seconds(model, 1)
        event = model.grow(0.35, keras_grow.methods.get(method), data=(self._x, self._y))
        first, next_one = self._seconds(model, 1), self._seconds(model, 1)
        return {
            "choosing": event.seconds_choosing,
            "widening": event.seconds_widening,
            "retracing": first - next_one,
        }


def main(network: str, width: str, batch_size: str, steps: str) -> None:
    """Answers commands until the input ends."""
    answers, sys.stdout = sys.stdout, sys.stderr  # whatever else prints is no answer
    arm = Arm(network, int(width), int(batch_size), int(steps))
    print(json.dumps({"ready": keras.config.backend()}), file=answers, flush=True)
    for line in sys.stdin:
        command, argument = json.loads(line)
        print(json.dumps(getattr(arm, command)(argument)), file=answers, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
