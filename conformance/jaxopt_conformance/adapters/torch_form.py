"""Optimizers with the interface of ``torch.optim``."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from jaxopt_conformance.adapters import imported
from jaxopt_conformance.recordings import Tree


class from_torch:  # noqa: N801
    """An optimizer with the interface of ``torch.optim.Optimizer``.

    Kernels are recorded as (in, out), and PyTorch holds them as (out, in): they are transposed on the way. bfloat16
    inside an optimizer is replaced by float32, as in the recordings.

    Args:
      optimizer_class: a class, or a function of the list of parameters.
      keywords: its further arguments.
    """

    def __init__(self, optimizer_class: Callable[..., Any], **keywords: Any):
        self._build = lambda leaves: optimizer_class(list(leaves.values()), **keywords)
        self._dtype, self._rates = "float32", None

    @classmethod
    def from_leaves(
        cls,
        build: Callable[[dict[str, Any]], Any],
        dtype: str = "float32",
        rates: Iterable[float] | None = None,
    ) -> from_torch:
        """An optimizer that is built from a dict of named parameters, for parameter groups.

        Args:
          build: makes the optimizer.
          dtype: of the parameters.
          rates: the learning rate of each step, set in every group as a scheduler does.
        """
        self = cls.__new__(cls)
        self._build, self._dtype, self._rates = build, dtype, rates
        return self

    def init(self, params: Tree) -> Any:
        """The parameters, the optimizer that holds them, and the learning rates to come."""
        torch = imported("torch")

        torch.manual_seed(0)
        leaves = {
            name: torch.nn.Parameter(torch.from_numpy(_turned(name, p).astype(self._dtype)))
            for name, p in params.items()
        }
        with in_float32():
            optimizer = self._build(leaves)
            getattr(optimizer, "train", lambda: None)()  # the mode in which schedule-free classes step
        return leaves, optimizer, iter(() if self._rates is None else self._rates)

    def step(self, params: Tree, grads: Tree, state: Any) -> tuple[Tree, Any]:
        """One step; the parameters are those that the optimizer holds."""
        torch = imported("torch")

        leaves, optimizer, rates = state
        for rate in itertools.islice(rates, 1):
            for group in optimizer.param_groups:
                group["lr"] = float(rate)
        for name, leaf in leaves.items():
            leaf.grad = torch.from_numpy(_turned(name, grads[name]).astype(self._dtype))
        with in_float32():
            optimizer.step()
        return {name: _turned(name, leaf.detach().numpy()) for name, leaf in leaves.items()}, state


def named(leaves: Mapping[str, Any]) -> Any:
    """A module with parameters of these names, for optimizers that take a model."""
    nn = imported("torch").nn
    model = nn.Module()
    for path, leaf in leaves.items():
        *parents, name = path.split(".")
        module = model
        for parent in parents:
            if parent not in dict(module.named_children()):
                module.add_module(parent, nn.Module())
            module = module.get_submodule(parent)
        module.register_parameter(name, leaf)
    return model


def _turned(name: str, array: np.ndarray) -> np.ndarray:
    """A kernel in the other layout, anything else as it is; always a copy."""
    return np.array(array.T if name.endswith("kernel") else array, order="C")


def in_float32() -> contextlib.AbstractContextManager[Any]:
    """A context in which code that asks for bfloat16 computes in float32."""
    torch = imported("torch")

    def widened(value: Any) -> Any:
        return torch.float32 if value is torch.bfloat16 else value

    class Float32(imported("torch.overrides").TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            if func is torch.Tensor.bfloat16:
                return args[0].clone()
            return func(*map(widened, args), **{name: widened(value) for name, value in (kwargs or {}).items()})

    return Float32()
