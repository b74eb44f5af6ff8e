"""What a result depends on besides the code."""

from __future__ import annotations

import tensorflow as tf


def backend_version() -> dict[str, str]:
    """Returns name and version of the backend."""
    return {"tensorflow": tf.__version__}


def accelerators() -> list[str]:
    """Returns the name of each device that is no CPU."""
    devices = tf.config.list_physical_devices("GPU")
    details = [tf.config.experimental.get_device_details(device) for device in devices]
    return [detail.get("device_name", "GPU") for detail in details]
