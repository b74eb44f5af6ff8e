"""One of two worker processes that train and grow a model; `test_distribution.py` starts both.

What the worker ends up with is printed as JSON.

    python tests/two_workers.py INDEX PORT PORT
"""

import json
import os
import sys
from contextlib import nullcontext

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


def join(index, ports):
    """Tells TensorFlow of the cluster. It must be the first to be asked for anything."""
    cluster = {"worker": [f"localhost:{port}" for port in ports]}
    os.environ["TF_CONFIG"] = json.dumps(
        {"cluster": cluster, "task": {"type": "worker", "index": index}}
    )
    import tensorflow as tf

    return tf.distribute.MultiWorkerMirroredStrategy()


def train(scope, method, as_dataset):
    """Trains with a growth before the second epoch; returns what came out."""
    import two_devices

    with scope:
        model = two_devices.network(two_devices.keras.optimizers.SGD(0.1, momentum=0.9))
    x, y = two_devices.data()
    fit = {"epochs": 2, "verbose": 0, "callbacks": [two_devices.callback(method)]}
    if as_dataset:
        dataset = two_devices.tf.data.Dataset.from_tensor_slices((x, y))
        logs = model.fit(dataset.batch(8), **fit).history
    else:
        logs = model.fit(x, y, batch_size=8, shuffle=False, **fit).history
    return {
        "logs": logs,
        "loss": model.evaluate(x, y, batch_size=8, verbose=0),
        "outputs": model.predict(x, batch_size=8, verbose=0).tolist(),
        "widths": model.widths,
        "values": [v.numpy().tolist() for v in [*model.variables, *model.optimizer.variables]],
    }


def main(index, *ports):
    strategy = join(int(index), ports)
    from keras_grow.methods import Net2Wider

    seed = int(index)  # each worker draws for itself
    results = {
        "net2wider": train(strategy.scope(), Net2Wider(seed=seed), as_dataset=False),
        "firefly": train(strategy.scope(), "firefly", as_dataset=True),
        "alone": train(nullcontext(), Net2Wider(seed=seed), as_dataset=False),
    }
    print(json.dumps(results))


if __name__ == "__main__":
    main(*sys.argv[1:])
