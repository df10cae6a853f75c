"""``--mesh data=4,tensor=2``: the axes of the device mesh and their sizes. Imports no JAX.

An axis shards some arrays among its devices; all other arrays are replicated along it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

from minigpt_flax.errors import UserError, nearest
from minigpt_flax.model.config import LISTED, divisors, nearest_numbers

AXES = {
    "data": "the batch",
    "zero": "the batch and the optimizer's state (ZeRO-1)",
    "fsdp": "the batch, the parameters and the optimizer's state",
    "tensor": "the matrices of attention and MLP, head by head and feature by feature",
}
BATCH_AXES = ("data", "zero", "fsdp")
SMALL = 1 << 25  # parameters; up to this, every core of a machine may hold a copy of the model
PARALLEL = ("jit", "pmap")


def read_mesh(text: str) -> dict[str, int]:
    """Parses the axes and their sizes.

    Raises:
      UserError: it isn't of the form AXIS=DEVICES,..., or an axis is unknown.

    >>> read_mesh("data=4,tensor=2")
    {'data': 4, 'tensor': 2}
    """
    sizes: dict[str, int] = {}
    for part in text.split(","):
        name, _, number = (piece.strip() for piece in part.partition("="))
        if name not in AXES:
            known = "; ".join(f"{axis} shards {arrays}" for axis, arrays in AXES.items())
            raise UserError(f"--mesh {text!r}: no axis is called {name!r}{nearest(name, AXES)}; there are: {known}")
        if not re.fullmatch("0*[1-9][0-9]{0,5}", number) or name in sizes:
            raise UserError(f"--mesh {text!r} is not AXIS=DEVICES,... with each axis once: write data=4,tensor=2")
        sizes[name] = int(number)
    return sizes


def spell_mesh(sizes: Mapping[str, int]) -> str:
    """Formats a mesh as ``--mesh`` takes it."""
    return ",".join(f"{name}={size}" for name, size in sizes.items())


def check_parallel(parallel: str, mesh: str | None) -> None:
    """Checks ``--parallel`` and ``--mesh``.

    Raises:
      UserError: an unknown name or axis, or ``pmap`` with an axis other than ``data``.
    """
    if parallel not in PARALLEL:
        raise UserError(f"--parallel {parallel!r} is not one of: {', '.join(PARALLEL)}{nearest(parallel, PARALLEL)}")
    axes = [] if mesh is None else [name for name, size in read_mesh(mesh).items() if name != "data"]
    if parallel == "pmap" and axes:
        raise UserError(
            f"--parallel pmap replicates everything except the batch and has no axis {axes[0]!r}: use --mesh data=N or "
            "--parallel jit"
        )


def choose_mesh(text: str | None, batch_size: int, devices: int, processes: int = 1) -> dict[str, int]:
    """Returns the mesh of a run: the requested one, or data parallelism over as many devices as divide the batch.

    >>> choose_mesh(None, batch_size=12, devices=10)
    {'data': 6}

    Args:
      text: value of ``--mesh``; None for the default.
      batch_size: sequences per micro-batch.
      devices: number of devices.
      processes: number of processes that own the devices; each must take part.

    Raises:
      UserError: too few or too many devices, or a batch size that the mesh doesn't divide.
    """
    if text is None:
        shares = max(n for n in divisors(batch_size) if n <= devices) if processes == 1 else devices
        sizes = {"data": shares}
    else:
        sizes = read_mesh(text)
    total, shares = math.prod(sizes.values()), batch_shares(sizes)
    name = f"--mesh {spell_mesh(sizes)}"
    if total > devices:
        fits = f"give a --mesh whose sizes multiply to at most {devices}"
        raise UserError(f"{name} needs {total} devices, but there are {devices}: {fits}")
    if processes > 1 and total != devices:
        raise UserError(f"{name} uses {total} of {devices} devices, but {processes} processes must use them all")
    if batch_size % shares:
        below, above = batch_size // shares * shares, -(-batch_size // shares) * shares
        near = above if below == 0 else f"{below} or {above}"
        raise UserError(f"--batch-size {batch_size} is not a multiple of the {shares} shards of {name}: use {near}")
    return sizes


def worthwhile(devices: int, *, cores: bool, parameters: int) -> int:
    """Number of devices that a run uses by default.

    Devices that are CPU cores share the machine's memory, and one of them can use all cores for a large matrix product.

    Args:
      devices: number of devices.
      cores: whether they are CPU cores.
      parameters: of the model.

    >>> worthwhile(8, cores=True, parameters=10_000_000), worthwhile(8, cores=True, parameters=124_000_000)
    (8, 1)
    """
    return 1 if cores and parameters > SMALL else devices


def batch_shares(sizes: Mapping[str, int]) -> int:
    """Number of shards of the batch.

    >>> batch_shares({"data": 2, "fsdp": 2, "tensor": 4})
    4
    """
    return math.prod(size for name, size in sizes.items() if name in BATCH_AXES)


def check_tensor(size: int, **parts: int) -> None:
    """Refuses a tensor axis that would split an attention head.

    Args:
      size: of the axis.
      **parts: numbers of heads, key and value heads, and hidden features.

    Raises:
      UserError: the size doesn't divide one of them; names it.
    """
    for name, count in parts.items():
        if count % size:
            common = divisors(math.gcd(*parts.values()))
            fits = ", ".join(map(str, nearest_numbers(size, common, LISTED)))
            raise UserError(f"tensor={size} does not divide {name}={count}: possible sizes are {fits}")
