"""A run on JAX where TensorFlow can't be imported; as a script it prints what came out as JSON.

Its arguments are a folder, for the model that comes out and for its outputs, and how many devices
train.
"""

import json
import os
import sys
from pathlib import Path

EPOCHS = 3


def main(folder, devices):
    os.environ["KERAS_BACKEND"] = "jax"
    os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={devices}"
    sys.modules["tensorflow"] = None  # an import of it fails
    import keras
    import numpy as np

    import keras_grow

    if devices > 1:
        keras.distribution.set_distribution(keras.distribution.DataParallel())
    plain = keras.Sequential(
        [
            keras.Input((4, 4, 2)),
            keras.layers.Conv2D(3, 3, padding="same", use_bias=False, name="a"),
            keras.layers.BatchNormalization(name="a_bn"),
            keras.layers.ReLU(name="a_act"),
            keras.layers.Flatten(name="flatten"),
            keras.layers.Dense(4, activation="tanh", name="b"),
            keras.layers.Dense(2, name="head"),
        ]
    )
    rng = np.random.default_rng(0)
    for variable in plain.weights:
        if "a_bn" not in variable.path:
            variable.assign(rng.uniform(-0.5, 0.5, variable.shape))
    x, y = rng.normal(size=(16, 4, 4, 2)).astype("float32"), rng.integers(0, 2, 16)

    def run(where, stop_at=None):
        model = keras_grow.GrowableModel.from_keras(plain)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(
            keras.optimizers.Adam(0.01), loss, metrics=["accuracy"], run_eagerly=devices == 1
        )  # compiling takes longer than all steps
        method = keras_grow.methods.Net2Wider(seed=1)
        growth = keras_grow.GrowthCallback(0.5, every=1, method=method, verbose=0)
        callbacks = [growth, keras_grow.GrowthBackup(where, 1, delete_checkpoint=False, verbose=0)]
        if stop_at is not None:
            callbacks.append(Stop(stop_at))
        try:
            history = model.fit(x, y, batch_size=8, epochs=EPOCHS, shuffle=False, verbose=0,
                                callbacks=callbacks).history  # fmt: skip
        except InterruptedError:
            return None, None
        return model, history

    class Stop(keras.callbacks.Callback):
        """Ends a run after so many steps, in the middle of an epoch."""

        def __init__(self, steps):
            super().__init__()
            self.left = steps

        def on_train_batch_end(self, batch, logs=None):
            self.left -= 1
            if not self.left:
                raise InterruptedError

    model, history = run(folder / "whole")
    run(folder / "stopped", stop_at=3)
    resumed, resumed_history = run(folder / "stopped")
    model.save(folder / "model.keras")
    loaded = keras.models.load_model(folder / "model.keras")
    outputs = model.predict(x, verbose=0)
    np.savez(folder / "outputs.npz", x=x, outputs=outputs)
    facts = {
        "backend": keras.config.backend(),
        "tensorflow": sys.modules["tensorflow"] is not None,
        "widths": model.widths,
        "history": history,
        "resumed alike": history == resumed_history
        and all(map(np.array_equal, model.get_weights(), resumed.get_weights())),
        "loaded alike": bool(np.allclose(loaded.predict(x, verbose=0), outputs, atol=1e-6)),
        "devices": len(model.weights[0].value.sharding.device_set),
    }
    print(json.dumps(facts))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
