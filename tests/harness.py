"""Shared test tools: the form of a case, small trees, a training loop."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxopt_mini import ParamLayout, apply_updates
from jaxopt_mini.tree import absolute_square, path_name

Tree = Any


@dataclass(frozen=True)
class Golden:
    """A recorded trajectory and the call that must reproduce it.

    Attributes:
      file: name of the trajectory, a key of the index.
      build: makes the transformation from the hyperparameters that the index records, and the recorded "arrays".
      tolerance: largest deviation at any step, times max(1, mean movement of the leaf).
      reason: why the tolerance is looser than 1e-5.
      slow: replay it with the slow tests only; for one more recording of a rule that another one shows.
      start: (state, arrays of the file) -> state, for references that start from recorded arrays.
      extra: (arrays of the file, problem) -> extra args of the steps, stacked along the first axis.
      also: prefix of other recorded trajectories ("x/") -> function of (state, params) that gives that tree.
    """

    file: str
    build: Callable[[Any], Any]
    tolerance: float = 1e-5
    reason: str = ""
    slow: bool = False
    start: Callable[[Any, Mapping[str, np.ndarray]], Any] | None = None
    extra: Callable[[Mapping[str, np.ndarray], Mapping[str, np.ndarray]], dict[str, Any]] | None = None
    also: Mapping[str, Callable[[Any, Tree], Tree]] = field(default_factory=dict)


def nothing(loss: Callable, params: Tree, t: jax.Array) -> dict[str, Any]:
    """The default: no extra args."""
    del loss, params, t
    return {}


@dataclass(frozen=True)
class Case:
    """One optimizer's row: its data for the property tests and the comparisons.

    Attributes:
      optimizer: the function in ``OPTIMIZERS``.
      learning_rate: one with which the quadratic of the property tests converges.
      keywords: for the property tests, where the defaults don't work.
      hyperparameters: numbers for keywords whose default isn't a float (None means off), to be traced as well.
      signed: keywords that may be negative.
      optax: the counterpart of the same name and the same state tree, if there is one.
      variants: keywords under which the two are compared, besides the defaults.
      settings: keywords of numbers that change the rule, for the tests of every keyword; names and switches are found.
      goldens: trajectories to reproduce.
      extra: (loss, params, t) -> extra args that a step needs.
      exempt: name of a test -> why the property can't hold.
      slow: run the property tests that compile programs with the slow tests only, see the ``conftest`` of the library.
    """

    optimizer: Callable
    learning_rate: float = 0.1
    keywords: Mapping[str, Any] = field(default_factory=dict)
    hyperparameters: Mapping[str, float] = field(default_factory=dict)
    signed: tuple[str, ...] = ()
    optax: Callable | None = None
    variants: tuple[Mapping[str, Any], ...] = ()
    settings: tuple[Mapping[str, Any], ...] = ()
    goldens: tuple[Golden, ...] = ()
    extra: Callable[[Callable, Tree, jax.Array], dict[str, Any]] = nothing
    exempt: Mapping[str, str] = field(default_factory=dict)
    slow: bool = False

    @property
    def floats(self) -> dict[str, float]:
        """The numbers of the signature that may be traced, with the learning rate."""
        signature = inspect.signature(self.optimizer).parameters
        defaults = {n: p.default for n, p in signature.items() if isinstance(p.default, float)}
        given = {n: v for n, v in self.keywords.items() if isinstance(v, float)}
        return {**defaults, **given, **self.hyperparameters, "learning_rate": self.learning_rate}

    @property
    def counts(self) -> dict[str, int]:
        """The integers of the signature."""
        signature = inspect.signature(self.optimizer).parameters
        return {n: p.default for n, p in signature.items() if type(p.default) is int}

    @property
    def takes_layout(self) -> bool:
        """Whether the optimizer has a keyword ``layout``."""
        return "layout" in inspect.signature(self.optimizer).parameters

    def alternatives(self) -> Iterator[Mapping[str, Any]]:
        """One keyword at a time: every switch turned, every other name, every number that is off; then ``settings``.

        A keyword that is only taken beside another one is left out.
        """
        for keywords in self._all_alternatives():
            with suppress(ValueError):
                self.make(**keywords)
                yield keywords

    def _all_alternatives(self) -> Iterator[Mapping[str, Any]]:
        for name, parameter in inspect.signature(self.optimizer).parameters.items():
            if isinstance(parameter.default, bool):
                yield {name: not parameter.default}
            elif name in self.hyperparameters:
                yield {name: self.hyperparameters[name]}
            elif re.match(r"str\b", str(parameter.annotation)):
                yield from ({name: choice} for choice in self._choices(name) if choice != parameter.default)
        yield from self.settings

    def _choices(self, name: str) -> list[str]:
        """The names that the message about an unknown one offers."""
        try:
            self.make(**{name: "no such name"})
        except ValueError as error:
            return str(error).partition("choose from ")[2].split(", ") if "choose from " in str(error) else []
        return []

    def make(self, layout: Tree = None, **keywords: Any) -> Any:
        """Builds the optimizer; the layout is passed only if its signature has one."""
        offered = {"layout": layout} if self.takes_layout else {}
        given = {"learning_rate": self.learning_rate, **offered, **self.keywords, **keywords}
        return self.optimizer(given.pop("learning_rate"), **given)


def permissive() -> ExitStack:
    """The promotion rules that Optax's code needs."""
    stack = ExitStack()
    stack.enter_context(jax.numpy_dtype_promotion("standard"))
    stack.enter_context(jax.numpy_rank_promotion("allow"))
    return stack


