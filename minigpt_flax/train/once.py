"""Less waiting before the first step: programs that run once are compiled quickly, the step in the background."""

from __future__ import annotations

import contextlib
import threading
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
    """

    def __init__(self, function: Any, *arguments: Any):
        self.function, self.lower = function, function.lower
        # No daemon: an interpreter that ends while a thread compiles aborts. `cli.leave` doesn't wait after Ctrl-C.
        self.thread = threading.Thread(target=self._compile, args=arguments)
        self.thread.start()

    def __call__(self, *arguments: Any) -> Any:
        """Calls it."""
        self.thread.join()
        return self.function(*arguments)

    def _compile(self, *arguments: Any) -> None:
        with contextlib.suppress(Exception):
            self.function.lower(*arguments).compile()
