"""How many updates the inner optimizer makes: what a schedule under a wrapper is bound to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

Wrapper = TypeVar("Wrapper", bound=Callable[..., Any])


def counts_inner_updates(count: Callable[..., int]) -> Callable[[Wrapper], Wrapper]:
    """Decorates a wrapper whose inner optimizer doesn't update at every call.

    Args:
      count: ``(calls, **keywords) -> updates``, with the keywords of the wrapper.
    """

    def mark(wrapper: Any) -> Any:
        wrapper.inner_updates = count
        return wrapper

    return mark


def inner_updates(wrapper: Callable[..., Any], calls: int, **keywords: Any) -> int:
    """The number of updates that the inner optimizer makes in ``calls`` calls of a wrapper.

    A schedule inside the wrapper counts these, so it should be built for as many steps. Updates that a wrapper skips
    for their values (NaN, spikes) aren't known beforehand and count as made.

    Args:
      wrapper: a function of ``WRAPPERS``, or any other one; without :func:`counts_inner_updates`, every call updates.
      calls: number of calls of ``update``.
      **keywords: those that the wrapper is called with, besides the inner optimizer.

    >>> from jaxopt_mini import accumulate, lookahead
    >>> inner_updates(accumulate, 1000, steps=8), inner_updates(lookahead, 1000, sync_period=5)
    (125, 1000)
    """
    count = getattr(wrapper, "inner_updates", None)
    return calls if count is None else count(calls, **keywords)
