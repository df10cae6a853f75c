"""What ``benchmarks.gpu`` measures of one accelerator: sections, each a generator of rows."""

from __future__ import annotations

import dataclasses
import functools
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks import peers
from benchmarks.apart import Apart
from benchmarks.candidates import FLOATS_MOVED, FLOATS_SCALED, compiled, ours
from benchmarks.timing import race, ratios
from benchmarks.trees import model_tree
from jaxopt_mini import apply_updates
from minigpt_flax.compare.traced_run import stack, trace_run
from minigpt_flax.data.tokenizers.ids import Ids
from minigpt_flax.model.attention import ATTENTION
from minigpt_flax.model.attention_backend import deviation, fallback_reason
from minigpt_flax.model.config import ModelConfig
from minigpt_flax.model.fused_cross_entropy import one_pass_losses
from minigpt_flax.model.lm_head import SOFTCAPS
from minigpt_flax.model.loss import token_losses
from minigpt_flax.train.build import build, loss_sum, make_setup
from minigpt_flax.train.config.run_config import resolve
from minigpt_flax.train.devices import peak_flops
from minigpt_flax.train.step import make_step
from minigpt_flax.train.throughput import planned

NANOGPT_ROUNDS = 7
BLOCKS, CALLS = 3, 10  # timed blocks, calls in each: as many as SOAP's updates from one pair of bases to the next
SLOW = 10.0  # a scatter to repeated places that takes this many times one to distinct places is the regression
RATE = 1e-3

Row = tuple[str, dict[str, Any]]  # what was measured, and what came of it


@dataclass(frozen=True)
class Sizes:
    """How large everything is; the small one only shows that it runs.

    Attributes:
      scatter: tokens, width and vocabularies.
      attention: shapes (batch, length, heads, size of a head).
      dtype: of activations.
      models: presets, and what is changed of each; the first also for the optimizers.
      vocab_size: of these models.
      batch: sequences in a step, where nothing else is said.
      batches: to be compared with it.
      accum: micro-batches of the largest batch in a step as it was published.
      tree: of the updates without a step, a row of ``benchmarks.trees.MODELS``.
      sweep: preset of the runs of the sweep, and changes to it.
      runs: of the sweep.
      peers: folder that has nanoGPT, None where it isn't compared.
    """

    scatter: tuple[int, int, tuple[int, ...]]
    attention: tuple[tuple[int, int, int, int], ...]
    dtype: str
    models: dict[str, dict[str, Any]]
    vocab_size: int
    batch: int
    batches: tuple[int, ...]
    accum: int
    tree: str
    sweep: tuple[str, dict[str, Any]]
    runs: int
    peers: Path | None = None


SMALL = {"context": 16, "layers": 2, "heads": 2, "width": 32}
FULL = Sizes(
    scatter=(65536, 768, (65, 256, 50304)),
    attention=((16, 1024, 12, 64), (32, 1024, 6, 128), (8, 2048, 12, 64), (4, 4096, 16, 128)),
    dtype="bfloat16",
    models={"gpt2": {}, "speedrun": {}},
    vocab_size=50304,
    batch=32,
    batches=(8, 16, 64),
    accum=8,
    tree="gpt2",
    sweep=("char", {}),
    runs=16,
)
TINY = Sizes(
    scatter=(64, 8, (7,)),
    attention=((2, 16, 2, 8),),
    dtype="float32",
    models={"speedrun": {**SMALL, "vocab_size": 61}},
    vocab_size=61,
    batch=2,
    batches=(4,),
    accum=2,
    tree="nano",
    sweep=("nano", {**SMALL, "batch_size": 4}),
    runs=2,
)


def timed(call: Callable[[], Any], calls: int = CALLS) -> float:
    """Median seconds of a call, in blocks of which only the last result is waited for; two more before don't count."""
    seconds = []
    jax.block_until_ready([call() for _ in range(2)][-1])
    for _ in range(BLOCKS):
        start = time.perf_counter()
        jax.block_until_ready([call() for _ in range(calls)][-1])
        seconds.append((time.perf_counter() - start) / calls)
    return statistics.median(seconds)


