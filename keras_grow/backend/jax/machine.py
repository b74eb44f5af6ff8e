"""What a result depends on besides the code."""

from __future__ import annotations

import jax


def backend_version() -> dict[str, str]:
    """Returns name and version of the backend."""
    return {"jax": jax.__version__}


def accelerators() -> list[str]:
    """Returns the name of each device that is no CPU."""
    return [device.device_kind for device in jax.local_devices() if device.platform != "cpu"]
