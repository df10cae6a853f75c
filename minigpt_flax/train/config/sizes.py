"""The sizes of a model at another width. Imports no JAX."""

from __future__ import annotations

from collections.abc import Sequence

from minigpt_flax.errors import UserError
from minigpt_flax.train.config.run_config import RunConfig, flag_of

PROPORTIONAL = ("heads", "kv_heads", "hidden")


def at_width(config: RunConfig, flag: str, first: int, width: int) -> dict[str, int]:
    """Fields of the model at a width: heads keep their size, and the hidden layer of the MLP its proportion.

    Args:
      config: configuration at the first width.
      flag: the flag that asks for the width.
      first: the first width.
      width: the width of the model.

    Raises:
      UserError: a size is not a whole number.
    """
    found = {"width": width}
    for name in PROPORTIONAL:
        size = getattr(config, name)
        if size is None:
            continue
        if size * width % first:
            raise UserError(
                f"{flag}: {size} of {flag_of(name)} at width {first} would be {size * width / first:g} at width "
                f"{width}: give another width, or another {flag_of(name)}"
            )
        found[name] = size * width // first
    return found


def check_widths(widths: Sequence[int]) -> None:
    """Refuses widths that are not at least two, in ascending order.

    Raises:
      UserError: they are not.
    """
    if len(widths) < 2 or list(widths) != sorted(set(widths)):
        raise UserError(f"--widths takes ascending widths such as 64,128,256, got {','.join(map(str, widths))}")
