"""The seam: what Keras's backends do differently, under the same names on each.

In comes a function that needs TensorFlow or JAX by name, and nothing else. `tensorflow/` and `jax/`
define the same names; `tf_data` and `tf_summaries` are TensorFlow's on either.
"""

import keras

if keras.config.backend() == "tensorflow":
    from keras_grow.backend.tensorflow import *  # noqa: F403
elif keras.config.backend() == "jax":
    from keras_grow.backend.jax import *  # noqa: F403
else:
    raise ImportError(
        "keras_grow works on Keras's backends 'tensorflow' and 'jax'. Set the environment variable "
        "KERAS_BACKEND to one of them before Keras is imported. Received: "
        f"KERAS_BACKEND={keras.config.backend()}"
    )
