"""Memory checks: refuse a run that needs more memory than there is, before anything is computed.

The estimate is a lower bound: a run that is refused could not have run. It needs no tracing, which itself never ends
for absurd sizes.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minigpt_flax.errors import TrainingFailed, UserError
from minigpt_flax.model.config import ModelConfig
from minigpt_flax.phases import sizes_of
from minigpt_flax.train.clock import quantity
from minigpt_flax.train.config.mesh import read_mesh
from minigpt_flax.train.config.run_config import RunConfig, flag_of

GATED = ("swiglu",)  # MLPs with three matrices
PARAMETER_AXES = ("fsdp", "tensor")  # mesh axes that shard parameters
ADDRESSES = 1800 << 20  # bytes of address space; a tiny run on two cores takes 1.9 GB
WIDTHS = {"float32": 4, "bfloat16": 2}  # bytes of a number


@dataclass(frozen=True)
class Limit:
    """Available memory.

    Attributes:
      size: bytes; infinite if unknown.
      owner: device or limit that has this memory, for error messages.
      shared: whether all devices of this process share it.
    """

    size: int | float
    owner: str
    shared: bool = True


@dataclass(frozen=True)
class Need:
    """A lower bound of required memory.

    Attributes:
      size: bytes.
      what: its contents, for error messages.
      fields: fields of the configuration that make it large, the most important first.
    """

    size: int | float
    what: str
    fields: tuple[str, ...]


def limit() -> Limit:
    """Returns the memory of one accelerator, or on a CPU that of the host."""
    import jax

    stats = None if jax.default_backend() == "cpu" else jax.local_devices()[0].memory_stats()
    if stats and "bytes_limit" in stats:
        return Limit(stats["bytes_limit"], f"one {jax.local_devices()[0].device_kind}", shared=False)
    return host_limit() if jax.default_backend() == "cpu" else Limit(math.inf, "the device", shared=False)


def host_limit() -> Limit:
    """Returns the host memory available to this process: RAM and swap, or the limit of a cgroup or ``ulimit``."""
    limits = [Limit(_physical(), "this machine")]
    limits += [Limit(most, "the cgroup of this process") for most in _cgroups()]
    limits += [Limit(left, f"ulimit {flag}") for flag, left in _ulimits()]
    return min(limits, key=lambda one: one.size)


def require_address_space() -> None:
    """Refuses a ``ulimit -v`` under which JAX aborts without a message.

    Raises:
      UserError: the limit is too low.
    """
    try:
        import resource
    except ImportError:  # Windows
        return
    most = resource.getrlimit(resource.RLIMIT_AS)[0]
    if most != resource.RLIM_INFINITY and most < ADDRESSES:
        raise UserError(
            f"ulimit -v allows {quantity(most, 'B')} of address space, but JAX and its threads need at least "
            f"{quantity(ADDRESSES, 'B')}: raise it, or set ulimit -v unlimited"
        )


def require_weights(config: RunConfig, vocab_size: int) -> None:
    """Refuses a model whose parameters don't fit into memory; to be called before tracing.

    Args:
      config: the run.
      vocab_size: rows of the embedding.

    Raises:
      UserError: they don't fit; names the size and the flags to lower.
    """
    have, parts = limit(), weights(config, vocab_size)
    size = sum(parts.values()) * _bytes_each(config) / _shares(config)
    refuse(Need(size, "the parameters", FIELDS[max(parts, key=lambda name: parts[name])]), config, have)


def require_training(
    config: RunConfig, vocab_size: int = 1, state: int | None = None, devices: int | None = None
) -> None:
    """Refuses a run that doesn't fit into memory.

    Args:
      config: the run.
      vocab_size: rows of the embedding, if the configuration doesn't set them; 1 while they are unknown.
      state: bytes of parameters and optimizer state on one device; None while they are unknown.
      devices: of the run, over all processes; None for all.

    Raises:
      UserError: it doesn't fit; names the size and the flags to lower.
    """
    import jax

    processes, devices = jax.process_count(), devices or jax.device_count()
    have, parts = limit(), weights(config, config.vocab_size or vocab_size)
    params = sum(parts.values()) * _bytes_each(config) / max(_shares(config), processes)
    gradients = params if _all_gradients(config) else 0
    base, what = params, "the parameters"
    if state is not None:
        base, what = state * (devices // processes if have.shared else 1), "the parameters and the optimizer state"
    fields = FIELDS[max(parts, key=lambda name: parts[name])]
    refuse(Need(base + gradients, f"{what} with the gradients" if gradients else what, fields), config, have)
    stored = activations(config) / (processes if have.shared else devices)
    refuse(Need(base + stored, f"{what} with the activations of a micro-batch", ACTIVATIONS), config, have)
    largest = config.phases.largest
    batch = largest.step_sequences * (largest.seq_len + 1) * 4 / processes
    refuse(Need(batch, "the tokens of one step", ("batch_size", "accum", "context")), config, host_limit())


def refuse(need: Need, config: Any, have: Limit) -> None:
    """Refuses a need that exceeds the limit.

    Raises:
      UserError: it does.
    """
    if need.size > have.size:
        values = ((name, getattr(config, name)) for name in need.fields)
        flags = " ".join(f"{flag_of(name)} {value:,}" for name, value in values if value is not None)
        raise UserError(
            f"{flags}: {need.what} need at least {quantity(need.size, 'B')}, but {have.owner} has "
            f"{quantity(have.size, 'B')}: lower {' or '.join(map(flag_of, need.fields))}"
        )


def require_planned(analysis: Any) -> None:
    """Refuses to run a compiled step that doesn't fit into memory.

    Args:
      analysis: XLA's memory analysis of one device; None if unavailable.

    Raises:
      TrainingFailed: it doesn't fit.
    """
    from minigpt_flax.train.throughput import planned

    have = limit()
    if analysis is not None and (size := planned(analysis)) > have.size:
        raise TrainingFailed(
            f"a step needs {quantity(size, 'B')} of memory, but {have.owner} has {quantity(have.size, 'B')}: lower "
            "--batch-size (and raise --accum), or use --remat full"
        )


def require_cache(model: ModelConfig, rows: int) -> None:
    """Refuses to generate so many texts at once that their KV cache doesn't fit into memory.

    Raises:
      UserError: it doesn't fit.
    """
    each = 2 * model.layers * model.key_value_heads * model.head_size * model.context * WIDTHS[model.dtype]
    have = limit()
    if each * rows > have.size:
        raise UserError(
            f"--num {rows:,}: the KV cache needs {quantity(each * rows, 'B')}, but {have.owner} has "
            f"{quantity(have.size, 'B')}: lower --num to at most {int(have.size // each):,}"
        )


def require_runs(state: int, runs: int) -> None:
    """Refuses to train so many runs at once that their parameters and optimizer states don't fit into memory.

    Args:
      state: bytes of one run.
      runs: number of runs trained at once.

    Raises:
      UserError: they don't fit.
    """
    have = limit()
    if state * runs > have.size:
        raise UserError(
            f"{runs:,} runs at once need {quantity(state * runs, 'B')} for parameters and optimizer states, but "
            f"{have.owner} has {quantity(have.size, 'B')}: omit --vmap, or lower --seeds"
        )


ACTIVATIONS = ("batch_size", "context", "width", "layers")
FIELDS = {
    "embedding": ("vocab_size", "width"),
    "positions": ("context", "width"),
    "attention": ("width", "layers"),
    "mlp": ("width", "hidden", "layers"),
}


def weights(config: RunConfig | ModelConfig, vocab_size: int) -> dict[str, int]:
    """Number of weights by part of the model, without norms and biases.

    >>> weights(ModelConfig(vocab_size=65), 65)
    {'embedding': 8320, 'positions': 8192, 'attention': 262144, 'mlp': 524288}
    """
    width, gated = config.width, config.mlp in GATED
    keys = (config.kv_heads or config.heads) * (width // config.heads)
    hidden = config.hidden or (8 * width // 3 if gated else 4 * width)
    return {
        "embedding": vocab_size * width * (1 if config.tie_head else 2),
        "positions": config.context * width * (config.position == "learned"),
        "attention": config.layers * width * 2 * (width + keys),
        "mlp": config.layers * width * hidden * (3 if gated else 2),
    }


def activations(config: RunConfig) -> int:
    """Bytes that the forward pass of a micro-batch stores for the backward pass, even with activation checkpointing.

    That is the input of every block. The GPU compiler may recompute those too, except the first.
    """
    import jax

    layers = config.layers if jax.default_backend() == "cpu" else 1
    tokens = max(phase.batch_size * phase.seq_len for phase in config.phases)
    return tokens * config.width * layers * WIDTHS.get(config.dtype.name, 2)


def _all_gradients(config: RunConfig) -> bool:
    """Whether all gradients must exist at the same time: for gradient accumulation, or for their norm."""
    return max(sizes_of(config.accum)) > 1 or config.clip.name == "clip_by_norm"


def _bytes_each(config: RunConfig) -> int:
    """Bytes per parameter."""
    return 2 if "params" in config.dtype.keywords else 4


def _shares(config: RunConfig) -> int:
    """Number of devices among which the parameters are sharded."""
    sizes = read_mesh(config.mesh) if config.mesh is not None else {}
    return math.prod(sizes.get(axis, 1) for axis in PARAMETER_AXES)


def _physical() -> int | float:
    """Bytes of RAM and swap."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        table = {name: int(rest.split()[0]) << 10 for name, _, rest in (line.partition(":") for line in lines)}
        return table["MemTotal"] + table.get("SwapTotal", 0)
    except (OSError, ValueError, KeyError, IndexError):
        pass
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if sys.platform != "darwin" else math.inf
    except (AttributeError, ValueError, OSError):  # Windows
        return math.inf


