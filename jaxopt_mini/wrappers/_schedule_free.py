"""Schedule-free learning: iterate averaging in place of momentum and learning-rate decay."""

from __future__ import annotations

from numbers import Real
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike, DTypeLike
from optax import MaskedNode
from optax.contrib import ScheduleFreeState

from jaxopt_mini import states
from jaxopt_mini.base import (
    GradientTransformation,
    GradientTransformationExtraArgs,
    OptState,
    Params,
    ScalarOrSchedule,
    require_params,
    schedule_value,
    transformation,
    with_extra_args_support,
)
from jaxopt_mini.check import check_fraction, check_nonnegative, check_steps
from jaxopt_mini.schedules import warmup
from jaxopt_mini.tree import cast_like, copied, evaluate, increment, scalar_dtype, widen
from jaxopt_mini.wrappers._conditional import per_update


class AnnealedScheduleFreeState(NamedTuple):
    """State of :func:`schedule_free` with ``anneal``."""

    share: jax.Array  # float32[]: c of step ``anneal_from``; 0 before it
    schedule_free_state: ScheduleFreeState  # with the present b1


def _averaged(y: jax.Array, z: jax.Array, b1: ArrayLike) -> jax.Array:
    """Solves ``y = (1 - b1) z + b1 x`` for x."""
    return (widen(y) - (1 - b1) * widen(z)) / b1


def schedule_free_eval_params(state: OptState, params: Params) -> Params:
    """Returns the average x to evaluate with; training continues with ``params``.

    :func:`jaxopt_mini.states.evaluation_params` does the same for a state anywhere in a chain.

    Args:
      state: the state of :func:`schedule_free`.
      params: the current training parameters y.

    Returns:
      Parameters of the same structure, shapes and dtypes.

    Raises:
      ValueError: ``state`` is of another type.
    """
    if not isinstance(state, ScheduleFreeState):
        raise ValueError(
            f"expected the state of schedule_free, got a {type(state).__name__}: "
            "use states.evaluation_params for a state inside a chain"
        )

    def one(y, z):
        return y if isinstance(z, MaskedNode) else _averaged(y, z, widen(jnp.asarray(state.b1))).astype(y.dtype)

    return jax.tree.map(one, params, state.z)


states.EVALUATION[ScheduleFreeState] = schedule_free_eval_params
states.EVALUATION[AnnealedScheduleFreeState] = lambda annealed, params: schedule_free_eval_params(annealed[1], params)


def weight_of_step(state: Any, learning_rate: ArrayLike, r: ArrayLike, power: ArrayLike) -> tuple[Any, Any, Any]:
    """The weight c of this step in the average, the sum of the weights so far, and the largest learning rate."""
    max_lr = jnp.maximum(widen(state.max_lr), learning_rate)
    weight = state.step_count.astype(jnp.float32) ** r * max_lr**power
    total = widen(state.weight_sum) + weight
    return weight / jnp.where(total == 0, 1.0, total), total, max_lr


def warmed_up(learning_rate: ScalarOrSchedule, steps: int | None, rate_ahead: bool) -> ScalarOrSchedule:
    """The learning rate with a linear warm-up from 0 (Optax, ``rate_ahead``) or from 1 / steps (the authors' code).

    >>> [float(warmed_up(1.0, 4, ahead)(t)) for ahead in (True, False) for t in (0, 1)]
    [0.0, 0.25, 0.25, 0.5]
    """
    if steps is None:
        return learning_rate
    after = learning_rate if callable(learning_rate) else lambda count: jnp.asarray(learning_rate)
    return warmup(after, steps, start=0.0) if rate_ahead else warmup(after, steps - 1)


