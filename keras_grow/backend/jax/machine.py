"""What a result depends on besides the code, and where compilations are kept."""

from __future__ import annotations

import os

import jax


def backend_version() -> dict[str, str]:
    """Returns name and version of the backend."""
    return {"jax": jax.__version__}


def accelerators() -> list[str]:
    """Returns the name of each device that is no CPU."""
    return [device.device_kind for device in jax.local_devices() if device.platform != "cpu"]


def cache_compilations(folder: str | os.PathLike) -> None:
    """Keeps compiled functions in a folder, from where later processes load them.

    A network that comes back to widths that were trained before, in a resumed run or in the next
    one, then starts at once. What the environment or `jax.config` already names stays.

    Args:
        folder: Where to keep them; made when the first one is written.
    """
    if jax.config.jax_compilation_cache_dir is None:
        jax.config.update("jax_compilation_cache_dir", os.fspath(folder))
        # By default what compiles within a second isn't kept; a growth compiles many of these.
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