def repeated(function: Callable[[Any], Any], carry: Any) -> Callable[[], Any]:
    """A call that hands its result to the next one, so that it may be donated."""

    def call() -> Any:
        nonlocal carry
        carry = function(carry)
        return carry

    return call


def attempt(measure: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any]:
    """What was measured, or why it could not be: out of memory, say."""
    try:
        return measure(*arguments)
    except Exception as error:  # whatever a compiler or a driver raises
        return {"error": one_line(error)}


def one_line(error: Exception) -> str:
    """An error in at most 200 characters."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]


def scatter(size: Sizes) -> Iterator[Row]:
    """The gradient of an embedding, whose tokens repeat, against a scatter to distinct places and a product."""
    tokens, width, vocabularies = size.scatter
    grads = jax.random.normal(jax.random.key(0), (tokens, width))
    add = jax.jit(lambda table, places: table.at[places].add(grads))
    distinct, free = jax.random.permutation(jax.random.key(1), tokens), jnp.zeros((tokens, width))
    reference = timed(lambda: add(free, distinct))
    yield "distinct places", {"ms": reference * 1e3}
    for vocabulary in vocabularies:
        places = jax.random.randint(jax.random.key(2), (tokens,), 0, vocabulary)
        table = jnp.zeros((vocabulary, width))
        product = jax.jit(lambda places, n=vocabulary: jax.nn.one_hot(places, n).T @ grads)
        seconds, other = (timed(call) for call in (lambda: add(table, places), lambda: product(places)))  # noqa: B023
        found = {"ms": seconds * 1e3, "one_hot_ms": other * 1e3, "times_distinct": seconds / reference}
        yield f"{vocabulary} places", found | {"regression": seconds > SLOW * reference}


def attention(size: Sizes) -> Iterator[Row]:
    """Forward and backward of every implementation that this device has, and how far it is from the plain one."""
    for batch, length, heads, head_size in size.attention:
        sizes = {"context": length, "heads": heads, "width": heads * head_size}
        model = ModelConfig(vocab_size=1, dtype=size.dtype, **sizes)
        for name, row in ATTENTION.items():
            title = f"{name} {batch} x {length} x {heads} x {head_size}"
            why = fallback_reason(row, model)
            yield title, {"absent": why} if why else attempt(attention_row, row, model, batch)


def attention_row(row: Any, model: ModelConfig, batch: int) -> dict[str, Any]:
    """One of them."""
    shape = (batch, model.context, model.heads, model.head_size)
    given = [jax.random.normal(key, shape, model.dtype) for key in jax.random.split(jax.random.key(0), 3)]
    square = lambda *given: jnp.sum(jnp.square(row.attend(*given).astype(jnp.float32)))
    grads = jax.jit(jax.grad(square, argnums=(0, 1, 2)))
    return {"ms": timed(lambda: grads(*given)) * 1e3, "deviation": deviation(row, model)}


class TrainingStep:
    """A whole training step as ``train.py`` does it, on random tokens.

    Args:
      size: of everything.
      preset: of the run.
      changes: to it.

    Attributes:
      config: of the run.
      plan: of the run.
      compile_seconds: what tracing and compiling took.
      program: the compiled step.
    """

    def __init__(self, size: Sizes, preset: str, changes: dict[str, Any]):
        fields = {"dtype": size.dtype, "batch_size": size.batch, "accum": 1} | size.models[preset] | changes
        self.config = config = resolve(fields, preset)
        self.plan, key = make_setup(config, Ids(size.vocab_size)), jax.random.key(0)
        plan = self.plan
        step = make_step(loss_sum(plan.model), plan.tx, plan.schedule, key=key, layout=plan.layout)
        phase = config.phases.largest
        shape = (phase.accum,) * (phase.accum > 1) + (phase.batch_size, phase.seq_len + 1)
        self.tokens, self.state = jax.random.randint(key, shape, 0, size.vocab_size), plan.init()
        start = time.perf_counter()
        self.program = jax.jit(step, donate_argnums=0).lower(self.state, self.tokens).compile()
        self.compile_seconds = time.perf_counter() - start

    def __call__(self) -> jax.Array:
        """Trains a step; its loss."""
        self.state, metrics = self.program(self.state, self.tokens)
        return metrics["loss"]


def training_step(size: Sizes, preset: str, changes: dict[str, Any]) -> dict[str, Any]:
    """A training step, measured against the device."""
    step = TrainingStep(size, preset, changes)
    plan, seconds = step.plan, timed(step, max(2, CALLS // step.config.phases.largest.accum))
    peak = peak_flops(jax.devices()[0].device_kind, plan.model.dtype)
    return {
        "ms": seconds * 1e3,
        "tokens_per_second": step.config.step_tokens / seconds,
        "mfu": None if peak is None else plan.flops(step.config.phases.largest) / seconds / peak,
        "memory_bytes": planned(step.program.memory_analysis()),
        "compile_seconds": step.compile_seconds,
        "attention": plan.model.attention
        + (f" ({plan.attention_fallback_reason})" if plan.attention_fallback_reason else ""),
        "loss": float(step()),
    }


def loss(size: Sizes) -> Iterator[Row]:
    """Loss and gradient of bounded logits of a step of the base: read in one pass, against the plain form."""
    length = next(iter(size.attention))[1]
    shape, bound = (size.batch, length, size.vocab_size), functools.partial(SOFTCAPS["algebraic"], bound=15.0)
    logits = jax.jit(lambda key: 3 * jax.random.normal(key, shape))(jax.random.key(0))
    targets = jax.random.randint(jax.random.key(1), shape[:2], 0, size.vocab_size)
    forms = {"plain": lambda a, t: token_losses(bound(a), t), "one pass": functools.partial(one_pass_losses, bound)}
    for name, form in forms.items():

        def narrow(logits: Any, targets: Any, form: Any = form) -> Any:  # the gradient as a product would take it
            value, slope = jax.value_and_grad(lambda logits: form(logits, targets).mean())(logits)
            return value, slope.astype(size.dtype)

        call = functools.partial(jax.jit(narrow), logits, targets)
        yield name, {"ms": timed(call) * 1e3, "loss": float(call()[0])}


def train(size: Sizes) -> Iterator[Row]:
    """A step of every model, and one change at a time."""
    largest = max(size.batches)
    changes: dict[str, dict[str, Any]] = {"base": {}}
    changes |= {"whole step": {"batch_size": largest, "accum": size.accum}}
    changes |= {"layers as a loop": {"scan_layers": True}}
    changes |= {"loss at once": {"loss_chunk": 0}, "plain attention": {"attention": "plain"}}
    changes |= {f"batch {batch}": {"batch_size": batch} for batch in size.batches}
    changes |= {f"remat {name}": {"remat": name} for name in ("full", "dots")}
    for title, change in changes.items():
        for name in size.models:
            yield f"{name}, {title}", attempt(training_step, size, name, change)


def optimizer(size: Sizes) -> Iterator[Row]:
    """Updates alone against the speed of memory, and their share of a step: what SGD's step doesn't have.

    Beside the share of a step of one micro-batch that of a whole one, whose micro-batches share an update.
    """
    tree = model_tree(size.tree)
    floats = lambda seed: jax.tree.map(jnp.array, tree.filled(seed, 0.02))
    scale = jax.jit(lambda row, one: row * one, donate_argnums=0)
    row = jnp.ones(tree.size)
    floor = timed(repeated(lambda row: scale(row, jnp.float32(1)), row)) * FLOATS_MOVED / FLOATS_SCALED
    yield "memory floor of AdamW", {"update_ms": floor * 1e3}

    def update(name: str) -> dict[str, Any]:
        tx, params, grads = ours(name, RATE, tree), floats(0), floats(1)
        state = jax.jit(tx.init)(params)
        _, program = compiled(tx, apply_updates, params, state, grads)
        seconds = timed(repeated(lambda carry: program(*carry, grads), (params, state)))
        return {"update_ms": seconds * 1e3, "times_floor": seconds / floor}

    without = None
    for name in ("sgd", "adamw", "muon", "soap"):
        found = attempt(update, name) | attempt(training_step, size, next(iter(size.models)), {"opt": name})
        without = without or found.get("ms")
        if without and "ms" in found:
            whole = without * max(size.batches) * size.accum / size.batch + found["ms"] - without
            found |= {"share": 1 - without / found["ms"], "share_of_whole": (found["ms"] - without) / whole}
        yield name, found


def nanogpt(size: Sizes) -> Iterator[Row]:
    """A step of the first model in turns with nanoGPT's, compiled by torch, in bfloat16, with its fused AdamW."""
    preset = next(iter(size.models))
    absent = peers.why_not("nanoGPT/model", size.peers, device="gpu")
    if absent is not None or size.peers is None:
        yield "nanoGPT", {"absent": absent}
        return
    step = TrainingStep(size, preset, {})
    theirs = Apart(nanogpt_steps, size.peers, step.plan.model, size.batch, CALLS)
    candidates = {"jaxopt_mini": lambda: jax.block_until_ready([step() for _ in range(CALLS)]), "nanoGPT": theirs}
    seconds = race(candidates, NANOGPT_ROUNDS)
    for name, times in seconds.items():
        rate = step.config.step_tokens * CALLS / statistics.median(times)
        over = {"over_nanogpt": ratios(times, seconds["nanoGPT"])["median"]} if name != "nanoGPT" else {}
        yield f"{preset}, {name}", {"ms": statistics.median(times) * 1e3 / CALLS, "tokens_per_second": rate} | over


