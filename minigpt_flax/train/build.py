"""Words to objects: the one place that knows both the optimizers and the model."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import jax
from jax.sharding import Mesh

from jaxopt_mini import GradientTransformationExtraArgs, ParamLayout
from jaxopt_mini.tree import path_name
from minigpt_flax.data import Tokenizer, bits_per_character, evaluation_windows
from minigpt_flax.errors import UserError
from minigpt_flax.model import gpt
from minigpt_flax.model.attention_backend import choose_attention
from minigpt_flax.model.config import ModelConfig
from minigpt_flax.model.flops import training_flops
from minigpt_flax.model.layout import layout as model_layout
from minigpt_flax.model.loss import total
from minigpt_flax.spec import bind, blame, parse, ready, settings
from minigpt_flax.train import memory
from minigpt_flax.train.callbacks import on_record
from minigpt_flax.train.config.mesh import batch_shares, check_tensor, choose_mesh, worthwhile
from minigpt_flax.train.config.run_config import RunConfig
from minigpt_flax.train.curvature_probes import due
from minigpt_flax.train.dataset import Dataset, Part, load_dataset
from minigpt_flax.train.evaluate import evaluate, together
from minigpt_flax.train.metrics import Metrics
from minigpt_flax.train.nonfinite import Policy
from minigpt_flax.train.optimizer import build_optimizer, rehearse
from minigpt_flax.train.parallel import sharding
from minigpt_flax.train.parallel.launch import LAUNCHERS, Step, patient
from minigpt_flax.train.precision import require
from minigpt_flax.train.probe_wrappers import LastUpdateState, find
from minigpt_flax.train.probes import skips
from minigpt_flax.train.registry import KINDS
from minigpt_flax.train.state import TrainState, init_state
from minigpt_flax.train.step import make_step
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
    step: Step
    observed: Step  # the step with the probes of every record
    looking: Step  # with those too that look only now and then
    periods: tuple[int, ...]  # steps between two looks of each of these
    evaluate: Callable[..., dict[str, float]]  # (params, stop=...), see ``validation``
    mesh: Mesh
    state: TrainState  # abstract, with its shardings

    def at(self, number: int) -> Step:
        """The program for step ``number``, from 1: it measures what is due there, and otherwise does the same.

        The step before one on record is observed too, where a probe compares the two.
        """
        every = self.config.log_every
        if not (on_record(number, every) or (self.compares and on_record(number + 1, every))):
            return self.step
        return self.looking if any(due(number - 1, period) for period in self.periods) else self.observed

    @functools.cached_property
    def compares(self) -> bool:
        """Whether a probe compares a step with the one before."""
        return bool(find(self.state.opt_state, LastUpdateState))

    def each_step(self, change: Callable[[Step], Step]) -> Run:
        """The run with all programs of its step changed, what comes first first; those that are one stay one."""
        changed = functools.cache(change)
        return dataclasses.replace(
            self, looking=changed(self.looking), step=changed(self.step), observed=changed(self.observed)
        )


def build(config: RunConfig, *, tokenizer: Tokenizer | None = None, data_hash: str | None = None) -> Run:
    """Builds every part of a run from its words and numbers.

    Args:
      config: the words and numbers.
      tokenizer: of the run that goes on; None trains one.
      data_hash: of the data that the run began with; None takes any.

    Raises:
      UserError: a word, a number or a file is wrong.
    """
    return assemble(config, load_dataset(config, tokenizer=tokenizer, data_hash=data_hash))


def assemble(config: RunConfig, data: Dataset) -> Run:
    """Builds every part of a run around its data.

    Raises:
      UserError: a word or a number is wrong.
    """
    plan = design(config, data.tokenizer)
    key = jax.random.key(config.seed)
    losses = loss_sum(plan.model)

    def make(axis: str | None, words: tuple[str, ...]) -> Step:
        told = {"probes": chosen_probes(words), "observed": bool(words)}
        one = make_step(losses, plan.tx, plan.schedule, key=key, layout=plan.layout, axis=axis, **told)

        def step(state: TrainState, batch: Any) -> tuple[TrainState, Metrics]:
            state, metrics = one(state, batch)
            return state, Metrics.of(metrics)

        return step

    mesh = sharding.make_mesh(_mesh_sizes(config, plan.shapes))
    check_tensor(mesh.shape.get("tensor", 1), heads=plan.model.heads, kv_heads=plan.model.key_value_heads)
    shapes = jax.eval_shape(plan.init)
    shardings = sharding.state_shardings(mesh, shapes, plan.layout, tensor_axes(plan.shapes))
    batches = training_batches(config, data, mesh)
    if config.probe:  # a value that no probe can take shows before anything is written
        blame(
            f"probe {', '.join(config.probe)}",
            lambda: jax.eval_shape(make(None, config.probe), shapes, batches(0)),
        )

    @functools.cache
    def launched(words: tuple[str, ...]) -> Step:
        compiled = LAUNCHERS[config.parallel].compile(functools.partial(make, words=words), mesh, shardings)
        return patient(compiled, mesh)

    seldom = periods(config.probe)
    known: dict[str, Any] = vars(plan) | {"init": jax.jit(plan.init, out_shardings=shardings)}
    return Run(
        **known,
        data=data,
        tokenizer=data.tokenizer,
        batches=batches,
        step=launched(()),
        observed=launched(tuple(word for word in config.probe if word not in seldom)),
        looking=launched(config.probe),
        periods=tuple(seldom.values()),
        evaluate=validation(plan.model, mesh, data, config.context),
        mesh=mesh,
        state=sharding.abstract(shapes, shardings),
    )


def fits(run: Run, count: int = 1) -> None:
    """Refuses a run that doesn't fit into memory.

    Args:
      run: the run.
      count: so many of them train at the same time.

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
    return choose_mesh(config.mesh, config.batch_size, devices, processes)


def chosen_probes(words: Iterable[str]) -> dict[str, Probe]:
    """The probes that words name, by these, and what is always measured.

    Raises:
      UserError: a word is wrong.
    """
    kind = KINDS["probe"]
    return {text: ready(parse(text, "probe"), kind.table, "probe", kind.given) for text in words} | UNASKED


def periods(words: Iterable[str]) -> dict[str, int]:
    """Those of the words of probes that look only now and then, each with the steps between two looks."""
    found = {text: parse(text, "probe") for text in words}
    values = {text: settings(word, KINDS["probe"].table[word.name]) for text, word in found.items()}
    return {text: given["every"] for text, given in values.items() if "every" in given}


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
    memory.require_weights(config, wanted.vocab_size)
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
    losses_of = sharding.on_mesh(window_losses(model), mesh)
    compiled = patient(jax.jit(losses_of, out_shardings=sharding.replicated(mesh)), mesh)
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