def _cgroups(root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> Iterator[int | float]:
    """Yields the memory limits of this process's control groups (version 2 and 1), in bytes."""
    try:
        entries = [line.split(":", 2) for line in own.read_text().splitlines()]
    except OSError:
        return
    for _, controllers, path in (entry for entry in entries if len(entry) == 3):
        version2 = controllers == ""
        base, name = (root, "memory.max") if version2 else (root / "memory", "memory.limit_in_bytes")
        if version2 or "memory" in controllers.split(","):
            folder = Path(path.lstrip("/"))
            for part in (folder, *folder.parents):
                text = _text(base / part / name)
                if text.isdecimal():
                    yield int(text)


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def _ulimits() -> Iterator[tuple[str, int | float]]:
    """Yields the flags of ``ulimit`` and the bytes that each leaves."""
    try:
        import resource
    except ImportError:  # Windows
        return
    used = [int(number) * os.sysconf("SC_PAGE_SIZE") for number in _text(Path("/proc/self/statm")).split()]
    addresses, data = (used[0], used[5]) if len(used) > 5 else (0, 0)
    for flag, which, taken in (("-v", resource.RLIMIT_AS, addresses), ("-d", resource.RLIMIT_DATA, data)):
        most = resource.getrlimit(which)[0]
        if most != resource.RLIM_INFINITY:
            yield flag, max(0, most - taken)
