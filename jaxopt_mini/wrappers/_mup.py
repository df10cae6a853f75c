"""Maximal update parametrization: hyperparameters tuned on a small model suit a larger one."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxopt_mini.base import (
    GradientTransformation,
    GradientTransformationExtraArgs,
    OptState,
    Params,
    transformation,
    with_extra_args_support,
)
from jaxopt_mini.layout import ParamLayout, resolve
from jaxopt_mini.states import evaluation_params
from jaxopt_mini.tree import by_name, evaluate, times
from jaxopt_mini.wrappers._in_blocks import in_blocks
from jaxopt_mini.wrappers._step_sizes import StepSize, step_size

DECAYS = ("independent", "sqrt", "unscaled")


class Multipliers(NamedTuple):
    """Three factors for each parameter; ``str`` formats them as a table.

    Attributes:
      gradient: tree of factors of the gradients that the optimizer sees.
      parameter: tree of factors of the parameters that it sees.
      update: tree of factors of its updates.
    """

    gradient: Any
    parameter: Any
    update: Any

    def __str__(self) -> str:
        """The table as text, one parameter a row."""
        columns = [by_name(tree) for tree in self]
        rows = [("parameter", *self._fields)]
        rows += [(name, *(f"{column[name]:.6g}" for column in columns)) for name in columns[0]]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


class MupState(NamedTuple):
    """State of :func:`mup`."""

    factors: tuple[jax.Array, ...]  # float32[] for each leaf: of the parameters, to convert averages of them back
    inner_state: OptState

    def evaluation_params(self, params: Params) -> Params:
        """The parameters to evaluate with, in the units of the model."""
        factors = jax.tree.structure(params).unflatten(self.factors)
        inside = jax.tree.map(times, params, factors)
        found = evaluation_params(self.inner_state, inside)
        if found is inside:
            return params
        return jax.tree.map(lambda leaf, factor: times(leaf, 1 / factor), found, factors)


def multipliers(
    params: Params,
    base: Any,
    *,
    like: str | StepSize = "adam",
    layout: Any | Callable[[Params], Any] | None = None,
    alpha: float = 1.0,
    layers: Any | None = None,
    decay: str = "independent",
    scaled_logits: bool = True,
) -> Multipliers:
    """The factors of :func:`mup`, which explains the arguments.

    Args:
      params: parameters of the model, or their abstract shapes.
      base: those of the base model; a superset of ``params`` if these are masked.
      like: optimizer whose steps grow like those of the wrapped one.
      layout: tree of :class:`~jaxopt_mini.ParamLayout`, for both models.
      alpha: exponent of the depth.
      layers: number of layers over that of the base.
      decay: scaling of the weight decay.
      scaled_logits: whether the model divides its logits by the width.

    Raises:
      ValueError: an argument is out of range, or the trees don't match; the message names the leaf.

    >>> model, base = ({"dense": {"kernel": jnp.zeros((n, n)), "bias": jnp.zeros(n)}} for n in (256, 64))
    >>> print(multipliers(model, base))
    parameter     gradient  parameter  update
    dense/bias    4         1          1
    dense/kernel  4         4          0.25
    """
    size = step_size(like) if isinstance(like, str) else like
    if decay not in DECAYS:
        raise ValueError(f"unknown decay={decay!r}: choose from {', '.join(DECAYS)}")
    if size.tracks and decay != "independent":
        raise ValueError(f"decay={decay!r} doesn't work with an optimizer that averages parameters: use 'independent'")
    if not 0.5 <= alpha <= 1:
        raise ValueError(f"alpha must be from 0.5 to 1, got {alpha}")
    entries, small, ratios = by_name(resolve(layout, params)), _matched(params, base), _layers(layers, params)

    def one(name: str, leaf: Any) -> tuple[float, float, float]:
        entry, other = entries[name], small[name]
        fans = entry.fans(leaf.shape), entry.fans(other.shape)
        depth = _depth(entry, leaf.shape, other.shape) if ratios is None else ratios[name]
        return _factors(entry.role, *fans, depth, size, alpha, decay, scaled_logits)

    rows = [one(name, leaf) for name, leaf in by_name(params).items()]
    structure = jax.tree.structure(params)
    return Multipliers(*(structure.unflatten([row[i] for row in rows]) for i in range(3)))


def _factors(
    role: str,
    fans: tuple[int, int],
    base: tuple[int, int],
    depth: float,
    size: StepSize,
    alpha: float,
    decay: str,
    scaled_logits: bool,
) -> tuple[float, float, float]:
    m_in, m_out = (big / small if small else 1.0 for big, small in zip(fans, base, strict=True))
    scaled = role == "head" and scaled_logits
    grown = _ratio(size.felt, role, base, fans) * (m_in if scaled else 1.0)
    deep = depth ** (alpha - 1)
    gradient = (m_in if scaled else 1.0 if role == "head" else m_out) * depth**alpha
    if size.relative:  # the size of the parameter at the base
        own = math.sqrt(m_in) if role == "matrix" else m_in if role == "head" and not scaled else 1.0
    else:
        own = {"independent": 1 / grown, "sqrt": 1 / math.sqrt(grown), "unscaled": 1.0}[decay]
    return gradient, own / deep if size.tracks else own, grown * deep


def _ratio(felt: Callable[..., float], role: str, base: tuple[int, int], fans: tuple[int, int]) -> float:
    return felt(role, *base) / felt(role, *fans) if all((*base, *fans)) else 1.0


def _depth(entry: ParamLayout, shape: tuple[int, ...], base: tuple[int, ...]) -> float:
    layers = [math.prod(sizes[axis] for axis in entry.stacked) for sizes in (shape, base)]
    return layers[0] / layers[1] if layers[1] else 1.0


def _layers(layers: Any, params: Params) -> dict[str, float] | None:
    """The ratio of layers of each parameter; None takes those of the stacked axes."""
    if layers is None:
        return None
    if isinstance(layers, int | float):
        return dict.fromkeys(by_name(params), float(layers))
    return {name: float(ratio) for name, ratio in by_name(layers).items()}


def _matched(params: Any, base: Any) -> dict[str, Any]:
    """The leaves of the base by name, checked against those of the model."""
    found = by_name(base)
    for name, leaf in by_name(params).items():
        if name not in found:
            raise ValueError(f"the base lacks {name}, which the model has: build it from the same modules")
        if len(found[name].shape) != len(leaf.shape):
            raise ValueError(
                f"{name} has the shape {tuple(found[name].shape)} in the base and {tuple(leaf.shape)} in the model: "
                "they must have the same number of axes"
            )
    if unknown := next((name for name in found if name not in by_name(params)), None):
        masked = jax.tree.structure(params).num_nodes == jax.tree.structure(base).num_nodes
        if not masked:
            raise ValueError(f"the base has {unknown}, which the model lacks: build it from the same modules")
    return found


def scale_units(
    inner: GradientTransformation, factors: Multipliers | Callable[[Params], Multipliers]
) -> GradientTransformationExtraArgs:
    """Wraps an optimizer so that it works in other units: it sees ``gradient g`` and ``parameter p``.

    Args:
      inner: a complete optimizer.
      factors: three numbers for each parameter, or a function of the parameters that returns them.

    Returns:
      A transformation with a :class:`MupState`, with the state of ``inner`` and 4 bytes per leaf.
    """
    inner = with_extra_args_support(inner)

    def of(tree):
        return factors if isinstance(factors, Multipliers) else factors(tree)

    def init(params):
        own = of(params).parameter
        inside = evaluate(lambda tree: jax.tree.map(_times, tree, own), params)
        return MupState(tuple(map(jnp.float32, jax.tree.leaves(own))), inner.init(inside))

    def update(updates, state, params=None, **extra_args):
        gradient, own, step = of(updates)
        inside = None if params is None else jax.tree.map(_times, params, own)
        for name in LOSSES & extra_args.keys():
            extra_args[name] = _loss_inside(extra_args[name], params, inside, gradient)
        new, inner_state = inner.update(
            jax.tree.map(_times, updates, gradient), state.inner_state, inside, **extra_args
        )
        return jax.tree.map(_times, new, step), MupState(state.factors, inner_state)

    return transformation(init, update)


LOSSES = {"loss_fn", "obj_fn"}  # extra args that are functions of the parameters


def _loss_inside(loss: Callable | None, params: Any, inside: Any, gradient: Any) -> Callable | None:
    """The loss as a function of what the optimizer sees, whose gradient at ``inside`` is the one that it sees."""
    if loss is None or params is None:
        return loss

    def moved(other):
        return loss(jax.tree.map(lambda p, a, b, g: p + _times(a - b, g), params, other, inside, gradient))

    return moved


def _times(leaf: jax.Array, factor: float) -> jax.Array:
    return leaf if factor == 1 else times(leaf, factor)


def mup(
    inner: GradientTransformation | Callable[..., GradientTransformation],
    base: Any,
    *,
    like: str | StepSize = "adam",
    layout: Any | Callable[[Params], Any] | None = None,
    alpha: float = 1.0,
    layers: Any | None = None,
    decay: str = "independent",
    scaled_logits: bool = True,
) -> GradientTransformationExtraArgs:
    """Lets an optimizer work in the units of a base model, so that its hyperparameters transfer to other widths.

    Yang et al., "Tensor Programs V" (2022, arXiv 2203.03466), and with ``layers`` Dey et al., "Don't be lazy: CompleteP
    enables compute-efficient deep transformers" (2025, arXiv 2505.01618), for any optimizer::

        u = inner(G g, P p)                G: so that gradients are as large as in the base model
        p <- p + U u                       U: so that a step changes the layer's outputs as much as there

    With m_in, m_out the fan-in and fan-out over those of the base, and l its layers over those of the base:

    =========  ===============  ===================================================
    role       G                U
    =========  ===============  ===================================================
    matrix     m_out l^alpha    l^(alpha - 1) / m_in; with orthogonal steps about 1
    embedding  m_out            1
    head       m_in             1
    vector     m_out l^alpha    l^(alpha - 1)
    =========  ===============  ===================================================

    G makes eps, accumulators and gradient descent agree; U is that of ``like``, an optimizer that the table
    :data:`~jaxopt_mini.wrappers.STEP_SIZES` describes. P is 1 / U without its depth part, so that weight decay removes
    the same fraction of each parameter as in the base; or, for steps relative to the norm of a parameter, what its
    initial size shrank by. If the model is the base, all are 1 and nothing changes.

    The model's part is yours: hidden matrices initialized with a standard deviation that is proportional to
    1 / sqrt(fan_in), logits multiplied by ``base width / width``, attention logits divided by the head size if that
    grows, and the branches of the residual stream multiplied by ``l^-alpha``.

    Put clipping and averages around it, not inside: they need the gradients and parameters of the model.

    Args:
      inner: a complete optimizer, with the hyperparameters that were tuned on the base model; or a function that takes
        ``layout`` and returns one, such as ``functools.partial(soap, 3e-3)``. An optimizer whose steps have a rule
        only in blocks of the base's shapes, see :func:`in_blocks`, is given as a function.
      base: parameters of the base model, or their abstract shapes; the same tree.
      like: name of the optimizer whose steps grow like those of ``inner``, or a
        :class:`~jaxopt_mini.wrappers.StepSize`.
      layout: tree of :class:`~jaxopt_mini.ParamLayout`, or a function of the parameters that returns one; None infers
        it. Give ``inner`` the same, if it takes one.
      alpha: exponent of the depth, from 0.5 to 1.
      layers: number of layers over that of the base, a number or a tree with one for each parameter; None takes it from
        stacked axes.
      decay: "independent" keeps the learning rate times the weight decay, "unscaled" lets it shrink like the learning
        rate of each parameter, "sqrt" like its root.
      scaled_logits: the model multiplies its logits by ``base width / width``; False means that it doesn't, and that
        the initial head shrinks instead.

    Returns:
      A transformation with a :class:`MupState`, with the state of ``inner`` and 4 bytes per leaf.

    Raises:
      ValueError: an argument is out of range, the trees don't match, or ``inner`` must be a function but isn't.

    >>> from jaxopt_mini import sgd
    >>> params, base = ({"kernel": jnp.ones((n, n))} for n in (4, 2))
    >>> tx = mup(sgd(1.0), base)
    >>> updates, _ = tx.update(params, tx.init(params), params)
    >>> print(updates["kernel"][0])  # the gradient times m_out, the step over m_in
    [-1. -1. -1. -1.]
    """
    how = {"like": like, "layout": layout, "alpha": alpha, "layers": layers, "decay": decay}
    blocks = (step_size(like) if isinstance(like, str) else like).blocks
    if callable(inner):
        inner = in_blocks(inner, base, layout=layout) if blocks else inner(layout=layout)
    elif blocks:
        raise ValueError(
            f"like={like!r} has a rule in blocks of the base's shapes: give a function that takes the layout of the "
            "blocks and returns the optimizer, such as functools.partial(soap, 3e-3)"
        )
    return scale_units(inner, lambda tree: multipliers(tree, base, **how, scaled_logits=scaled_logits))
