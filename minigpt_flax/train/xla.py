"""What XLA must be told before JAX is imported. Imports no JAX."""

from __future__ import annotations

import importlib.metadata
import os
from collections.abc import MutableMapping

SLOW_SCATTER = ((0, 10, 2), (0, 11, 0))  # jaxlib, first and last
FAST_SCATTER = "--xla_backend_extra_options=-nvptx-allow-ftz-atomics"


def mend_scatter(jaxlib: str, cuda: bool, environment: MutableMapping[str, str] = os.environ) -> None:
    """Goes around a fault of some versions: on NVIDIA, sums into repeated places take hundreds of times too long.

    They add float32 numbers by comparing and swapping, and the gradient of an embedding waits for that
    (https://github.com/jax-ml/jax/issues/38806). What ``XLA_FLAGS`` already says stays.

    >>> environment = {}
    >>> mend_scatter("0.11.0", True, environment)
    >>> environment
    {'XLA_FLAGS': '--xla_backend_extra_options=-nvptx-allow-ftz-atomics'}
    >>> mend_scatter("0.11.2", True, environment := {"XLA_FLAGS": "--xla_dump_to=x"})
    >>> environment
    {'XLA_FLAGS': '--xla_dump_to=x'}

    Args:
      jaxlib: its version.
      cuda: whether JAX runs on NVIDIA's devices here.
      environment: is changed.
    """
    flags = environment.get("XLA_FLAGS", "")
    first, last = SLOW_SCATTER
    if cuda and first <= _numbers(jaxlib) <= last and "xla_backend_extra_options" not in flags:
        environment["XLA_FLAGS"] = f"{flags} {FAST_SCATTER}".strip()


def device_per_core(environment: MutableMapping[str, str] = os.environ) -> None:
    """Lets JAX see each core of this machine as a device, which the batch is then divided among like among others.

    One program that divides every product among the cores leaves them waiting for each other after each, much of the
    time where products are small: with a part of the batch each they meet once a step. A step of the preset ``nano``
    takes 81 ms on two cores, and 56 ms as two devices (``benchmarks.step``). What the environment already says stays.

    >>> device_per_core(environment := {"JAX_NUM_CPU_DEVICES": "1"})
    >>> environment
    {'JAX_NUM_CPU_DEVICES': '1'}

    Args:
      environment: is changed.
    """
    if "xla_force_host_platform_device_count" not in environment.get("XLA_FLAGS", ""):
        environment.setdefault("JAX_NUM_CPU_DEVICES", str(cores()))


def cores() -> int:
    """Number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:3] if part.isdecimal())


def mend() -> None:
    """Goes around what is known of the versions that are installed."""
    installed = {
        name.lower().replace("_", "-")
        for package in importlib.metadata.distributions()
        if (name := package.metadata["Name"])
    }
    cuda = any(name.startswith("jax-cuda") and name.endswith("plugin") for name in installed)
    mend_scatter(importlib.metadata.version("jaxlib"), cuda)