def normal(shapes: Tree, seed: int, steps: int | None = None, dtype: Any = jnp.float32) -> Tree:
    """Normal numbers in a tree of shapes, with a first axis of ``steps`` when given."""
    generator = np.random.default_rng(seed)
    prefix = () if steps is None else (steps,)
    return jax.tree.map(
        lambda shape: jnp.asarray(generator.standard_normal((*prefix, *shape)), dtype),
        shapes,
        is_leaf=lambda leaf: isinstance(leaf, tuple),
    )


def half_square(params: Tree) -> jax.Array:
    """The loss for optimizers that need one."""
    squares = [jnp.sum(absolute_square(leaf)) for leaf in jax.tree.leaves(params)]
    return sum(squares, start=jnp.zeros(())) / 2


def run(
    tx: Any,
    params: Tree,
    grads: Tree,
    state: Any = None,
    extra: Callable[[Callable, Tree, jax.Array], dict[str, Any]] = nothing,
) -> tuple[Tree, Any]:
    """Takes a step for each gradient along the first axis of ``grads``, in one scan."""

    def step(carry, inputs):
        (params, state), (grad, t) = carry, inputs
        updates, state = tx.update(grad, state, params, **extra(half_square, params, t))
        return (apply_updates(params, updates), state), None

    state = tx.init(params) if state is None else state
    steps = jnp.arange(len(jax.tree.leaves(grads)[0]))
    return jax.lax.scan(step, (params, state), (grads, steps))[0]


def shared_buffers(*trees: Any) -> list[list[str]]:
    """Groups of names of arrays that share a buffer."""
    names: dict[int, list[str]] = {}
    for path, leaf in jax.tree.leaves_with_path(trees):
        if leaf.size:
            names.setdefault(leaf.unsafe_buffer_pointer(), []).append(path_name(path))
    return [group for group in names.values() if len(group) > 1]


# One tree for all tests: a table, a matrix and a bias stacked over two layers, a scalar.
SHAPES = {"embed": (5, 4), "blocks": {"kernel": (2, 4, 3), "bias": (2, 3)}, "scale": ()}
PROBLEM_LAYOUT = {  # of the recorded trajectories, whose embedding is a bare array
    "embed": ParamLayout("embedding", (), (0,), (1,)),
    "dense/kernel": ParamLayout("matrix", (), (0,), (1,)),
    "dense/bias": ParamLayout("vector", (), (), (0,)),
    "out/kernel": ParamLayout("matrix", (), (0,), (1,)),
    "norm/scale": ParamLayout("vector", (), (), (0,)),
}
LAYOUT = {
    "embed": ParamLayout("embedding", (), (0,), (1,)),
    "blocks": {
        "kernel": ParamLayout("matrix", (0,), (1,), (2,)),
        "bias": ParamLayout("vector", (0,), (), (1,)),
    },
    "scale": ParamLayout("vector"),
}
