"""How devices are arranged: ``--mesh data=4,tensor=2``, read and checked. Imports no JAX.

Each axis says what is cut along it and among how many devices; what an axis doesn't cut, its devices hold whole.
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
SMALL = 1 << 25  # parameters, of which every core of a machine may hold a copy
PARALLEL = ("jit", "pmap")


def read_mesh(text: str) -> dict[str, int]:
    """Axes and their sizes, as typed.

    Raises:
      UserError: it isn't AXIS=DEVICES,..., or there is no such axis.

    >>> read_mesh("data=4,tensor=2")
    {'data': 4, 'tensor': 2}
    """
    sizes: dict[str, int] = {}
    for part in text.split(","):
        name, _, number = (piece.strip() for piece in part.partition("="))
        if name not in AXES:
            known = "; ".join(f"{axis} cuts {what}" for axis, what in AXES.items())
            raise UserError(f"--mesh {text!r} has no axis {name!r}{nearest(name, AXES)}; the axes: {known}")
        if not re.fullmatch("0*[1-9][0-9]{0,5}", number) or name in sizes:
            raise UserError(f"--mesh {text!r} is not AXIS=DEVICES,... with each axis once: write data=4,tensor=2")
        sizes[name] = int(number)
    return sizes


def spell_mesh(sizes: Mapping[str, int]) -> str:
    """A mesh as it is typed."""
    return ",".join(f"{name}={size}" for name, size in sizes.items())


def check_parallel(parallel: str, mesh: str | None) -> None:
    """Refuses ways to run that there aren't.

    Raises:
      UserError: an unknown word or axis, or ``pmap`` with more than data parallelism.
    """
    if parallel not in PARALLEL:
        raise UserError(f"--parallel {parallel!r} is not one of: {', '.join(PARALLEL)}{nearest(parallel, PARALLEL)}")
    axes = [] if mesh is None else [name for name, size in read_mesh(mesh).items() if name != "data"]
    if parallel == "pmap" and axes:
        raise UserError(
            f"--parallel pmap replicates everything but the batch and has no axis {axes[0]!r}: write --mesh data=N, or "
            "take --parallel jit"
        )


def choose_mesh(text: str | None, batch_size: int, devices: int, processes: int = 1) -> dict[str, int]:
    """The mesh of a run: the one asked for, or all the devices that the batch divides among.

    Args:
      text: as typed; None leaves the choice.
      batch_size: sequences that are worked on at a time.
      devices: how many there are.
      processes: among which the devices lie; each must take part.

    Raises:
      UserError: too few or too many devices, or a batch that doesn't divide among them.
    """
    if text is None:
        shares = math.gcd(batch_size, devices) if processes == 1 else devices
        sizes = {"data": shares}
    else:
        sizes = read_mesh(text)
    total, shares = math.prod(sizes.values()), batch_shares(sizes)
    name = f"--mesh {spell_mesh(sizes)}"
    if total > devices:
        fits = f"give a --mesh whose sizes multiply to at most {devices}"
        raise UserError(f"{name} takes {total} devices and there are {devices}: {fits}")
    if processes > 1 and total != devices:
        raise UserError(f"{name} takes {total} of {devices} devices; {processes} processes share them all")
    if batch_size % shares:
        below, above = batch_size // shares * shares, -(-batch_size // shares) * shares
        near = above if below == 0 else f"{below} or {above}"
        raise UserError(f"--batch-size {batch_size} does not divide among the {shares} shares of {name}: take {near}")
    return sizes


def worthwhile(devices: int, *, cores: bool, parameters: int) -> int:
    """How many of the devices a run takes if it isn't told.

    Those that are cores of one machine share its memory, and one of them can use all the cores for a large product.

    Args:
      devices: how many there are.
      cores: whether they are cores.
      parameters: of the model.

    >>> worthwhile(8, cores=True, parameters=10_000_000), worthwhile(8, cores=True, parameters=124_000_000)
    (8, 1)
    """
    return 1 if cores and parameters > SMALL else devices


def batch_shares(sizes: Mapping[str, int]) -> int:
    """Into how many parts a mesh cuts the batch.

    >>> batch_shares({"data": 2, "fsdp": 2, "tensor": 4})
    4
    """
    return math.prod(size for name, size in sizes.items() if name in BATCH_AXES)


def check_tensor(size: int, **parts: int) -> None:
    """Refuses a tensor axis that would cut a head in two.

    Args:
      size: of the axis.
      **parts: heads, key and value heads, hidden features: what is dealt out whole.

    Raises:
      UserError: one doesn't divide; names it.
    """
    for name, count in parts.items():
        if count % size:
            common = divisors(math.gcd(*parts.values()))
            fits = ", ".join(map(str, nearest_numbers(size, common, LISTED)))
            raise UserError(f"tensor={size} does not divide {name}={count}: a tensor axis that fits is {fits}")