@per_update
def schedule_free(
    base_optimizer: GradientTransformation,
    learning_rate: ScalarOrSchedule = 1.0,
    b1: ArrayLike = 0.9,
    weight_lr_power: ArrayLike = 2.0,
    state_dtype: DTypeLike | None = None,
    *,
    r: ArrayLike = 0.0,
    rate_ahead: bool = True,
    base_at_z: bool = False,
    decay_at_y: ArrayLike = 0.0,
    anneal: ArrayLike | None = None,
    anneal_from: int = 1,
) -> GradientTransformationExtraArgs:
    """Averaging in place of a learning-rate schedule.

    Defazio et al., "The Road Less Scheduled" (2024, arXiv 2405.15682). The gradient is taken at y, the training
    parameters; the base optimizer updates z; x is the average to evaluate with::

        z <- z + base_optimizer(g at y)
        x <- (1 - c) x + c z                 c = w_t / sum of w, w_t = t^r (largest lr so far)^weight_lr_power
        y <- (1 - b1) z + b1 x

    With ``anneal``, b1 grows to 1 as the weight of a step in the average falls, as in :func:`amuse`.

    Only z is stored; x is recomputed from y and z. The learning rate stays constant after a warm-up. Evaluate, sample
    and save for inference with ``states.evaluation_params(state, params)``.

    Departures: Optax evaluates the schedule one step ahead of the base optimizer, which counts from 0; the authors'
    code uses the same learning rate for both, ``rate_ahead=False``. An initial learning rate of zero gives c = 0.

    Args:
      base_optimizer: optimizer without momentum; its ``params`` are y.
      learning_rate: learning rate of the base optimizer, a number or a schedule; used only for the weights w, so that
        all constants give the same result.
      b1: weight of the average in y, in (0, 1); it plays the role of momentum.
      weight_lr_power: power of the learning rate in w.
      state_dtype: dtype that z is stored in; None uses each parameter's dtype.
      r: power of the step in w; with 0 all steps have equal weight.
      rate_ahead: evaluate the schedule one step ahead of the base optimizer.
      base_at_z: the base optimizer's ``params``, which it decays, are z; only the gradient is taken at y.
      decay_at_y: subtract this times the learning rate and y from z before the base optimizer's step.
      anneal: power by which 1 - b1 falls with c / (1 - c), relative to step ``anneal_from``; None keeps b1.
      anneal_from: last step with the initial b1, counted from 1.

    Returns:
      A transformation with an ``optax.contrib.ScheduleFreeState``, with ``anneal`` inside an
      :class:`AnnealedScheduleFreeState`; 4 bytes of state per float32 parameter, besides the
      base optimizer's.

    Raises:
      ValueError: a number is out of range.

    >>> from jaxopt_mini import sgd, states
    >>> tx = schedule_free(sgd(0.5), b1=0.5)
    >>> params = jnp.float32(1.0)
    >>> state = tx.init(params)
    >>> for _ in range(3):
    ...     updates, state = tx.update(params, state, params)  # the gradient of y^2 / 2
    ...     params = params + updates
    ...     print([round(float(p), 4) for p in (params, states.evaluation_params(state, params))])
    [0.5, 0.5]
    [0.3125, 0.375]
    [0.1875, 0.2812]
    """
    check_fraction(b1=b1)
    if isinstance(b1, Real) and b1 == 0:
        raise ValueError("b1=0 is out of range, since x is recomputed from its share of y: give a number in (0, 1)")
    check_nonnegative(weight_lr_power=weight_lr_power, r=r, learning_rate=learning_rate, decay_at_y=decay_at_y)
    check_nonnegative(anneal=anneal)
    check_steps(anneal_from=anneal_from)
    base_optimizer = with_extra_args_support(base_optimizer)

    def cast(leaf):
        return leaf.astype(state_dtype or leaf.dtype)

    def init(params):
        dtype = scalar_dtype(params) if anneal is None else jnp.float32
        state = ScheduleFreeState(
            b1=jnp.array(b1, dtype),
            weight_sum=jnp.zeros((), dtype),
            step_count=jnp.ones((), jnp.int32),
            max_lr=jnp.zeros((), dtype),
            base_optimizer_state=base_optimizer.init(params),
            z=evaluate(lambda tree: jax.tree.map(cast, tree), copied(params)),
        )
        return state if anneal is None else AnnealedScheduleFreeState(jnp.zeros(()), state)

    def annealed(c, first, count):
        """The share c of the last step with the initial b1, and the b1 of this step."""
        first = jnp.where(count == anneal_from, c, first)
        part = c * (1 - first) / jnp.where(count > anneal_from, first * (1 - c), 1.0)
        return first, jnp.where(count > anneal_from, 1 - part**anneal * (1 - b1), b1)

    def update(updates, state, params=None, **extra_args):
        params = require_params(params, "schedule_free")
        outer, state = (None, state) if anneal is None else (state, state.schedule_free_state)
        rate = schedule_value(learning_rate, state.step_count - 1) * decay_at_y
        decayed = jax.tree.map(lambda z, y: widen(z) - rate * widen(y), state.z, params)
        seen = cast_like(decayed, params) if base_at_z else params
        base, base_state = base_optimizer.update(updates, state.base_optimizer_state, seen, **extra_args)
        z = cast_like(jax.tree.map(lambda z, u: z + widen(u), decayed, base), state.z)
        lr = schedule_value(learning_rate, state.step_count if rate_ahead else state.step_count - 1)
        c, total, max_lr = weight_of_step(state, lr, r, weight_lr_power)
        first, b = (c, b1) if outer is None else annealed(c, outer.share, state.step_count)

        def step(y, old_z, z):
            x = (1 - c) * _averaged(y, old_z, b) + c * widen(z)
            return (1 - b) * widen(z) + b * x - widen(y)

        numbers = (state.b1 if outer is None else b, total, max_lr)
        b1_now, total, max_lr = (jnp.asarray(number, state.b1.dtype) for number in numbers)
        new = ScheduleFreeState(b1_now, total, increment(state.step_count), max_lr, base_state, z)
        updates = cast_like(jax.tree.map(step, params, state.z, z), updates)
        return updates, new if outer is None else AnnealedScheduleFreeState(first, new)

    return transformation(init, update)