def nanogpt_steps(folder: Path, config: ModelConfig, batch: int, steps: int) -> Callable[[], None]:
    """As nanoGPT's ``train.py`` does them on a GPU."""
    import torch

    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    model = peers.nanogpt(folder, config).to("cuda")
    _, step = peers.nanogpt_training(model, RATE, (0.9, 0.95), device="cuda", compiled=True)
    tokens = torch.randint(config.vocab_size, (batch, config.context + 1), device="cuda")
    inputs, targets = (part.contiguous() for part in (tokens[:, :-1], tokens[:, 1:]))

    def turn() -> None:
        for _ in range(steps):
            step(inputs, targets)
        torch.cuda.synchronize()

    return turn


def sweep(size: Sizes) -> Iterator[Row]:
    """Runs that differ in seed and learning rate, in one program: what one costs, against one alone."""
    preset, changes = size.sweep
    base = resolve({**changes, "mesh": "data=1"}, preset)
    parts = trace_run(build(base), CALLS)
    configs = [dataclasses.replace(base, seed=i, lr=base.lr * (1 + i % 2)) for i in range(size.runs)]
    each = [(parts.knobs(config), parts.single(config).batches(0)) for config in configs]
    knobs, batch = each[0]
    alone = timed(repeated(lambda carry: parts.step(knobs, carry[0], batch), (parts.init(knobs), None)))
    yield "1 run", {"ms": alone * 1e3, "tokens_per_second": base.step_tokens / alone}
    every, batches = stack(each)
    start = parts.init_many(every), None
    seconds = timed(repeated(lambda carry: parts.step_many(every, carry[0], batches), start))
    found = {"ms": seconds * 1e3, "tokens_per_second": size.runs * base.step_tokens / seconds}
    yield f"{size.runs} runs", found | {"against_one_by_one": seconds / (size.runs * alone)}


SECTIONS: dict[str, Callable[[Sizes], Iterator[Row]]] = {
    f.__name__: f for f in (scatter, attention, loss, train, optimizer, nanogpt, sweep)
}
