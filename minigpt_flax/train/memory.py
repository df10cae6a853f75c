"""Memory: what a run needs at least, what this process can have, and a refusal before anything is computed.

The estimate is a lower bound: a run that it refuses could not have run. It needs no tracing, because tracing itself
takes for ever for absurd sizes.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minigpt_flax.errors import Failed, UserError
from minigpt_flax.model.config import ModelConfig
from minigpt_flax.spec import parse
from minigpt_flax.train.clock import quantity
from minigpt_flax.train.config.mesh import read_mesh
from minigpt_flax.train.config.run_config import RunConfig, flag_of

GATED = ("swiglu",)  # MLPs with three matrices
CUTTING = ("fsdp", "tensor")  # axes of a mesh that divide parameters
ADDRESSES = 1800 << 20  # bytes of address space; a run of two cores and a few parameters takes 1.9 GB
WIDTHS = {"float32": 4, "bfloat16": 2}  # bytes of a number


@dataclass(frozen=True)
class Limit:
    """Memory that there is.

    Attributes:
      size: bytes; infinite if unknown.
      owner: what has it, for error messages.
      shared: whether all devices of this process share it.
    """

    size: int | float
    owner: str
    shared: bool = True


@dataclass(frozen=True)
class Need:
    """Memory that something needs at least.

    Attributes:
      size: bytes.
      what: what it is for.
      fields: fields of the configuration that make it large, the first the most.
    """

    size: int | float
    what: str
    fields: tuple[str, ...]


def limit() -> Limit:
    """The memory of one accelerator, or on a CPU that of the host."""
    import jax

    stats = None if jax.default_backend() == "cpu" else jax.local_devices()[0].memory_stats()
    if stats and "bytes_limit" in stats:
        return Limit(stats["bytes_limit"], f"one {jax.local_devices()[0].device_kind}", shared=False)
    return host_limit() if jax.default_backend() == "cpu" else Limit(math.inf, "the device", shared=False)


def host_limit() -> Limit:
    """What this process can have of the host's memory: all of it with swap, or less by a cgroup or ``ulimit``."""
    limits = [Limit(_physical(), "this machine")]
    limits += [Limit(most, "the cgroup of this process") for most in _cgroups()]
    limits += [Limit(left, f"ulimit {flag}") for flag, left in _ulimits()]
    return min(limits, key=lambda one: one.size)


