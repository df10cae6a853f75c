"""Words to objects: the one place that knows both the optimizers and the model."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
from jax.sharding import Mesh

from jaxopt_mini import GradientTransformationExtraArgs, ParamLayout
from jaxopt_mini.tree import path_name
from minigpt_flax.data import Tokenizer, bits_per_character, evaluation_windows
from minigpt_flax.errors import UserError
from minigpt_flax.model import gpt
from minigpt_flax.model.choice import choose_attention
from minigpt_flax.model.config import ModelConfig
from minigpt_flax.model.flops import training_flops
from minigpt_flax.model.layout import layout as model_layout
from minigpt_flax.model.loss import total
from minigpt_flax.train import sharding
from minigpt_flax.train.config import RunConfig
from minigpt_flax.train.dataset import Dataset, Part, load_dataset
from minigpt_flax.train.evaluate import evaluate, together
from minigpt_flax.train.launch import LAUNCHERS, Step, patient
from minigpt_flax.train.mesh import batch_shares, check_tensor, choose_mesh, worthwhile
from minigpt_flax.train.metrics import Metrics
from minigpt_flax.train.on_nan import Policy
from minigpt_flax.train.optimizer import build_optimizer, rehearse
from minigpt_flax.train.precision import require
from minigpt_flax.train.probes import skips
from minigpt_flax.train.specs import bind, blame, parse, ready
from minigpt_flax.train.state import TrainState, init_state
from minigpt_flax.train.step import make_step
from minigpt_flax.train.tables import KINDS
from minigpt_flax.train.view import Probe

EVALUATION_TOKENS = 4096  # in one batch of a validation
UNASKED: dict[str, Probe] = {skips.__name__: skips}  # measured in every step


@dataclass(frozen=True)
class Design:
    """What words and numbers decide without the data: enough to read a checkpoint."""

    config: RunConfig
    model: ModelConfig
    hindered: str  # why the attention is another than the wanted one; empty if it isn't
    shapes: Any  # the parameters, abstract
    layout: Any
    flops: int  # products of matrices in a step
    schedule: Callable
    tx: GradientTransformationExtraArgs
    draw: Callable[[Any], Any]  # key -> initial parameters
    on_nan: Policy
    init: Callable[[], TrainState]


@dataclass(frozen=True)
class Run(Design):
    """A run, ready to go: pure functions and data, no state."""

    data: Dataset
    tokenizer: Tokenizer
    batches: Callable[[int], Any]  # step -> what ``step`` takes
    step: Callable[[TrainState, Any], tuple[TrainState, Mapping]]
    observed: Callable[[TrainState, Any], tuple[TrainState, Mapping]]  # the step with its probes
    evaluate: Callable[..., dict[str, float]]  # (params, stop=...), see ``validation``
    mesh: Mesh
    state: TrainState  # abstract, with its shardings


def build(config: RunConfig, *, tokenizer: Tokenizer | None = None, data_hash: str | None = None) -> Run:
    """Builds every part of a run from its words and numbers.

    Args:
      config: the words and numbers.
      tokenizer: of the run that goes on; None trains one.
      data_hash: of the data that the run began with; None takes any.

    Raises:
      UserError: a word, a number or a file is wrong.
    """
    data = load_dataset(config, tokenizer=tokenizer, data_hash=data_hash)
    plan = design(config, data.tokenizer)
    key = jax.random.key(config.seed)
    losses = loss_sum(plan.model)

    def make(axis: str | None, probes: Mapping[str, Probe]) -> Step:
        step = make_step(losses, plan.tx, plan.schedule, key=key, layout=plan.layout, probes=probes, axis=axis)

        def packing(state: TrainState, batch: Any) -> tuple[TrainState, Metrics]:
            state, metrics = step(state, batch)
            return state, Metrics.of(metrics)

        return packing

    bare, probed = functools.partial(make, probes=UNASKED), functools.partial(make, probes=chosen_probes(config))
    mesh = sharding.make_mesh(_mesh_sizes(config, plan.shapes))
    check_tensor(mesh.shape.get("tensor", 1), heads=plan.model.heads, kv_heads=plan.model.key_value_heads)
    shapes = jax.eval_shape(plan.init)
    shardings = sharding.state_shardings(mesh, shapes, plan.layout, tensor_axes(plan.shapes))
    batches = training_batches(config, data, mesh)
    if config.probe:  # a value that no probe can take shows before anything is written
        blame(f"probe {', '.join(config.probe)}", lambda: jax.eval_shape(probed(None), shapes, batches(0)))
    launched = lambda make: patient(LAUNCHERS[config.parallel].compile(make, mesh, shardings), mesh)
    step = launched(bare)
    known: dict[str, Any] = vars(plan) | {"init": jax.jit(plan.init, out_shardings=shardings)}
    return Run(
        **known,
        data=data,
        tokenizer=data.tokenizer,
        batches=batches,
        step=step,
        observed=launched(probed) if config.probe else step,
        evaluate=validation(plan.model, mesh, data, config.context),
        mesh=mesh,
        state=sharding.abstract(shapes, shardings),
    )


def _mesh_sizes(config: RunConfig, shapes: Any) -> dict[str, int]:
    devices, processes = jax.device_count(), jax.process_count()
    if config.mesh is None and processes == 1:
        parameters = sum(leaf.size for leaf in jax.tree.leaves(shapes))
        devices = worthwhile(devices, cores=jax.default_backend() == "cpu", parameters=parameters)
    return choose_mesh(config.mesh, config.batch_size, devices, processes)


def chosen_probes(config: RunConfig) -> dict[str, Probe]:
    """The probes of a run by their words, and what is always measured.

    Raises:
      UserError: a word is wrong.
    """
    kind = KINDS["probe"]
    return {text: ready(parse(text, "probe"), kind.table, "probe", kind.given) for text in config.probe} | UNASKED


def design(config: RunConfig, tokenizer: Tokenizer) -> Design:
    """Builds what doesn't need the data.

    Raises:
      UserError: a word or a number is wrong.
    """
    precision = bind(parse(config.dtype, "dtype"), KINDS["dtype"].table, "dtype")
    require(precision.compute)
    wanted = model_config(
        config, tokenizer.vocab_size, dtype=precision.compute, end_of_text=end_of_text(config, tokenizer)
    )
    model, hindered = choose_attention(wanted, config.attention)
    key = jax.random.key(config.seed)
    draw = lambda key: precision.store(gpt.init_params(model, key))
    shapes = jax.eval_shape(draw, key)
    layout = jax.tree.map(
        lambda axes: ParamLayout(axes.role, axes.stacked, axes.inputs, axes.outputs), model_layout(shapes)
    )
    schedule, tx = build_optimizer(config, layout)
    rehearse(config, schedule, tx, shapes)
    init = jax.jit(lambda: init_state(draw(key), tx))
    flops = config.step_sequences * training_flops(model, shapes, config.context)
    policy = bind(parse(config.on_nan, "policy"), KINDS["policy"].table, "policy")
    return Design(config, model, hindered, shapes, layout, flops, schedule, tx, draw, policy, init)


def end_of_text(config: RunConfig, tokenizer: Tokenizer) -> int | None:
    """The token between documents, if the run keeps them apart.

    Raises:
      UserError: it should, and the tokenizer has none.
    """
    if config.document_mask and tokenizer.eot is None:
        raise UserError(
            f"--document-mask needs a token that ends a text, which the {tokenizer.name} tokenizer lacks: "
            'take --tokenizer "bpe(eot=True)", or leave the flag out'
        )
    return tokenizer.eot if config.document_mask else None


def training_batches(config: RunConfig, data: Dataset, mesh: Mesh) -> Callable[[int], Any]:
    """``step -> batch`` as the step of this configuration takes it."""
    batches = data.batches(config.step_sequences, config.context, config.seed)
    return sharding.feed(batches, *LAUNCHERS[config.parallel].order(config.accum, config.batch_size, mesh))


def tensor_axes(shapes: Any) -> dict[str, int | None]:
    """The axis of each parameter, by name, that tensor parallelism divides."""
    return {path_name(path): axes.tensor for path, axes in jax.tree.leaves_with_path(model_layout(shapes))}


def validation(model: ModelConfig, mesh: Mesh, data: Dataset, context: int) -> Callable:
    """``(params, stop) -> results`` of ``evaluate`` over every source, see ``together``.

    On any number of devices the windows are the same, and so are the losses that are added up.
    """
    shares = batch_shares(dict(mesh.shape))
    per_batch = max(1, EVALUATION_TOKENS // context // shares) * shares
    compiled = patient(jax.jit(window_losses(model), out_shardings=sharding.replicated(mesh)), mesh)
    put = functools.partial(sharding.put, sharding=sharding.batch_sharding(mesh))
    losses = lambda params, *window: compiled(params, *map(put, window))

    def measure(part: Part, params: Any, stop: Callable[[], bool]) -> dict[str, float]:
        results = evaluate(losses, params, evaluation_windows(part.val, context, per_batch), stop)
        if part.characters is not None:
            results["val_bits_per_char"] = bits_per_character(results["val_loss"], len(part.val), part.characters)
        return results

    def run(params: Any, stop: Callable[[], bool] = lambda: False) -> dict[str, float]:
        found = {part.name: measure(part, params, stop) for part in data.parts}
        return together(found, [float(weight) for weight in data.weights])

    return run


def model_config(config: RunConfig, vocab_size: int, **known: Any) -> ModelConfig:
    """The fields of a run that describe its model, with those that are ``known`` otherwise; the attention is plain.

    The model has a row for every token of the tokenizer, and more where the run asks for them.

    Raises:
      UserError: there are more tokens than rows.
    """
    names = {f.name for f in dataclasses.fields(ModelConfig)} & {f.name for f in dataclasses.fields(RunConfig)}
    values: dict[str, Any] = {name: getattr(config, name) for name in names} | {"attention": "plain"} | known
    rows = vocab_size if config.vocab_size is None else config.vocab_size
    if rows < vocab_size:
        raise UserError(
            f"the tokenizer has {vocab_size:,} tokens, and the model rows for {rows:,} only: take another "
            "--tokenizer, or a larger --vocab-size"
        )
    return ModelConfig(**{**values, "vocab_size": rows})


def loss_sum(model: ModelConfig) -> Callable:
    """``(params, inputs, targets, key) -> (summed loss, tokens)`` of a training step."""

    def loss(params, inputs, targets, key):
        return total(gpt.losses(model, params, inputs, targets, deterministic=model.dropout == 0, dropout_key=key))

    return loss


def window_losses(model: ModelConfig) -> Callable:
    """``(params, inputs, targets, mask) -> (summed loss, tokens)`` of each window."""

    def losses(params, inputs, targets, mask):
        found = gpt.losses(model, params, inputs, targets)
        return jax.vmap(lambda *window: total(*(part[None] for part in window)))(found, mask)

    return losses
