"""Arithmetic on pytrees: norms, moving averages, casts.

Norms and moments of float16 and bfloat16 leaves are computed in float32 and rounded only when stored. Every function
works under strict dtype promotion and ignores ``optax.MaskedNode`` and ``None``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike, DTypeLike

Tree = Any
MAX_COUNT = jnp.iinfo(jnp.int32).max


def as_arrays(tree: Tree) -> Tree:
    """Converts Python numbers to arrays; returns other leaves unchanged.

    >>> as_arrays({"w": 1.0})["w"].dtype.name
    'float32'
    """

    def one(leaf):
        number = isinstance(leaf, int | float | complex) and not hasattr(leaf, "dtype")
        return jnp.asarray(leaf, jnp.result_type(leaf)) if number else leaf  # with a dtype, so not weakly typed

    return jax.tree.map(one, tree)


def per_parameter(spec: Tree | Callable[[Tree], Tree], params: Tree) -> Tree:
    """The tree of masks, labels or layouts that an argument specifies.

    Args:
      spec: a tree with the structure of the parameters, or a function of the parameters that returns one. As in Optax,
        a callable pytree, such as an Equinox module, is a function only if all its leaves are callable.
      params: the parameters. A single node without leaves is its own tree: ``optax.tree_map_params`` passes one to
        ``init`` in place of the parameters.

    Returns:
      The tree.
    """
    structure = jax.tree.structure(params)
    if structure.num_nodes == 1 and structure.num_leaves == 0:
        return params
    leaves = jax.tree.leaves(spec)
    return spec(params) if callable(spec) and leaves and all(map(callable, leaves)) else spec


def chosen_leaves(mask: Tree | Callable[[Tree], Tree] | None, params: Tree) -> Tree:
    """A boolean for each leaf of ``params``, from a mask: a tree, a prefix of one, or a function; None chooses all.

    >>> chosen_leaves({"a": True, "b": False}, {"a": 1.0, "b": [2.0, 3.0]})
    {'a': True, 'b': [False, False]}
    """
    chosen = True if mask is None else per_parameter(mask, params)
    return jax.tree.map(lambda take, part: jax.tree.map(lambda _: bool(take), part), chosen, params)


def arranged_like(new: Tree, old: Tree) -> Tree:
    """The leaves of ``new`` in the structure of ``old``.

    ``nnx.Optimizer`` turns lists and named tuples in place of leaves into mappings; a state must keep its structure.
    """
    return jax.tree.unflatten(jax.tree.structure(old), jax.tree.leaves(new))


def zeros_of(function: Callable[..., Tree], *trees: Tree) -> Tree:
    """Zeros with the shapes and dtypes of ``function(*trees)``, which is not computed."""
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(function, *trees))


def evaluate(function: Callable[..., Tree], *trees: Tree) -> Tree:
    """``function(*trees)``; abstract if a leaf is abstract, so that ``init`` takes ``jax.ShapeDtypeStruct`` leaves."""
    abstract = any(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(trees))
    return jax.eval_shape(function, *trees) if abstract else function(*trees)


def copied(tree: Tree) -> Tree:
    """A tree whose arrays have buffers of their own, so that ``tree`` may be donated."""
    return evaluate(lambda tree: jax.tree.map(jnp.copy, tree), tree)


def wide_dtype(dtype: DTypeLike, name: str = "one") -> jnp.dtype:
    """The dtype in which to accumulate leaves of ``dtype``: at least float32.

    Raises:
      ValueError: ``dtype`` is an integer or boolean, which has no gradient; the message calls the leaf ``name``.
    """
    dtype = jnp.dtype(dtype)
    if not jnp.issubdtype(dtype, jnp.inexact):
        raise ValueError(
            f"optimizers take floating-point or complex leaves, got {name or 'one'} of dtype {dtype.name}: "
            "cast it, or exclude it with masked"
        )
    return jnp.dtype(jnp.float32) if jnp.finfo(dtype).bits < 32 else dtype


def refuse_integers(tree: Tree) -> None:
    """Rejects integer and boolean leaves.

    Raises:
      ValueError: a leaf is an integer or boolean; the message names it.
    """
    for path, leaf in jax.tree.leaves_with_path(tree):
        wide_dtype(leaf.dtype, path_name(path))


def scalar_dtype(tree: Tree) -> jnp.dtype:
    """The dtype of a state's scalars, such as sums and distances: that of the narrowest leaf, but at least float32.

    Optax doesn't widen it: in bfloat16 a sum of small terms soon stops growing. It is real even for complex leaves.

    Raises:
      ValueError: a leaf is an integer or boolean.
    """
    refuse_integers(tree)
    dtypes = (jnp.finfo(leaf.dtype).dtype for leaf in jax.tree.leaves(tree))
    narrowest = min(dtypes, key=lambda dtype: jnp.finfo(dtype).bits, default=jnp.float32)
    return wide_dtype(narrowest)


def widen(leaf: jax.Array) -> jax.Array:
    """Casts to :func:`wide_dtype`.

    >>> widen(jnp.ones((), jnp.bfloat16)).dtype.name
    'float32'
    """
    return leaf.astype(wide_dtype(leaf.dtype))


def times(leaf: jax.Array, factor: ArrayLike) -> jax.Array:
    """``leaf * factor`` in at least float32, rounded once to the dtype of ``leaf``.

    >>> times(jnp.ones((), jnp.bfloat16), jnp.float32(0.5)).dtype.name
    'bfloat16'
    """
    wide = widen(leaf)
    return (wide * jnp.asarray(factor).astype(wide.dtype)).astype(leaf.dtype)


def cast_like(tree: Tree, like: Tree) -> Tree:
    """Casts every leaf of ``tree`` to the dtype of the matching leaf of ``like``."""
    return jax.tree.map(lambda leaf, other: leaf.astype(other.dtype), tree, like)


def full_like(tree: Tree, value: ArrayLike, dtype: DTypeLike | None = None) -> Tree:
    """A tree like ``tree`` filled with ``value``, in ``dtype`` or each leaf's own dtype.

    Raises:
      ValueError: a leaf is an integer or boolean.
    """
    refuse_integers(tree)
    # `jnp.array` copies: a scalar leaf would otherwise share the buffer of `value`, which donation would delete.
    return jax.tree.map(lambda leaf: jnp.full_like(leaf, jnp.array(value), dtype=dtype), tree)


def zeros_like(tree: Tree, dtype: DTypeLike | None = None) -> Tree:
    """Zeros with the shapes of ``tree``, see :func:`full_like`."""
    return full_like(tree, 0, dtype)


def absolute_square(leaf: jax.Array) -> jax.Array:
    """``|x|^2`` in at least float32; real even if ``leaf`` is complex."""
    wide = widen(leaf)
    if jnp.iscomplexobj(wide):
        return jnp.square(wide.real) + jnp.square(wide.imag)
    return jnp.square(wide)


def difference(a: Tree, b: Tree) -> Tree:
    """``a - b``, in at least float32."""
    return jax.tree.map(lambda x, y: widen(x) - widen(y), a, b)


def select(condition: jax.Array, tree: Tree, other: Tree) -> Tree:
    """The leaves of ``tree`` where ``condition`` (bool[]) holds, and of ``other`` where it doesn't.

    >>> select(jnp.bool(True), {"w": jnp.float32(1.0)}, {"w": jnp.float32(2.0)})["w"].item()
    1.0
    """
    return jax.tree.map(lambda x, y: jnp.where(condition, x, y), tree, other)


def norm(tree: Tree, ord: int | float = 2) -> jax.Array:
    """Global norm: all entries of all leaves as one vector, ``(sum |x|^p)^(1/p)``, or ``max |x|`` for ``inf``.

    Args:
      tree: pytree of arrays.
      ord: p >= 1, or ``jnp.inf``.

    Returns:
      float32[] (float64[] for float64 leaves); 0 for a tree without leaves; NaN if any entry is NaN.

    >>> norm({"a": jnp.array([3.0]), "b": jnp.array([-4.0])}).item()
    5.0
    >>> norm({"a": jnp.array([3.0]), "b": jnp.array([-4.0])}, ord=jnp.inf).item()
    4.0
    """
    leaves = jax.tree.leaves(tree)
    if not leaves:
        return jnp.zeros((), jnp.float32)
    if ord == jnp.inf:
        return jnp.max(jnp.stack([jnp.max(jnp.abs(widen(leaf)), initial=0.0) for leaf in leaves]))
    if ord == 2:
        return jnp.sqrt(sum(jnp.sum(absolute_square(leaf)) for leaf in leaves))
    return sum(jnp.sum(jnp.abs(widen(leaf)) ** ord) for leaf in leaves) ** (1 / ord)


def distance_between(a: Tree, b: Tree) -> jax.Array:
    """Global norm of the difference of two trees, in at least float32."""
    return norm(difference(a, b))


def inner(a: Tree, b: Tree) -> jax.Array:
    """Inner product of two trees as real vectors, in at least float32.

    For complex leaves, Re <a, b>: the product of the real parts plus that of the imaginary parts.

    >>> inner({"a": jnp.array([3.0, 1.0])}, {"a": jnp.array([2.0, -1.0])}).item()
    5.0
    """
    products = jax.tree.map(lambda x, y: jnp.sum(widen(x).conj() * widen(y)).real, a, b)
    return sum(jax.tree.leaves(products), start=jnp.zeros((), jnp.float32))


def mean(leaf: jax.Array, axes: int | tuple[int, ...] | None = None, keepdims: bool = False) -> jax.Array:
    """``jnp.mean``, but 0 instead of NaN for a leaf without entries.

    >>> mean(jnp.ones((0, 2)), 0).tolist()
    [0.0, 0.0]
    """

    def of(leaf):
        return jnp.mean(leaf, axes, keepdims=keepdims)

    return of(leaf) if leaf.size else zeros_of(of, leaf)


def increment(count: jax.Array) -> jax.Array:
    """Adds 1 to an int32 step count, saturating at the largest int32."""
    return jnp.where(count < MAX_COUNT, count + 1, MAX_COUNT)


def is_multiple(count: jax.Array, period: int | jax.Array) -> jax.Array:
    """Whether an int32 step count is a multiple of ``period``, which may be longer than any run.

    >>> print(is_multiple(jnp.int32(6), 3), is_multiple(jnp.int32(6), 10**10))
    True False
    """
    return count % at_most_max_count(period) == 0


def at_most_max_count(number: int | jax.Array) -> int | jax.Array:
    """A number of steps that may be compared with an int32 count: a longer one is out of reach of any run.

    >>> at_most_max_count(10**10)
    2147483647
    """
    return min(number, int(MAX_COUNT)) if isinstance(number, int) else number


def average(new: Tree, old: Tree, decay: ArrayLike) -> Tree:
    """Exponential moving average ``(1 - decay) new + decay old``, in at least float32.

    The result is not rounded to its storage dtype, so that the current step can use it unrounded.
    """
    return jax.tree.map(lambda n, o: (1 - decay) * widen(n) + decay * widen(o), new, old)


def total_weight(decay: ArrayLike, count: jax.Array) -> jax.Array:
    """The weight of ``count`` terms in an exponential moving average that started at zero: ``1 - decay**count``.

    Computed in float32 as ``-expm1(count log(decay))``: the difference of 1 and a power near 1 loses digits (0.7 % with
    a decay of 0.999999 in the first step).

    Args:
      decay: in [0, 1).
      count: at least 1.

    >>> print(f"{total_weight(0.999999, jnp.array(1)):.3e}")
    1.000e-06
    """
    log = math.log(decay) if isinstance(decay, float) and decay > 0 else jnp.log(decay)
    return -jnp.expm1(count.astype(jnp.float32) * log)


def bias_correction(moment: Tree, decay: ArrayLike, count: jax.Array) -> Tree:
    """Divides an average that started at zero by ``1 - decay**count``, the sum of its weights.

    The result is in at least float32.
    """
    weight = total_weight(decay, count)

    def correct(leaf):
        leaf = widen(leaf)
        return leaf / weight.astype(leaf.dtype)

    return jax.tree.map(correct, moment)


def nesterov_moment(new: Tree, moment: Tree, decay: ArrayLike, count: jax.Array) -> Tree:
    """Nesterov momentum as in NAdam: the average as of the next step if the gradient stayed ``new``.

    ``(1 - decay) new / (1 - decay^t) + decay moment / (1 - decay^(t+1))``, in at least float32.

    Args:
      new: the latest term of the average.
      moment: an average that started at zero.
      decay: its decay.
      count: t, the number of terms in it.
    """
    return average(bias_correction(new, decay, count), bias_correction(moment, decay, increment(count)), decay)


def size(tree: Tree) -> int:
    """Number of entries."""
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def nbytes(tree: Tree) -> int:
    """Total bytes of the arrays of a tree; also accepts the abstract arrays of ``jax.eval_shape``."""
    return sum(leaf.size * jnp.dtype(leaf.dtype).itemsize for leaf in jax.tree.leaves(tree))


def path_name(path: tuple[Any, ...]) -> str:
    """The keys of a JAX key path joined by slashes.

    >>> [path_name(path) for path, _ in jax.tree.leaves_with_path({"a": {"b": 1}, "c": [2]})]
    ['a/b', 'c/0']
    """
    return jax.tree_util.keystr(path, simple=True, separator="/")


def by_name(tree: Any) -> dict[str, Any]:
    """The leaves of a tree by name, see :func:`path_name`."""
    return {path_name(path): leaf for path, leaf in jax.tree.leaves_with_path(tree)}
