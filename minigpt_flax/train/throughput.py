"""Throughput of a run: training alone, without compilation, validation and saving; and model FLOPs utilization.

Written to ``speed.json`` in the run's folder whenever training ends or stops.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax

from minigpt_flax.text import counted
from minigpt_flax.train.clock import Clock, quantity, shorten
from minigpt_flax.train.devices import peak_flops

COMPILING = "/jax/core/compile/"  # events of tracing, lowering and compiling, or of reading the compilation cache
CACHE_HIT = "/jax/compilation_cache/cache_hits"


class Compilation:
    """Sums the time that JAX spends on tracing and compilation in this process, while it is entered.

    Attributes:
      seconds: so far.
      cached: number of programs read from the persistent cache.
    """

    def __init__(self):
        self.seconds, self.cached = 0.0, 0

    def __enter__(self) -> Compilation:
        """Starts listening to JAX's events."""
        jax.monitoring.register_event_duration_secs_listener(self._duration)
        jax.monitoring.register_event_listener(self._event)
        return self

    def __exit__(self, *error: Any) -> None:
        """Stops listening."""
        jax.monitoring.unregister_event_duration_listener(self._duration)
        jax.monitoring.unregister_event_listener(self._event)

    def _duration(self, event: str, duration_secs: float, **kwargs: Any) -> None:
        self.seconds += duration_secs if event.startswith(COMPILING) else 0.0

    def _event(self, event: str, **kwargs: Any) -> None:
        self.cached += event == CACHE_HIT


@dataclass(frozen=True)
class Memory:
    """Peak memory of a device.

    Attributes:
      size: bytes.
      source: of the figure.
    """

    size: int
    source: str


@dataclass(frozen=True)
class Speed:
    """Throughput since the run was started or resumed.

    Attributes:
      device: JAX's name of the kind of device.
      devices: number of them.
      dtype: of the inputs of the matrix products.
      tokens_per_step: tokens per step.
      steps: number of timed steps: all except the first and those after a validation.
      seconds: duration of the timed steps.
      compile_seconds: spent on tracing and compiling all programs.
      cached_programs: number of programs read from the compilation cache.
      validation_seconds: spent on validations.
      flops_per_step: FLOPs of the matrix products in a step, forward and backward, with causal attention.
      peak_flops: peak FLOP/s of one device; None if unknown.
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
        """Mean duration of a step; None if no step was timed."""
        return self.seconds / self.steps if self.steps else None

    @property
    def tokens_per_second(self) -> float | None:
        """Training tokens per second; None if no step was timed."""
        return self.tokens_per_step / self.step_seconds if self.step_seconds else None

    @property
    def flops_per_second(self) -> float | None:
        """FLOP/s of the matrix products, over all devices; None if no step was timed."""
        return self.flops_per_step / self.step_seconds if self.step_seconds else None

    @property
    def mfu(self) -> float | None:
        """Model FLOPs utilization: ``flops_per_second`` over the devices' peak; None if unknown."""
        if self.flops_per_second is None or self.peak_flops is None:
            return None
        return self.flops_per_second / (self.peak_flops * self.devices)

    def record(self) -> dict[str, Any]:
        """All figures, for JSON."""
        names = ("step_seconds", "tokens_per_second", "flops_per_second", "mfu")
        return dataclasses.asdict(self) | {name: getattr(self, name) for name in names}

    def lines(self) -> str:
        """Formats three lines of text."""
        cached = f" ({counted(self.cached_programs, 'program')} from the cache)" if self.cached_programs else ""
        around = f"compiling {self.compile_seconds:.1f} s{cached}, validations {self.validation_seconds:.1f} s"
        return f"{self._pace()}\n{around}\nmemory {quantity(self.memory.size, 'B')} ({self.memory.source})"

    def _pace(self) -> str:
        if self.tokens_per_second is None or self.step_seconds is None or self.flops_per_second is None:
            return "too few steps to measure"
        pace = f"{shorten(self.tokens_per_second)} tokens/s, {self.step_seconds * 1e3:.1f} ms per step"
        return f"{pace}; {quantity(self.flops_per_second, 'FLOP/s')}, {self._utilization()}"

    def _utilization(self) -> str:
        if self.mfu is not None:
            return f"MFU {self.mfu:.1%}"
        return "no MFU on a CPU" if self.device == "cpu" else f"MFU unknown for {self.device} in {self.dtype}"


def measure(
    clock: Clock, compilation: Compilation, state: Any, memory: Memory, *, tokens: int, flops: int, dtype: str
) -> Speed:
    """Combines the figures of a run.

    Args:
      clock: has timed the steps.
      compilation: has timed the compilation.
      state: of the training, for its devices.
      memory: see :func:`peak_memory`.
      tokens: per step.
      flops: per step.
      dtype: of the inputs of the matrix products.
    """
    devices = devices_of(state)
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


def devices_of(state: Any) -> list[Any]:
    """Returns the devices that hold a state, sorted."""
    return sorted(jax.tree.leaves(state)[0].sharding.device_set, key=lambda device: device.id)


def peak_memory(state: Any, analyze: Callable[[], Any]) -> Memory:
    """Returns the peak memory of a device, from the best available source.

    Args:
      state: of the training, for its devices.
      analyze: returns XLA's memory analysis of the compiled step, or None.
    """
    peaks = [(device.memory_stats() or {}).get("peak_bytes_in_use") for device in devices_of(state) if is_local(device)]
    reported = [peak for peak in peaks if peak is not None]
    if reported:
        return Memory(max(reported), "peak of the device")
    analysis = analyze()
    if analysis is not None:
        return Memory(planned(analysis), "of a step, by XLA")
    return Memory(peak_resident(), "of the process")


def planned(analysis: Any) -> int:
    """Bytes of arguments, results and temporaries, by XLA's memory analysis of a compiled program."""
    results = analysis.output_size_in_bytes - analysis.alias_size_in_bytes  # donated arguments hold the others
    return analysis.argument_size_in_bytes + results + analysis.temp_size_in_bytes


def is_local(device: Any) -> bool:
    """Whether a device belongs to this process."""
    return device.process_index == jax.process_index()


def peak_resident() -> int:
    """Peak memory of the process in bytes; 0 if the system doesn't report it."""
    try:
        import resource
    except ImportError:  # Windows
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
