"""Build the parts of a run from its configuration: the only module that imports both the optimizers and the model."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from jaxopt_mini import GradientTransformation, GradientTransformationExtraArgs, ParamLayout
from jaxopt_mini.tree import path_name
from jaxopt_mini.wrappers import QKClipState
from minigpt_flax.data import PhaseBatches, Tokenizer, bits_per_unit, evaluation_windows
from minigpt_flax.errors import UserError
from minigpt_flax.model import gpt
from minigpt_flax.model.attention_backend import choose_attention
from minigpt_flax.model.config import ModelConfig, architecture_of
from minigpt_flax.model.flops import training_flops
from minigpt_flax.model.layout import layout as model_layout
from minigpt_flax.model.loss import sum_losses
from minigpt_flax.phases import Phase, Phases, batch_number, sizes_of
from minigpt_flax.spec import Spec, as_user_error, settings
from minigpt_flax.train import memory
from minigpt_flax.train.base_model import parametrized
from minigpt_flax.train.callbacks import on_record
from minigpt_flax.train.compile import CompiledStep, shares_threads
from minigpt_flax.train.config.mesh import batch_shares, check_tensor, choose_mesh, worthwhile
from minigpt_flax.train.config.run_config import RunConfig
from minigpt_flax.train.curvature_probes import due
from minigpt_flax.train.dataset import Dataset, Part, load_dataset
from minigpt_flax.train.evaluate import evaluate, weighted_mean
from minigpt_flax.train.nonfinite import Policy
from minigpt_flax.train.optimizer import IN_PLACE_OF_SPECS, build_optimizer, check_one_step
from minigpt_flax.train.parallel import sharding
from minigpt_flax.train.parallel.launch import LAUNCHERS, Step
from minigpt_flax.train.precision import require
from minigpt_flax.train.probe_wrappers import LastUpdateState, find
from minigpt_flax.train.probes import skips
from minigpt_flax.train.registry import REGISTRIES
from minigpt_flax.train.state import Probe, TrainState, init_state
from minigpt_flax.train.step import make_step

EVALUATION_TOKENS = 4096  # in one batch of a validation
ALWAYS_ON_PROBES: dict[str, Probe] = {skips.__name__: skips}


@dataclass(frozen=True)
class Setup:
    """The parts that need no data: enough to read a checkpoint."""

    config: RunConfig
    model: ModelConfig
    attention_fallback_reason: str  # empty if the attention is the one that was asked for
    shapes: Any  # the parameters, abstract
    layout: Any  # tree of ``ParamLayout``
    flops: Callable[[Phase], int]  # of the matrix products in a step of a phase
    schedule: Callable | None  # None for an optimizer with a learning rate of its own
    tx: GradientTransformationExtraArgs
    draw: Callable[[Any], Any]  # key -> initial parameters
    on_nan: Policy
    init: Callable[[], TrainState]
    optimizer: GradientTransformation | None  # in the place of that of the configuration


@dataclass(frozen=True)
class Run(Setup):
    """The parts of a run, as pure functions and data, without state.

    A custom training loop::

        state = run.init()
        for t in range(run.config.steps):
            state, metrics = run.step(state, run.batches(t))
        results = run.evaluate(state.evaluation_params)
    """

    data: Dataset
    tokenizer: Tokenizer
    batches: Callable[..., Any]  # (number of steps done, skipped=()) -> what ``step`` takes, see `training_batches`
    step: CompiledStep
    step_with_probes: CompiledStep  # the step with the probes of every record
    step_with_periodic_probes: CompiledStep  # and with those that run every N steps
    periods: tuple[int, ...]  # N of each of these
    evaluate: Callable[..., dict[str, float]]  # (params, stop=...), see ``validation``
    mesh: Mesh
    state: TrainState  # abstract, with its shardings

    def step_for(self, number: int) -> CompiledStep:
        """The compiled variant for step ``number``, from 1: with the probes that are due; training is the same.

        If a probe compares two steps, the step before a logged one has probes too.
        """
        every = self.config.log_every
        if not (on_record(number, every) or (self.compares and on_record(number + 1, every))):
            return self.step
        is_due = any(due(number - 1, period) for period in self.periods)
        return self.step_with_periodic_probes if is_due else self.step_with_probes

    @functools.cached_property
    def compares(self) -> bool:
        """Whether a probe compares a step with the one before."""
        return bool(find(self.state.opt_state, LastUpdateState))

    def compile_in_background(self, done: int = 0) -> None:
        """Starts to compile every variant of the step for batches of the shape after ``done`` steps."""
        batch = self.batches(min(done, self.config.steps - 1))
        for step in dict.fromkeys((self.step_with_periodic_probes, self.step, self.step_with_probes)):
            step.compile_in_background(self.state, batch, check=memory.require_planned)


def build(
    config: RunConfig,
    *,
    optimizer: GradientTransformation | None = None,
    data: Dataset | None = None,
    tokenizer: Tokenizer | None = None,
    data_hash: str | None = None,
) -> Run:
    """Builds every part of a run.

    Args:
      config: specs and numbers.
      optimizer: any Optax-compatible transformation; replaces ``opt``, ``lr``, ``schedule``,
        ``clip``, ``group`` and ``wrap`` of the configuration.
      data: replaces ``config.data``.
      tokenizer: of a resumed run; None trains one.
      data_hash: SHA-256 of a resumed run's data; None accepts any data.

    Raises:
      UserError: a spec, a number or a file is wrong.
    """
    return make_run(config, data or load_dataset(config, tokenizer=tokenizer, data_hash=data_hash), optimizer)


def make_run(config: RunConfig, data: Dataset, optimizer: GradientTransformation | None = None) -> Run:
    """Builds every part of a run around its data; see :func:`build`."""
    config = config if optimizer is None else dataclasses.replace(config, **IN_PLACE_OF_SPECS)
    setup = make_setup(config, data.tokenizer, optimizer)
    key = jax.random.key(config.seed)

    def make(axis: str | None, specs: tuple[Spec, ...]) -> Step:
        probes = {"probes": chosen_probes(specs), "observed": bool(specs)}
        losses = loss_sum(dataclasses.replace(setup.model, batch_axis=axis), shapes.opt_state)
        return make_step(losses, setup.tx, setup.schedule, key=key, layout=setup.layout, axis=axis, **probes)

    mesh = sharding.make_mesh(_mesh_sizes(config, setup.shapes))
    check_tensor(mesh.shape.get("tensor", 1), heads=setup.model.heads, kv_heads=setup.model.key_value_heads)
    shapes = jax.eval_shape(setup.init)
    shardings = sharding.state_shardings(mesh, shapes, setup.layout, tensor_axes(setup.shapes))
    batches = training_batches(config, data, mesh)
    if config.probe:  # a value that no probe can take is refused before anything is written
        one_step = lambda: jax.eval_shape(make(None, config.probe), shapes, batches(0))
        as_user_error(f"probe {', '.join(map(str, config.probe))}", one_step)

    @functools.cache
    def compiled(specs: tuple[Spec, ...]) -> CompiledStep:
        return LAUNCHERS[config.parallel].compile(functools.partial(make, specs=specs), mesh, shardings)

    periodic = periods(config.probe)
    known: dict[str, Any] = vars(setup) | {"init": jax.jit(setup.init, out_shardings=shardings)}
    return Run(
        **known,
        data=data,
        tokenizer=data.tokenizer,
        batches=batches,
        step=compiled(()),
        step_with_probes=compiled(tuple(spec for spec in config.probe if spec not in periodic)),
        step_with_periodic_probes=compiled(config.probe),
        periods=tuple(periodic.values()),
        evaluate=validation(setup.model, mesh, data, config.context),
        mesh=mesh,
        state=sharding.abstract(shapes, shardings),
    )


def check_memory(run: Run, count: int = 1) -> None:
    """Refuses a run that doesn't fit into memory.

    Args:
      run: the run.
      count: number of such runs that train at the same time.

    Raises:
      UserError: it doesn't fit.
    """
    state = sharding.device_bytes(run.state)
    memory.require_training(run.config, run.model.vocab_size, state, run.mesh.size)
    memory.require_runs(state, count)


def _mesh_sizes(config: RunConfig, shapes: Any) -> dict[str, int]:
    devices, processes = jax.device_count(), jax.process_count()
    if config.mesh is None and processes == 1:
        parameters = sum(leaf.size for leaf in jax.tree.leaves(shapes))
        devices = worthwhile(devices, cores=jax.default_backend() == "cpu", parameters=parameters)
    sizes = sizes_of(config.batch_size)
    if config.mesh is None and processes == 1:  # a number of devices that divides every batch size
        sizes = (math.gcd(*sizes),)
    return [choose_mesh(config.mesh, size, devices, processes) for size in sizes][0]


def chosen_probes(specs: Iterable[Spec]) -> dict[str, Probe]:
    """The probes that specs name, and those that always run.

    Raises:
      UserError: a spec is wrong.
    """
    return {str(spec): REGISTRIES["probe"].partial(spec) for spec in specs} | ALWAYS_ON_PROBES


def periods(specs: Iterable[Spec]) -> dict[Spec, int]:
    """The specs of probes that run every N steps, each with its N."""
    values = {spec: settings(spec, REGISTRIES["probe"].row(spec)) for spec in specs}
    return {spec: given["every"] for spec, given in values.items() if "every" in given}


def make_setup(config: RunConfig, tokenizer: Tokenizer, optimizer: GradientTransformation | None = None) -> Setup:
    """Builds what doesn't need the data.

    Raises:
      UserError: a spec or a number is wrong.
    """
    precision = REGISTRIES["dtype"].bind(config.dtype)
    require(precision.compute)
    end = end_of_text(config, tokenizer)
    wanted = model_config(config, tokenizer.vocab_size, dtype=precision.compute, end_of_text=end)
    memory.require_weights(config, wanted.vocab_size)
    model, reason = choose_attention(wanted, config.attention)
    key = jax.random.key(config.seed)
    draw = lambda key: precision.store(gpt.init_params(model, key))
    shapes = jax.eval_shape(draw, key)
    layout = jax.tree.map(
        lambda axes: ParamLayout(axes.role, axes.stacked, axes.inputs, axes.outputs), model_layout(shapes)
    )
    schedule, tx = build_optimizer(config, layout, optimizer=optimizer)
    logits = {gpt.ATTENTION_PATH: jnp.zeros((model.layers, model.heads))}
    check_one_step(config, schedule, tx, shapes, {gpt.MAX_LOGITS: logits})
    if model.qk_norm and find(jax.eval_shape(tx.init, shapes), QKClipState):
        raise UserError("--wrap qk_clip has no effect on normalized queries and keys: omit it, or use --no-qk-norm")
    init = jax.jit(lambda: init_state(draw(key), tx))
    flops = lambda phase: phase.step_sequences * training_flops(model, shapes, phase.seq_len)
    policy = REGISTRIES["policy"].bind(config.on_nan)
    return Setup(config, model, reason, shapes, layout, flops, schedule, tx, draw, policy, init, optimizer)


def end_of_text(config: RunConfig, tokenizer: Tokenizer) -> int | None:
    """The token between documents, if attention across it is masked; else None.

    Raises:
      UserError: the tokenizer has no end-of-text token.
    """
    if config.document_mask and tokenizer.eot is None:
        raise UserError(
            f"--document-mask needs an end-of-text token, which the {tokenizer.name} tokenizer lacks: "
            'use --tokenizer "bpe(eot=True)", or omit the flag'
        )
    return tokenizer.eot if config.document_mask else None


def training_batches(config: RunConfig, data: Dataset, mesh: Mesh) -> Callable[..., Any]:
    """``(step, skipped=()) -> batch`` as the step of this configuration takes it; ``skipped`` is a sorted tuple."""
    order = LAUNCHERS[config.parallel].order
    windows = data.batches(config.step_sequences, config.phases.window, config.seed)

    @functools.cache
    def phases(skipped: tuple[int, ...]) -> Phases:
        return config.phases.of_batches(skipped)

    @functools.cache
    def feed(phase: Phase) -> Callable[[int], Any]:
        return sharding.feed(PhaseBatches(windows, phase), *order(phase.accum, phase.batch_size, mesh))

    for phase in config.phases:
        feed(phase)  # a shape that the devices can't divide is refused now

    def batch(step: int, skipped: tuple[int, ...] = ()) -> Any:
        number = batch_number(step, skipped)
        return feed(phases(skipped).at(number))(number)

    return batch


def tensor_axes(shapes: Any) -> dict[str, int | None]:
    """The axis of each parameter, by name, that tensor parallelism divides."""
    return {path_name(path): axes.tensor for path, axes in jax.tree.leaves_with_path(model_layout(shapes))}


def validation(model: ModelConfig, mesh: Mesh, data: Dataset, context: int) -> Callable:
    """``(params, stop) -> results`` of ``evaluate`` over every source, see ``weighted_mean``.

    On any number of devices the windows are the same, and so are the losses that are added up.
    """
    shares = batch_shares(dict(mesh.shape))
    per_batch = max(1, EVALUATION_TOKENS // context // shares) * shares
    losses_of = sharding.on_mesh(window_losses(model), mesh)
    jitted = jax.jit(losses_of, out_shardings=sharding.replicated(mesh))
    compiled = CompiledStep(jitted, block=shares_threads(mesh))
    put = functools.partial(sharding.put, sharding=sharding.batch_sharding(mesh))
    losses = lambda params, *window: compiled(params, *map(put, window))

    def measure(part: Part, params: Any, stop: Callable[[], bool]) -> dict[str, float]:
        results = evaluate(losses, params, evaluation_windows(part.val, context, per_batch), stop)
        bits = bits_per_unit(results["val_loss"], len(part.val), part.val_size)
        return results | ({"val_bits_per_char": bits["bits_per_character"]} if bits else {})

    def run(params: Any, stop: Callable[[], bool] = lambda: False) -> dict[str, float]:
        found = {part.name: measure(part, params, stop) for part in data.parts}
        return weighted_mean(found, [float(weight) for weight in data.weights])

    return run


def model_config(config: RunConfig, vocab_size: int, **known: Any) -> ModelConfig:
    """The model of a run; its attention is plain, and ``known`` fields take precedence.

    The embedding has a row for every token of the tokenizer, and more if ``--vocab-size`` requests them.

    Raises:
      UserError: there are more tokens than rows.
    """
    options = architecture_of(config)
    rows = vocab_size if config.vocab_size is None else config.vocab_size
    if rows < vocab_size:
        raise UserError(
            f"the tokenizer has {vocab_size:,} tokens, but --vocab-size is only {rows:,}: use another --tokenizer, "
            "or a larger --vocab-size"
        )
    return parametrized(config, ModelConfig(**options, vocab_size=rows, **known))


def loss_sum(model: ModelConfig, opt_state: Any = None) -> Callable:
    """``(params, inputs, targets, key) -> (summed loss, tokens)`` of a training step.

    A third result is the largest attention logits, by module, if ``opt_state`` is that of an optimizer with
    :func:`~jaxopt_mini.qk_clip`.
    """
    still = model.dropout == 0

    def loss(params, inputs, targets, key):
        return sum_losses(gpt.losses(model, params, inputs, targets, deterministic=still, dropout_key=key))

    def loss_with_logits(params, inputs, targets, key):
        losses, logits = gpt.losses_and_max_logits(model, params, inputs, targets, deterministic=still, dropout_key=key)
        return *sum_losses(losses), logits

    return loss_with_logits if find(opt_state, QKClipState) else loss


def window_losses(model: ModelConfig) -> Callable:
    """``(params, inputs, targets, mask) -> (summed loss, tokens)`` of each window."""

    def losses(params, inputs, targets, mask):
        found = gpt.losses(model, params, inputs, targets)
        return jax.vmap(lambda *window: sum_losses(*(part[None] for part in window)))(found, mask)

    return losses
