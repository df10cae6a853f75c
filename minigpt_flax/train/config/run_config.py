"""What a run is: one flat dataclass of words and numbers, the presets, and how the two meet. Imports no JAX.

Every field is a flag of the command line (``batch_size`` is ``--batch-size``) and a key of ``config.json``.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from minigpt_flax.bounds import COUNT, DRAWN, NORM, RATE, SEED, SIZE, TOKENS, Bound
from minigpt_flax.errors import UserError, check_name
from minigpt_flax.invocation import show
from minigpt_flax.model.config import BOUNDS
from minigpt_flax.runs.schema import SMALL, check_fields, check_type, parse_json, read_text, types_of
from minigpt_flax.spec import THRESHOLD, Word, parse
from minigpt_flax.train.config import param_groups
from minigpt_flax.train.config.mesh import check_parallel


def _flag(default: Any, group: str, metavar: str, help: str, *, fixed: bool = True, bound: Bound | None = None) -> Any:
    """A field of :class:`RunConfig`.

    Args:
      default: its default value.
      group: heading in ``--help``.
      metavar: stands for the value in ``--help``.
      help: one line of ``--help``.
      fixed: whether it changes the run's numbers; ``--resume`` may change a field that doesn't.
      bound: range of a number; a number of the model has its range in ``minigpt_flax.model.config.BOUNDS``.
    """
    metadata = {"group": group, "metavar": metavar, "help": help, "fixed": fixed, "bound": bound}
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class RunConfig:
    """One run, completely: the same config on the same data gives the same numbers."""

    opt: str = _flag("adamw", "optimization", "WORD", "optimizer")
    lr: float = _flag(1e-3, "optimization", "NUMBER", "peak learning rate", bound=RATE)
    schedule: str = _flag("warmup_cosine", "optimization", "WORD", "learning-rate schedule")
    clip: str = _flag("clip_by_norm(1.0)", "optimization", "WORD", "gradient clip, or none")
    wrap: tuple[str, ...] = _flag((), "optimization", "WORD", "wrapper around clip and optimizer; may be repeated")
    group: tuple[str, ...] = _flag((), "optimization", "G", "WHERE=WORD: an optimizer for a role; repeatable; or none")
    steps: int = _flag(1000, "optimization", "N", "optimizer steps", bound=COUNT)
    batch_size: int = _flag(12, "optimization", "N", "sequences that are worked on at a time", bound=SIZE)
    accum: int = _flag(1, "optimization", "N", "micro-batches of --batch-size that a step adds up", bound=SIZE)
    tokens_per_step: int | None = _flag(
        None,
        "optimization",
        "N",
        "choose --accum so that a step has so many tokens",
        bound=TOKENS,
    )
    seed: int = _flag(0, "optimization", "N", "of weights, data order and dropout", bound=SEED)

    data: tuple[str, ...] = _flag(("pydocs",), "data", "SOURCE", "corpus, file, folder, glob, hf:NAME; may be repeated")
    mix: str | None = _flag(None, "data", "W,W,...", "share of each --data in the batches [by size]")
    tokenizer: str = _flag("char", "data", "WORD", "char, byte, bpe or gpt2")

    init: str | None = _flag(None, "model", "FROM", "weights to start from: a GPT-2 folder, a run, or gpt2")
    vocab_size: int | None = _flag(None, "model", "N", "tokens that the model has rows for [tokenizer's]")
    layers: int = _flag(4, "model", "N", "transformer blocks")
    heads: int = _flag(4, "model", "N", "attention heads; must divide the width")
    kv_heads: int | None = _flag(None, "model", "N", "key and value heads, if fewer (grouped query)")
    width: int = _flag(128, "model", "N", "width of the residual stream")
    hidden: int | None = _flag(None, "model", "N", "width of the MLP [4 widths; 8/3 if gated]")
    context: int = _flag(64, "model", "N", "tokens that a prediction sees at most")
    norm: str = _flag("layernorm", "model", "NAME", "layernorm or rmsnorm")
    position: str = _flag("learned", "model", "NAME", "learned, rope, half_rope or none")
    rope_base: float = _flag(10000.0, "model", "NUMBER", "base of the angles that rope turns by")
    norm_eps: float = _flag(1e-5, "model", "NUMBER", "added to the variance in norms")
    mlp: str = _flag("gelu", "model", "NAME", "gelu, gelu_tanh, swiglu or relu2")
    bias: bool = _flag(False, "model", "", "biases in linear layers and norms")
    norm_bias: bool = _flag(True, "model", "", "biases in norms, if linear layers have them")
    head_bias: bool = _flag(False, "model", "", "a bias of the logits")
    tie_head: bool = _flag(True, "model", "", "share the embedding with the head")
    embedding_norm: bool = _flag(False, "model", "", "normalise the embedding")
    qk_norm: bool = _flag(False, "model", "", "normalise queries and keys")
    qk_norm_scale: bool = _flag(True, "model", "", "with a learned scale")
    attention_scale: float | None = _flag(None, "model", "NUMBER", "of queries times keys [1 / sqrt(head size)]")
    softcap: float | None = _flag(None, "model", "NUMBER", "bound C of the logits [none]")
    softcap_form: str = _flag("tanh", "model", "NAME", "C tanh(x / C), or algebraic: C x / sqrt(x^2 + C^2)")
    init_scheme: str = _flag("gpt2", "model", "NAME", "how weights are drawn: gpt2 or zero_out")
    dropout: float = _flag(0.0, "model", "NUMBER", "probability of dropping out")

    dtype: str = _flag("float32", "computing", "WORD", "float32, bfloat16 or bfloat16(params='master')")
    attention: str = _flag("auto", "computing", "NAME", "plain, cudnn, tpu, or auto: by device")
    remat: str = _flag("none", "computing", "NAME", "what of a block is computed twice: none, full or dots")
    scan_layers: bool = _flag(False, "computing", "", "compile the blocks as one loop: quicker for deep models")
    loss_chunk: int | None = _flag(None, "computing", "N", "tokens whose logits are made at once; 0: all [by size]")
    document_mask: bool = _flag(False, "computing", "", "let no attention cross the end of a document")

    parallel: str = _flag("jit", "devices", "NAME", "jit, or pmap (replicated, other dropout masks)", fixed=False)
    mesh: str | None = _flag(None, "devices", "AXIS=N,...", "axes data, zero, fsdp, tensor [data=ALL]", fixed=False)

    eval_every: int = _flag(250, "watching", "STEPS", "between validations and checkpoints", bound=COUNT)
    log_every: int = _flag(10, "watching", "STEPS", "between lines of metrics.jsonl", fixed=False, bound=COUNT)
    log: tuple[str, ...] = _flag(
        (), "watching", "NAME", "log to tensorboard or wandb too; may be repeated", fixed=False
    )
    probe: tuple[str, ...] = _flag((), "watching", "WORD", "measure more in the steps; may be repeated")
    keep: int = _flag(2, "watching", "N", "latest checkpoints to keep, beside the best", fixed=False, bound=COUNT)
    keep_every: int | None = _flag(
        None, "watching", "STEPS", "save every so many steps too, and keep those [none]", fixed=False, bound=COUNT
    )
    on_nan: str = _flag("stop", "watching", "WORD", "if a step isn't finite: stop, skip or rollback")
    explosion: float = _flag(
        100.0,
        "watching",
        "NUMBER",
        "warn once of a gradient norm above this",
        fixed=False,
        bound=NORM,
    )
    sample_tokens: int = _flag(
        256,
        "watching",
        "N",
        "length of the sample at the end; 0 for none",
        fixed=False,
        bound=DRAWN,
    )

    @property
    def step_sequences(self) -> int:
        """Sequences in a step."""
        return self.accum * self.batch_size

    @property
    def step_tokens(self) -> int:
        """Tokens in a step."""
        return self.step_sequences * self.context


NANO = {
    "opt": "adamw(b2=0.99, weight_decay=0.1)",
    "schedule": "warmup_cosine(warmup=0.05, floor=0.1)",
    "clip": "clip_by_norm(1.0)",
    "steps": 2000,
    "batch_size": 12,
    "layers": 4,
    "heads": 4,
    "width": 128,
    "context": 64,
    "dropout": 0.0,
    "bias": False,
}
PRESETS: dict[str, dict[str, Any]] = {
    "nano": NANO,
    "nanogpt": {**NANO, "lr": 1e-3},
    "demo": {**NANO, "steps": 1500, "eval_every": 250, "lr": 3e-3, "schedule": "warmup_cosine(warmup=0.1, floor=0.0)"},
    "sprint": {
        **NANO,
        "opt": 'muon(ns_steps=4, preconditioning="aol")',  # a product less each, for the same orthogonality
        "lr": 0.03,
        "schedule": "warmup_cosine(warmup=0.05, floor=0.0)",
        "steps": 300,
        "eval_every": 300,
        "norm": "rmsnorm",
        "position": "rope",
        "mlp": "relu2",
        "qk_norm": True,
    },
    "char": {
        **NANO,
        "lr": 1e-3,
        "schedule": "warmup_cosine(warmup=0.02, floor=0.1)",
        "steps": 5000,
        "batch_size": 64,
        "layers": 6,
        "heads": 6,
        "width": 384,
        "context": 256,
        "dropout": 0.2,
    },
    "course": {
        **NANO,
        "opt": "adamw(b1=0.9, b2=0.999, eps=1e-08, weight_decay=0.01)",
        "lr": 1e-4,
        "schedule": "cosine",
        "steps": 1000,
    },
}
GPT2 = {  # on top of the sizes, as Karpathy's llm.c trains each; its warm-up is 700 steps in all of them
    "opt": "adamw(b2=0.95, weight_decay=0.1)",
    "clip": "clip_by_norm(1.0)",
    "tokens_per_step": 1 << 19,
    "context": 1024,
    "norm": "layernorm",
    "position": "learned",
    "mlp": "gelu_tanh",
    "bias": True,
    "dropout": 0.0,
    "tokenizer": "gpt2",
    "dtype": "bfloat16",
}
PRESETS |= {
    "gpt2": {
        **GPT2,
        "lr": 6e-4,
        "schedule": "warmup_cosine(warmup=0.0371, floor=0.0)",
        "steps": 18_865,
        "batch_size": 32,
        "layers": 12,
        "heads": 12,
        "width": 768,
    },
    "gpt2-medium": {
        **GPT2,
        "lr": 3e-4,
        "schedule": "warmup_cosine(warmup=0.01167, floor=0.0)",
        "steps": 60_000,
        "batch_size": 32,
        "layers": 24,
        "heads": 16,
        "width": 1024,
    },
    "gpt2-large": {
        **GPT2,
        "lr": 2.5e-4,
        "schedule": "warmup_cosine(warmup=0.002447, floor=0.0)",
        "steps": 286_102,
        "batch_size": 16,
        "layers": 36,
        "heads": 20,
        "width": 1280,
    },
    "gpt2-xl": {
        **GPT2,
        "lr": 6e-4,
        "schedule": "warmup_cosine(warmup=0.021875, floor=0.1)",
        "tokens_per_step": 1 << 20,
        "steps": 32_000,
        "batch_size": 8,
        "layers": 48,
        "heads": 25,
        "width": 1600,
    },
}
# modded-nanogpt's benchmark of optimizers (Jordan et al., track 3): model, data and batch are given, and wanted is an
# optimizer that reaches a loss of 3.28 in fewer steps than the 3250 of this one. Gradients are summed over the tokens
# of a step there and averaged here, so whatever is added to their size is as many times smaller.
SPEEDRUN_TOKENS = 1 << 19
SPEEDRUN_AUX = f"b1=0.8, b2=0.95, eps={1e-10 / SPEEDRUN_TOKENS:.4g}, weight_decay=0.001"
PRESETS["speedrun"] = {
    "opt": f"muon(ns_coeffs=(2.0, -1.5, 0.5), ns_steps=12, eps={1e-7 / SPEEDRUN_TOKENS:.4g}, weight_decay=0.05, "
    "debias=False, ns_dtype='bfloat16')",
    "lr": 0.025,
    "group": (
        f"embedding=adamw({SPEEDRUN_AUX}, lr=0.7)",
        f"head=adamw({SPEEDRUN_AUX}, lr=0.004)",
        f"vector=adamw({SPEEDRUN_AUX}, mask=None, lr=0.015)",
    ),
    "schedule": "wsd(warmup=0, cooldown=0.7, shape='linear')",
    "clip": "none",
    "steps": 3250,
    "batch_size": 64,
    "tokens_per_step": SPEEDRUN_TOKENS,
    "eval_every": 125,
    "tokenizer": "gpt2",
    "vocab_size": 50_304,
    "layers": 12,
    "heads": 6,
    "width": 768,
    "context": 1024,
    "norm": "rmsnorm",
    "norm_eps": 2.0**-23,
    "position": "half_rope",
    "rope_base": 1024.0,
    "mlp": "relu2",
    "bias": True,
    "norm_bias": False,
    "head_bias": True,
    "tie_head": False,
    "embedding_norm": True,
    "qk_norm": True,
    "qk_norm_scale": False,
    "attention_scale": 0.12,
    "softcap": 15.0,
    "softcap_form": "algebraic",
    "init_scheme": "zero_out",
    "dropout": 0.0,
    "dtype": "bfloat16",
}
PRESET_NOTES = {
    "nano": "0.8 M parameters, each optimizer at its own rate; default on a CPU",
    "nanogpt": "nanoGPT's CPU recipe: nano with AdamW at 1e-3",
    "demo": "nano, shorter and faster: what `make demo` runs",
    "sprint": "nanoGPT's loss of 2000 steps on tiny Shakespeare, in 300 steps",
    "char": "nanoGPT's GPU recipe, 10.7 M parameters; default on a GPU or TPU",
    "course": "the course's MiniGPT settings: AdamW 1e-4, cosine over 1000 steps",
    "gpt2": "GPT-2, 124 M parameters, by llm.c's recipe; give it --data",
    "gpt2-medium": "the same, 355 M parameters",
    "gpt2-large": "the same, 774 M parameters",
    "gpt2-xl": "the same, 1,558 M parameters",
    "speedrun": "modded-nanogpt's benchmark of optimizers, 162 M; give it --data",
}
WORDS = {
    "opt": "optimizer",
    "schedule": "schedule",
    "clip": "clip",
    "tokenizer": "tokenizer",
    "dtype": "dtype",
    "on_nan": "policy",
}
NO_GROUPS = ("none",)
VERSION = 2  # of config.json
IN_EVERY_VERSION = frozenset(
    "opt lr schedule clip steps batch_size seed data tokenizer layers heads kv_heads width hidden context norm "
    "position mlp bias tie_head qk_norm softcap dropout eval_every log_every probe keep explosion sample_tokens".split()
)
DEFAULTS = Path(__file__).with_name("default_rates.txt")


def defaults() -> dict[str, Word]:
    """What a run takes for each optimizer where nothing is said, as a sweep found it: ``lr``, a peak, and keywords."""
    return {word.name: word for word in (parse(line, "optimizer") for line in DEFAULTS.read_text().splitlines())}


def resolve(given: dict[str, Any], preset: str, known: Mapping[str, Any] | None = None) -> RunConfig:
    """Lays what was typed over a preset.

    A word that names the preset's own row keeps the preset's arguments where it says nothing of them: ``--opt adamw``
    under ``nano`` is ``adamw(b2=0.99, weight_decay=0.1)``. What neither says of an optimizer, above all its learning
    rate, is as :func:`defaults` has it.

    Args:
      given: what was typed; None where nothing was.
      preset: what to begin with.
      known: what must be whatever the preset says, such as the sizes of weights that are there already.

    Raises:
      UserError: an unknown preset, or a value out of range.
    """
    chosen = {**PRESETS[check_name(preset, PRESETS, "preset")], **(known or {})}
    typed = one_or_several({key: value for key, value in given.items() if value is not None})
    below = {**{f.name: f.default for f in dataclasses.fields(RunConfig)}, **chosen}
    values = spelled_out({**below, **typed}, below)
    opt = parse(values["opt"], "optimizer")
    usual = defaults().get(opt.name, Word(opt.name))
    if not ("lr" in typed or ("lr" in chosen and opt.name == parse(below["opt"], "optimizer").name)):
        values["lr"] = usual.keywords.get("lr", RunConfig.lr)
    config = RunConfig(**{**values, "opt": str(opt.over(usual.without("lr")))})
    config = check(with_accumulation(config, typed))
    return dataclasses.replace(config, group=canonical_groups(config.group, config))


def with_accumulation(config: RunConfig, typed: Container[str]) -> RunConfig:
    """Lets ``accum`` follow from ``tokens_per_step``, or that from ``accum`` where only that was typed.

    Raises:
      UserError: no number of batches makes a step of so many tokens; names the nearest that does.
    """
    wanted, unit = config.tokens_per_step, config.batch_size * config.context
    if wanted is None or unit < 1 or ("accum" in typed and "tokens_per_step" not in typed):
        return dataclasses.replace(config, tokens_per_step=config.step_tokens)
    if "accum" in typed:
        return config
    if wanted < 1 or wanted % unit:
        near = {max(1, wanted // unit) * unit, max(1, -(-wanted // unit)) * unit}
        raise UserError(
            f"--tokens-per-step {wanted:,} is no multiple of the {unit:,} = {config.batch_size} x {config.context} of "
            f"--batch-size and --context: take {' or '.join(f'{number:,}' for number in sorted(near))}"
        )
    return dataclasses.replace(config, accum=wanted // unit)


def one_or_several(values: dict[str, Any]) -> dict[str, Any]:
    """The same values, with a lone source in a tuple: runs had only one at first, and many have only one."""
    data = values.get("data")
    return {**values, "data": (data,)} if isinstance(data, str) else values


def spelled_out(typed: dict[str, Any], below: dict[str, Any]) -> dict[str, Any]:
    """Values with every word in its one spelling, and with what it leaves open taken from ``below``."""
    full = dict(typed)
    for key in WORDS.keys() & typed.keys():
        full[key] = str(parse(typed[key], WORDS[key]).over(parse(below[key], WORDS[key])))
    if "wrap" in typed:
        full["wrap"] = tuple(str(parse(text, "wrapper")) for text in typed["wrap"])
    return full


def complete_groups(texts: Iterable[str], config: RunConfig) -> list[param_groups.Group]:
    """Groups with everything that they leave open filled in, by the run's own optimizer or by the table.

    A lone ``none`` is no group: what is typed to leave out those of a preset.
    """
    opt = parse(config.opt, "optimizer")
    table = {**defaults(), opt.name: Word(opt.name, opt.args, {**opt.keywords, "lr": config.lr})}
    given = () if tuple(texts) == NO_GROUPS else texts
    return [param_groups.complete(text, table, config.lr) for text in given]


def canonical_groups(texts: Iterable[str], config: RunConfig) -> tuple[str, ...]:
    """The same, as text."""
    return tuple(map(str, complete_groups(texts, config)))


def default_preset(backend: str) -> str:
    """The preset when none is named, by JAX's name of the device's kind."""
    return "nano" if backend == "cpu" else "char"


MOST_SEQUENCES = 1 << 62  # of a run: they are numbered in 64 bits
BOUND_OF: dict[str, Bound] = {
    f.name: bound for f in dataclasses.fields(RunConfig) if (bound := f.metadata["bound"] or BOUNDS.get(f.name))
}
FIXED = frozenset(f.name for f in dataclasses.fields(RunConfig) if f.metadata["fixed"])


def flag_of(name: str) -> str:
    """A field as it is typed.

    >>> flag_of("batch_size")
    '--batch-size'
    """
    return f"--{name.replace('_', '-')}"


def check(config: RunConfig) -> RunConfig:
    """Refuses numbers that no run can have; what a row of a table takes is checked by the row.

    Raises:
      UserError: a number is out of range.
    """
    for name, bound in BOUND_OF.items():
        value = getattr(config, name)
        if value is not None:
            bound.check(flag_of(name), value)
    if config.steps * config.step_sequences > MOST_SEQUENCES:
        raise UserError(
            f"--steps {config.steps:,} of {config.step_sequences:,} sequences each are more than 2**62 sequences: "
            "lower --steps, --batch-size or --accum"
        )
    if config.tokens_per_step not in (None, config.step_tokens):
        raise UserError(
            f"--tokens-per-step {config.tokens_per_step:,} is not {config.step_tokens:,} = {config.accum} x "
            f"{config.batch_size} x {config.context}, what --accum, --batch-size and --context make: leave one out"
        )
    check_parallel(config.parallel, config.mesh)
    clip = parse(config.clip, "clip")
    if any(value == 0 for value in (*clip.args, clip.keywords.get(THRESHOLD))):
        raise UserError(
            f"--clip {clip} lets no gradient through: give a threshold above 0, or --clip none to clip nothing"
        )
    return config


def to_json(config: RunConfig) -> str:
    """The config as it is kept in the run's folder."""
    return json.dumps({"version": VERSION, **dataclasses.asdict(config)}, indent=2) + "\n"