def require_address_space() -> None:
    """Refuse a ``ulimit -v`` under which JAX aborts without a word.

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
            f"ulimit -v allows {quantity(most, 'B')} of address space, and JAX with its threads takes "
            f"{quantity(ADDRESSES, 'B')} at least: raise it, or set ulimit -v unlimited"
        )


def require_weights(config: RunConfig, vocab_size: int) -> None:
    """Refuse a model whose parameters don't fit into memory; to be called before it is traced.

    Args:
      config: the run.
      vocab_size: rows of the embedding.

    Raises:
      UserError: they don't fit; the message has the figure and says what to lower.
    """
    have, parts = limit(), weights(config, vocab_size)
    size = sum(parts.values()) * _bytes_each(config) / _shares(config)
    refuse(Need(size, "the parameters", FIELDS[max(parts, key=lambda name: parts[name])]), config, have)


def require_training(
    config: RunConfig, vocab_size: int = 1, state: int | None = None, devices: int | None = None
) -> None:
    """Refuse a run that doesn't fit into memory.

    Args:
      config: the run.
      vocab_size: rows of the embedding, if the configuration doesn't say; 1 where they aren't known yet.
      state: bytes of parameters and optimizer state on one device; None where they aren't known yet.
      devices: of the run, over all processes; None takes all.

    Raises:
      UserError: it doesn't fit; the message has the figure and says what to lower.
    """
    import jax

    processes, devices = jax.process_count(), devices or jax.device_count()
    have, parts = limit(), weights(config, config.vocab_size or vocab_size)
    held = sum(parts.values()) * _bytes_each(config) / max(_shares(config), processes)
    gradients = held if _all_gradients(config) else 0
    kept, what = held, "the parameters"
    if state is not None:
        kept, what = state * (devices // processes if have.shared else 1), "the parameters and the optimizer state"
    fields = FIELDS[max(parts, key=lambda name: parts[name])]
    refuse(Need(kept + gradients, f"{what} with the gradients" if gradients else what, fields), config, have)
    stored = activations(config) / (processes if have.shared else devices)
    refuse(Need(kept + stored, f"{what} with the activations of a micro-batch", ACTIVATIONS), config, have)
    batch = config.step_sequences * (config.context + 1) * 4 / processes
    refuse(Need(batch, "the tokens of one step", ("batch_size", "accum", "context")), config, host_limit())


def refuse(need: Need, config: Any, have: Limit) -> None:
    """Refuse what doesn't fit.

    Raises:
      UserError: ``need`` is more than there is.
    """
    if need.size > have.size:
        values = ((name, getattr(config, name)) for name in need.fields)
        said = " ".join(f"{flag_of(name)} {value:,}" for name, value in values if value is not None)
        raise UserError(
            f"{said}: {need.what} take {quantity(need.size, 'B')} at least, and {have.owner} has "
            f"{quantity(have.size, 'B')}: lower {' or '.join(map(flag_of, need.fields))}"
        )


def require_planned(analysis: Any) -> None:
    """Refuse to run a compiled step that doesn't fit.

    Args:
      analysis: XLA's, of one device; None if there is none.

    Raises:
      Failed: it doesn't fit.
    """
    from minigpt_flax.train.throughput import planned

    have = limit()
    if analysis is not None and (size := planned(analysis)) > have.size:
        raise Failed(
            f"a step takes {quantity(size, 'B')} of memory, and {have.owner} has {quantity(have.size, 'B')}: lower "
            "--batch-size (and raise --accum), or take --remat full"
        )


def require_cache(model: ModelConfig, rows: int) -> None:
    """Refuse to continue so many texts that their KV cache doesn't fit.

    Raises:
      UserError: it doesn't.
    """
    each = 2 * model.layers * model.key_value_heads * model.head_size * model.context * WIDTHS[model.dtype]
    have = limit()
    if each * rows > have.size:
        raise UserError(
            f"--num {rows:,}: the KV cache takes {quantity(each * rows, 'B')}, and {have.owner} has "
            f"{quantity(have.size, 'B')}: lower --num to at most {int(have.size // each):,}"
        )


def require_runs(state: int, runs: int) -> None:
    """Refuse to train so many runs at once that their parameters and optimizer states don't fit.

    Args:
      state: bytes of one run.
      runs: trained at the same time.

    Raises:
      UserError: they don't fit.
    """
    have = limit()
    if state * runs > have.size:
        raise UserError(
            f"{runs:,} runs at once take {quantity(state * runs, 'B')} of parameters and optimizer state, and "
            f"{have.owner} has {quantity(have.size, 'B')}: leave out --vmap, or lower --seeds"
        )


ACTIVATIONS = ("batch_size", "context", "width", "layers")
FIELDS = {
    "embedding": ("vocab_size", "width"),
    "positions": ("context", "width"),
    "attention": ("width", "layers"),
    "mlp": ("width", "hidden", "layers"),
}


def weights(config: RunConfig | ModelConfig, vocab_size: int) -> dict[str, int]:
    """Entries of the weight matrices, by part of the model; norms and biases are left out.

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
    """Bytes that the forward pass of a micro-batch leaves for the backward pass, whatever is recomputed.

    That is the input of every block. A GPU's compiler may recompute those too, but not the first.
    """
    import jax

    layers = config.layers if jax.default_backend() == "cpu" else 1
    return config.batch_size * config.context * config.width * layers * WIDTHS.get(parse(config.dtype, "dtype").name, 2)


def _all_gradients(config: RunConfig) -> bool:
    """Whether all gradients must exist at the same time: to add them up, or to take their norm."""
    return config.accum > 1 or parse(config.clip, "clip").name == "clip_by_norm"


def _bytes_each(config: RunConfig) -> int:
    """Bytes of a parameter."""
    return 2 if "params" in parse(config.dtype, "dtype").keywords else 4


def _shares(config: RunConfig) -> int:
    """Among how many devices the parameters are divided."""
    sizes = read_mesh(config.mesh) if config.mesh is not None else {}
    return math.prod(sizes.get(axis, 1) for axis in CUTTING)


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
    """Bytes that the control groups of this process allow, of version 2 and 1."""
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
    """What ``ulimit`` leaves, with its flag."""
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
