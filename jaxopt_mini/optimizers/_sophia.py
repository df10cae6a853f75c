"""Sophia: momentum divided by an estimate of the Hessian's diagonal, with every entry clipped."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike, DTypeLike
from optax.contrib import HutchinsonState, SophiaState

from jaxopt_mini.base import (
    GradientTransformation,
    GradientTransformationExtraArgs,
    Params,
    ScalarOrSchedule,
    no_state,
    require_params,
    require_real,
    transformation,
    with_extra_args_support,
)
from jaxopt_mini.check import check_at_least_one, check_fraction, check_nonnegative
from jaxopt_mini.combine import chain
from jaxopt_mini.transforms._scale import scale_by_learning_rate
from jaxopt_mini.transforms.decay import add_decayed_weights
from jaxopt_mini.tree import (
    at_most_max_count,
    average,
    bias_correction,
    cast_like,
    increment,
    is_multiple,
    size,
    widen,
    zeros_like,
)


def hutchinson_estimator_diag_hessian(random_seed: jax.Array | None = None) -> GradientTransformationExtraArgs:
    """Hutchinson's estimate of the diagonal of the Hessian H: r * H r with random signs r, which is unbiased.

    Its ``update`` takes the extra arg ``obj_fn`` (or ``loss_fn``), the loss as a function of the parameters.

    Args:
      random_seed: a key; None is ``jax.random.PRNGKey(0)``.

    Returns:
      A transformation with an ``optax.contrib.HutchinsonState``.
    """

    def init(params):
        no_state(params)
        return HutchinsonState(jax.random.PRNGKey(0) if random_seed is None else random_seed)

    def update(updates, state, params=None, *, obj_fn=None, loss_fn=None, **extra_args):
        del updates, extra_args
        loss = loss_fn if obj_fn is None else obj_fn
        if loss is None:
            raise ValueError("sophia needs the loss: call update(updates, state, params, obj_fn=lambda params: loss)")
        params = require_params(params, "sophia")
        key, now = jax.random.split(state.key)
        signs = optax.tree.random_like(now, params, jax.random.rademacher, dtype=jnp.float32)
        signs = cast_like(signs, params)
        # Reverse mode twice: functions with a custom gradient, such as a fast attention, have no forward mode.
        (product,) = jax.vjp(jax.grad(loss), params)[1](signs)
        return jax.tree.map(lambda h, r: widen(h) * widen(r), product, signs), HutchinsonState(key)

    return transformation(init, update)


def given_diag_hessian() -> GradientTransformationExtraArgs:
    """Uses an estimate computed by the caller: its ``update`` takes the extra arg ``hessian``, like the parameters.

    For Sophia-G this is the squared gradient of the loss on labels sampled from the model (Gauss-Newton-Bartlett). It
    is read only every ``update_interval`` steps.
    """

    def update(updates, state, params=None, *, hessian=None, **extra_args):
        del updates, params, extra_args
        if hessian is None:
            raise ValueError("sophia needs the estimate: call update(updates, state, params, hessian=tree)")
        return hessian, state

    return transformation(no_state, update)


def scale_by_sophia(
    b1: ArrayLike = 0.965,
    b2: ArrayLike = 0.99,
    eps: ArrayLike = 1e-8,
    gamma: ArrayLike = 0.01,
    clip_threshold: ArrayLike | None = 1.0,
    update_interval: int | jax.Array = 10,
    hessian_diagonal_fn: GradientTransformation | None = None,
    mu_dtype: DTypeLike | None = None,
    verbose: bool = False,
    print_win_rate_every_n_steps: int | jax.Array = 0,
    *,
    first_estimate: int | jax.Array = 1,
    debias: bool = True,
) -> GradientTransformationExtraArgs:
    """The direction of :func:`sophia`, without decay and learning rate.

    Args:
      b1: see :func:`sophia`, like the other arguments.
      b2: decay of the mean of the estimates, in [0, 1).
      eps: lower bound of the denominator.
      gamma: factor of the curvature.
      clip_threshold: largest absolute entry.
      update_interval: steps between estimates.
      hessian_diagonal_fn: transformation that computes the estimate.
      mu_dtype: dtype that ``mu`` is stored in; None uses each parameter's dtype.
      verbose: print the fraction of entries that are not clipped.
      print_win_rate_every_n_steps: steps between prints.
      first_estimate: step of the first estimate.
      debias: correct the bias of the momentum towards zero.

    Returns:
      A transformation with an ``optax.contrib.SophiaState``.
    """
    check_fraction(b1=b1, b2=b2)
    check_nonnegative(eps=eps, gamma=gamma, clip_threshold=clip_threshold)
    check_nonnegative(print_win_rate_every_n_steps=print_win_rate_every_n_steps)
    check_at_least_one(update_interval=update_interval, first_estimate=first_estimate)
    bound = jnp.inf if clip_threshold is None else jnp.asarray(clip_threshold)
    estimator = with_extra_args_support(hessian_diagonal_fn or hutchinson_estimator_diag_hessian())

    def report(direction, count):
        won = sum(jnp.sum(jnp.abs(leaf) < bound) for leaf in jax.tree.leaves(direction))
        due = is_multiple(count, max(print_win_rate_every_n_steps, 1))
        rate = won / size(direction)
        jax.lax.cond(due, lambda: jax.debug.print("Sophia optimizer win rate: {}", rate), lambda: None)

    def init(params):
        require_real(params, "sophia")  # it clips
        start = jnp.zeros((), jnp.int32)
        return SophiaState(start, zeros_like(params, mu_dtype), zeros_like(params), estimator.init(params))

    def update(updates, state, params=None, **extra_args):
        params = require_params(params, "sophia")
        count = increment(state.count)
        mu = average(updates, state.mu, b1)
        m = bias_correction(mu, b1, count) if debias else mu
        direction = jax.tree.map(lambda m, h: m / jnp.maximum(gamma * widen(h), eps), m, state.nu)
        if verbose:
            report(direction, count)
        direction = jax.tree.map(lambda u: jnp.clip(u, -bound, bound), direction)

        def estimated(inner, nu):
            hessian, inner = estimator.update(updates, inner, params, **extra_args)
            return inner, cast_like(average(hessian, nu, b2), nu)

        due = is_multiple(state.count - at_most_max_count(first_estimate - 1), update_interval)
        inner, nu = jax.lax.cond(due, estimated, lambda *same: same, state.hessian_fn_state, state.nu)
        return cast_like(direction, updates), SophiaState(count, cast_like(mu, state.mu), nu, inner)

    return transformation(init, update)


def sophia(
    learning_rate: ScalarOrSchedule | None,
    b1: ArrayLike = 0.965,
    b2: ArrayLike = 0.99,
    eps: ArrayLike = 1e-8,
    weight_decay: ScalarOrSchedule = 1e-4,
    weight_decay_mask: Any | Callable[[Params], Any] | None = None,
    gamma: ArrayLike = 0.01,
    clip_threshold: ArrayLike | None = 1.0,
    update_interval: int | jax.Array = 10,
    hessian_diagonal_fn: GradientTransformation | None = None,
    mu_dtype: DTypeLike | None = None,
    verbose: bool = False,
    print_win_rate_every_n_steps: int | jax.Array = 0,
    *,
    first_estimate: int | jax.Array = 1,
    debias: bool = True,
) -> GradientTransformation:
    """Momentum divided by the Hessian's diagonal, then clipped.

    Liu et al., "Sophia: A Scalable Stochastic Second-order Optimizer for Language Model Pre-training" (2023, arXiv
    2305.14342). Descends from :func:`adamw`::

        m <- b1 m + (1 - b1) g                                          m_hat = m / (1 - b1^t)
        p <- p - lr (clip(m_hat / max(gamma h, eps), -1, 1) + weight_decay p)
        h <- b2 h + (1 - b2) estimate of the Hessian's diagonal         every update_interval steps

    Where the curvature is small, negative or not yet estimated, the step is the sign of the momentum.

    By default this is Sophia-H, as in Optax: Hutchinson's estimate from random signs and the loss, so that every
    ``update`` takes ``obj_fn`` (or ``loss_fn``), the loss of the batch as a function of the parameters. For Sophia-G
    pass the estimate as ``update(..., hessian=tree)``. The authors' code with their ``rho``, ``bs`` and an estimate
    after every k steps is ``sophia(lr, gamma=rho * bs, eps=1e-15, debias=False, update_interval=k, first_estimate=k,
    hessian_diagonal_fn=given_diag_hessian())``.

    Departures: none from Optax. The paper samples normal numbers instead of signs, which is noisier. On several devices
    the estimate must be averaged: under ``jit`` with shardings it is; under ``pmap`` only if the loss is averaged.

    Args:
      learning_rate: a number or a schedule; about AdamW's.
      b1: decay of the mean of the gradient, in [0, 1).
      b2: decay of the mean of the estimates, in [0, 1).
      eps: lower bound of the denominator.
      weight_decay: a number or a schedule, times the learning rate; 0.1 to 0.2 in the paper.
      weight_decay_mask: leaves to decay, a tree of booleans or a function of the parameters that returns one.
      gamma: factor of the curvature; between 10 and 50 % of the entries should stay unclipped.
      clip_threshold: largest absolute entry of the direction; None doesn't clip.
      update_interval: steps between estimates.
      hessian_diagonal_fn: computes the estimate; None is :func:`hutchinson_estimator_diag_hessian`.
      mu_dtype: dtype that ``mu`` is stored in; None uses each parameter's dtype.
      verbose: print the fraction of entries that are not clipped.
      print_win_rate_every_n_steps: steps between prints.
      first_estimate: step of the first estimate, from 1; it is used from the next step on.
      debias: correct the bias of the momentum towards zero.

    Returns:
      A transformation; 8 bytes of state per float32 parameter.

    Raises:
      ValueError: a number is out of range, or ``update`` is called without the parameters or the extra arg.

    >>> tx = sophia(0.1, gamma=1.0, weight_decay=0.0)
    >>> loss = lambda params: jnp.sum(jnp.array([1.0, 100.0]) * params**2) / 2
    >>> params = jnp.array([0.001, 0.001])
    >>> state = tx.init(params)
    >>> for _ in range(2):
    ...     updates, state = tx.update(jax.grad(loss)(params), state, params, obj_fn=loss)
    ...     print([round(x, 4) for x in updates.tolist()])
    [-0.1, -0.1]
    [-0.01, -0.01]
    """
    check_nonnegative(learning_rate=learning_rate, weight_decay=weight_decay)
    return chain(
        scale_by_sophia(
            b1,
            b2,
            eps,
            gamma,
            clip_threshold,
            update_interval,
            hessian_diagonal_fn,
            mu_dtype,
            verbose,
            print_win_rate_every_n_steps,
            first_estimate=first_estimate,
            debias=debias,
        ),
        add_decayed_weights(weight_decay, weight_decay_mask),
        scale_by_learning_rate(learning_rate),
    )