class Stored(NamedTuple):
    """What ``config.json`` holds.

    Attributes:
      config: the fields.
      version: of the format: 2, or 1 for a file that names none.
      assumed: fields that version 1 lacks, with the value taken for each; empty for version 2.
    """

    config: RunConfig
    version: int
    assumed: str


def from_json(text: str, where: str) -> Stored:
    """Reads a config back. Version 2 has every field; version 1 may lack those that were added later.

    Raises:
      UserError: it is none, is of a later version, or names the field that is unknown, missing, or of another type.
    """
    values = parse_json(text, where)
    version = check_type(values.pop("version", 1), int, f"{where}: version")
    if version not in (1, VERSION):
        raise UserError(f"{where} is of version {version}, which this release doesn't know (it reads 1 and {VERSION})")
    fields = types_of(RunConfig)
    missing = [name for name in fields if name not in values and version == 1 and name not in IN_EVERY_VERSION]
    try:
        config = check(RunConfig(**check_fields(one_or_several(values), fields, where, optional=missing)))
    except UserError as error:
        raise UserError(f"{error}" if where in str(error) else f"{where} is damaged: {error}") from error
    return Stored(config, version, ", ".join(f"{name}={getattr(config, name)!r}" for name in missing))


def read_config(path: Path) -> Stored:
    """Reads the ``config.json`` of a run; says on stderr what an old file leaves open.

    Raises:
      UserError: see :func:`from_json`.
    """
    stored = from_json(read_text(path, SMALL), show(path))
    if stored.assumed:
        print(f"{show(path)} is of version 1; assumed: {stored.assumed}", file=sys.stderr)
    return stored


def words(config: RunConfig) -> dict[str, Word]:
    """The parsed words of a config, by field."""
    return {key: parse(getattr(config, key), kind) for key, kind in WORDS.items()}
