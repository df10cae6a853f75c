"""How fast a run was: training alone, without compiling, validating and saving; and how near that is to the device.

Written to ``speed.json`` in the run's folder at the end of every sitting.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax

from minigpt_flax.train.clock import Clock, quantity, shorten
from minigpt_flax.train.devices import peak_flops

COMPILING = "/jax/core/compile/"  # events of tracing, lowering and compiling, or of reading what was compiled before
CACHE_HIT = "/jax/compilation_cache/cache_hits"


class Compilation:
    """Adds up what JAX spends on tracing and compiling in this process, from now on.

    Attributes:
      seconds: so far.
      cached: programs that came from the persistent cache.
    """

    def __init__(self):
        self.seconds, self.cached = 0.0, 0

    def __enter__(self) -> Compilation:
        """Begins to listen."""
        jax.monitoring.register_event_duration_secs_listener(self._duration)
        jax.monitoring.register_event_listener(self._event)
        return self

    def __exit__(self, *error: Any) -> None:
        """Listens no more."""
        jax.monitoring.unregister_event_duration_listener(self._duration)
        jax.monitoring.unregister_event_listener(self._event)

    def _duration(self, event: str, duration_secs: float, **kwargs: Any) -> None:
        self.seconds += duration_secs if event.startswith(COMPILING) else 0.0

    def _event(self, event: str, **kwargs: Any) -> None:
        self.cached += event == CACHE_HIT


@dataclass(frozen=True)
class Memory:
    """The most memory that one device needed at a time.

    Attributes:
      size: bytes.
      source: where that is from.
    """

    size: int
    source: str


@dataclass(frozen=True)
class Speed:
    """What a sitting came to.

    Attributes:
      device: JAX's name of the kind of device.
      devices: number of them.
      dtype: of the factors of the matrix products.
      tokens_per_step: tokens in a step.
      steps: number of steps that were timed: not the first, nor one after a validation.
      seconds: that they took.
      compile_seconds: spent on tracing and compiling, of all programs.
      cached_programs: programs that came compiled from the cache.
      validation_seconds: spent on validations.
      flops_per_step: products of matrices in a step, forward and backward, attention causal.
      peak_flops: FLOP/s of one device at most; None if unknown.
      memory: peak of one device.
    """

    device: str
    devices: int
    dtype: str
    tokens_per_step: int
    steps: int
    seconds: float
    compile_seconds: float
    cached_programs: int
    validation_seconds: float
    flops_per_step: int
    peak_flops: float | None
    memory: Memory

    @property
    def step_seconds(self) -> float | None:
        """Mean time of a step; None when none was timed."""
        return self.seconds / self.steps if self.steps else None

    @property
    def tokens_per_second(self) -> float | None:
        """Tokens trained on in a second; None when no step was timed."""
        return self.tokens_per_step / self.step_seconds if self.step_seconds else None

    @property
    def flops_per_second(self) -> float | None:
        """Products of matrices, in FLOP/s over all devices; None when no step was timed."""
        return self.flops_per_step / self.step_seconds if self.step_seconds else None

    @property
    def mfu(self) -> float | None:
        """Model FLOPs utilisation: the part of the devices' peak that the model's products take; None if unknown."""
        if self.flops_per_second is None or self.peak_flops is None:
            return None
        return self.flops_per_second / (self.peak_flops * self.devices)

    def record(self) -> dict[str, Any]:
        """Everything, as JSON takes it."""
        names = ("step_seconds", "tokens_per_second", "flops_per_second", "mfu")
        return dataclasses.asdict(self) | {name: getattr(self, name) for name in names}

    def lines(self) -> str:
        """Three lines for people."""
        cached = f" ({self.cached_programs} programs from the cache)" if self.cached_programs else ""
        around = f"compiling {self.compile_seconds:.1f} s{cached}, validations {self.validation_seconds:.1f} s"
        return f"{self._pace()}\n{around}\nmemory {quantity(self.memory.size, 'B')} ({self.memory.source})"

    def _pace(self) -> str:
        if self.tokens_per_second is None or self.step_seconds is None or self.flops_per_second is None:
            return "too few steps to tell"
        pace = f"{shorten(self.tokens_per_second)} tokens/s, {self.step_seconds * 1e3:.1f} ms a step"
        return f"{pace}; {quantity(self.flops_per_second, 'FLOP/s')}, {self._utilisation()}"

    def _utilisation(self) -> str:
        if self.mfu is not None:
            return f"MFU {self.mfu:.1%}"
        return "no MFU on a CPU" if self.device == "cpu" else f"MFU unknown for {self.device} in {self.dtype}"


def measure(
    clock: Clock, compilation: Compilation, state: Any, memory: Memory, *, tokens: int, flops: int, dtype: str
) -> Speed:
    """Puts the figures of a sitting together.

    Args:
      clock: timed its steps.
      compilation: listened to it.
      state: of the training; tells the devices.
      memory: see :func:`peak_memory`.
      tokens: in a step.
      flops: in a step.
      dtype: of the factors of the products.
    """
    devices = used(state)
    kind = devices[0].device_kind
    return Speed(
        device=kind,
        devices=len(devices),
        dtype=dtype,
        tokens_per_step=tokens,
        steps=clock.steps,
        seconds=clock.seconds,
        compile_seconds=compilation.seconds,
        cached_programs=compilation.cached,
        validation_seconds=clock.paused,
        flops_per_step=flops,
        peak_flops=peak_flops(kind, dtype),
        memory=memory,
    )


def used(state: Any) -> list[Any]:
    """The devices that hold a state."""
    return sorted(jax.tree.leaves(state)[0].sharding.device_set, key=lambda device: device.id)


def peak_memory(state: Any, analyse: Callable[[], Any]) -> Memory:
    """The most memory that a device needed, from the best source there is.

    Args:
      state: of the training; tells the devices.
      analyse: returns XLA's memory analysis of the compiled step, or None.
    """
    peaks = [(device.memory_stats() or {}).get("peak_bytes_in_use") for device in used(state) if local(device)]
    known = [peak for peak in peaks if peak is not None]
    if known:
        return Memory(max(known), "peak of the device")
    analysis = analyse()
    if analysis is not None:
        return Memory(planned(analysis), "of a step, by XLA")
    return Memory(resident(), "of the process")


def planned(analysis: Any) -> int:
    """Bytes of arguments, results and all between, by XLA's memory analysis of a compiled program."""
    results = analysis.output_size_in_bytes - analysis.alias_size_in_bytes  # the others overwrite arguments
    return analysis.argument_size_in_bytes + results + analysis.temp_size_in_bytes


def local(device: Any) -> bool:
    """Whether a device is this process's own."""
    return device.process_index == jax.process_index()


def resident() -> int:
    """Bytes of the process at most; 0 where the system doesn't tell."""
    try:
        import resource
    except ImportError:  # Windows
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
