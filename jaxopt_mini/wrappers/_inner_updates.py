"""The number of updates of the inner optimizer: the length of a schedule inside a wrapper."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

Wrapper = TypeVar("Wrapper", bound=Callable[..., Any])


def counts_inner_updates(count: Callable[..., int]) -> Callable[[Wrapper], Wrapper]:
    """Decorator for a wrapper whose inner optimizer doesn't update at every call.

    Args:
      count: ``(calls, **keywords) -> updates``, with the keywords of the wrapper.
    """

    def mark(wrapper: Any) -> Any:
        wrapper.inner_updates = count
        return wrapper

    return mark


def inner_updates(wrapper: Callable[..., Any], calls: int, **keywords: Any) -> int:
    """Returns the number of updates that the inner optimizer makes in ``calls`` calls of the wrapped one.

    A schedule inside the wrapper counts inner updates and should be built for this many steps. Steps that a wrapper
    skips because of their values (NaN, spikes) cannot be known in advance and are counted as updates.

    Args:
      wrapper: a function of ``WRAPPERS`` or your own; it updates at every call unless decorated with
        :func:`counts_inner_updates`.
      calls: number of calls of ``update``.
      **keywords: the keywords that the wrapper is called with, without the inner optimizer.

    >>> from jaxopt_mini import accumulate, lookahead
    >>> inner_updates(accumulate, 1000, steps=8), inner_updates(lookahead, 1000, sync_period=5)
    (125, 1000)
    """
    count = getattr(wrapper, "inner_updates", None)
    return calls if count is None else count(calls, **keywords)
