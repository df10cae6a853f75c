"""Compiled functions: the step, compiled in the background, and programs that run once, compiled without optimizing."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import Mesh

# By the kind of device. Drawing GPT's weights takes four times as long to compile with LLVM's optimizations as without,
# and no longer to run.
UNOPTIMIZED = {"cpu": {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}}


def run_unoptimized(function: Any, *arguments: Any) -> Any:
    """Calls a function once; one made by ``jax.jit`` is compiled quickly rather than well."""
    if not hasattr(function, "lower"):
        return function(*arguments)
    options = UNOPTIMIZED.get(jax.default_backend())
    return function.lower(*arguments).compile(compiler_options=options)(*arguments)


class CompiledStep:
    """A function made by ``jax.jit`` or ``jax.pmap``, as a run calls it.

    Args:
      function: the function; to be lowered or compiled in the background it needs a method ``lower``.
      block: wait for the results of every call; see :func:`shares_threads`.
      finish: applied to the results.
    """

    def __init__(self, function: Any, *, block: bool = False, finish: Callable[[Any], Any] = lambda results: results):
        self.function, self.finish = function, finish
        self.lower: Any = getattr(function, "lower", None)
        self.block = block
        self._check: Callable[[Any], None] = lambda analysis: None
        self._analysis: Any = None
        self._thread: threading.Thread | None = None

    def compile_in_background(self, *arguments: Any, check: Callable[[Any], None]) -> None:
        """Begins to compile; the first call waits for the end, and raises what is wrong with the function.

        Args:
          *arguments: as the function will be called, arrays or their shapes.
          check: called with XLA's memory analysis of the program before the first call; may raise.
        """
        if self._thread is None:
            self._check = check
            # No daemon: an interpreter that ends while a thread compiles aborts. `cli.entry.leave` doesn't wait.
            self._thread = threading.Thread(target=self._compile, args=arguments)
            self._thread.start()

    def _compile(self, *arguments: Any) -> None:
        with contextlib.suppress(Exception):
            self._analysis = self.function.lower(*arguments).compile().memory_analysis()

    def __call__(self, *arguments: Any) -> Any:
        """Calls the function."""
        if self._thread is not None:
            self._thread.join()
            self._thread, analysis = None, self._analysis
            self._check(analysis)
        results = self.finish(self.function(*arguments))
        return jax.block_until_ready(results) if self.block else results


def shares_threads(mesh: Mesh) -> bool:
    """Whether a function over these devices must be waited for.

    Several CPU devices share the threads of one pool: programs that run ahead take the threads that others need to meet
    in a sum over devices, and all of them would wait forever.
    """
    return mesh.size > 1 and mesh.devices.flat[0].platform == "cpu"
