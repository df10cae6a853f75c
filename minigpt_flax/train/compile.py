"""Less waiting before the first step: programs that run once are compiled quickly, the step in the background."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from typing import Any

import jax

# By the kind of device. Drawing GPT's weights takes four times as long to compile with LLVM's optimisations as without,
# and no longer to run.
QUICK = {"cpu": {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}}


def call_once(function: Any, *arguments: Any) -> Any:
    """Calls a function made by ``jax.jit``, compiled quickly rather than well."""
    options = QUICK.get(jax.default_backend())
    return function.lower(*arguments).compile(compiler_options=options)(*arguments)


class Ahead:
    """A function made by ``jax.jit`` that begins to be compiled in the background; its first call waits for that.

    What is wrong with the function, that call raises.

    Args:
      function: the function.
      *arguments: as it will be called, arrays or their shapes.
      check: is given XLA's memory analysis of the program before the first call, and may refuse it.
    """

    def __init__(self, function: Any, *arguments: Any, check: Callable[[Any], None] = lambda analysis: None):
        self.function, self.lower, self.check = function, function.lower, check
        self.analysis: Any = None
        # No daemon: an interpreter that ends while a thread compiles aborts. `cli.leave` doesn't wait after Ctrl-C.
        self.thread = threading.Thread(target=self._compile, args=arguments)
        self.thread.start()

    def __call__(self, *arguments: Any) -> Any:
        """Calls it."""
        if self.thread.is_alive() or self.analysis is not None:
            self.thread.join()
            self.check(self.analysis)
            self.analysis = None
        return self.function(*arguments)

    def _compile(self, *arguments: Any) -> None:
        with contextlib.suppress(Exception):
            self.analysis = self.function.lower(*arguments).compile().memory_analysis()
