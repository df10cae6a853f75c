"""A run's configuration: one flat dataclass of numbers and parsed specs. Imports no JAX.

Every field is a flag of the command line (``batch_size`` is ``--batch-size``) and a key of ``config.json``. The model's
fields are inherited from :class:`Architecture`. Text is parsed once, when a configuration is created.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from minigpt_flax.bounds import COUNT, DRAWN, NORM, RATE, SEED, SIZE, TOKENS, Bound
from minigpt_flax.errors import UserError, check_name, nearest
from minigpt_flax.model.config import Architecture
from minigpt_flax.phases import SIZES, Phases, Size, Stepwise, as_sizes, check_phases, parse_size, sizes_of
from minigpt_flax.spec import THRESHOLD, Spec, parse
from minigpt_flax.train.config import param_groups
from minigpt_flax.train.config.mesh import check_parallel
from minigpt_flax.train.config.param_groups import ParamGroup
from minigpt_flax.train.config.presets import PRESETS


def _flag(
    default: Any,
    group: str,
    metavar: str,
    help: str,
    *,
    fixed: bool = True,
    bound: Bound | None = None,
    kind: str | None = None,
) -> Any:
    """A field of :class:`RunConfig`.

    Args:
      default: value if neither the preset nor the user sets one; a spec is given as text.
      group: heading in ``--help``.
      metavar: placeholder of the value in ``--help``.
      help: one line of ``--help``; the default may follow in brackets.
      fixed: whether the field affects the run's numbers; ``--resume`` may change the other fields.
      bound: range of a number.
      kind: kind of a spec ("optimizer").
    """
    metadata = {"group": group, "metavar": metavar, "help": help, "fixed": fixed, "bound": bound, "kind": kind}
    return field(default=default, metadata=metadata)


GROUPS = ("optimization", "data", "model", "computing", "devices", "monitoring")  # headings of --help, in order


@dataclass(frozen=True, init=False, kw_only=True)
class RunConfig(Architecture):
    """The complete configuration of a run: with the same data, it gives the same numbers.

    Args:
      preset: preset for the fields that are not given; None uses the defaults of this class. The default learning rate
        is that of the optimizer, which was selected by a sweep, or the preset's where none was made.
      **fields: values; a spec may be given as text.

    Raises:
      UserError: a preset or field is unknown, a text is not a valid spec, or a number is out of range.

    >>> config = RunConfig(preset="nano", opt="lion", steps=50)
    >>> config.opt.name, config.lr, config.width
    ('lion', 0.0005, 128)
    """

    opt: Spec = _flag(
        "adamw", "optimization", "SPEC", "optimizer, or module:factory or FILE.py:factory", kind="optimizer"
    )
    lr: float = _flag(1e-3, "optimization", "NUMBER", "peak learning rate [the optimizer's own]", bound=RATE)
    schedule: Spec = _flag("warmup_cosine", "optimization", "SPEC", "learning-rate schedule", kind="schedule")
    clip: Spec = _flag("clip_by_norm(1.0)", "optimization", "SPEC", "gradient clipping, or none", kind="clip")
    wrap: tuple[Spec, ...] = _flag(
        (), "optimization", "SPEC", "wrapper around clip and optimizer; repeatable", kind="wrapper"
    )
    group: tuple[ParamGroup, ...] = _flag(
        (), "optimization", "GROUP", "WHERE=SPEC: optimizer of a parameter group; repeatable; or none"
    )
    parametrization: Spec = _flag(
        "standard",
        "optimization",
        "SPEC",
        "standard, or mup or completep: hyperparameters of a base model",
        kind="parametrization",
    )
    base_width: int | None = _flag(
        None, "optimization", "N", "width of the base [128 with mup or completep]", bound=SIZE
    )
    base_layers: int | None = _flag(
        None, "optimization", "N", "layers of the base [--layers with mup, 4 with completep]", bound=SIZE
    )
    base_heads: int | None = _flag(None, "optimization", "N", "heads of the base [of the same size]", bound=SIZE)
    tuned_at: str | None = _flag(
        None,
        "optimization",
        "RUN",
        "folder of the run that the numbers were tuned on, or batch=N,steps=N: rescale them [no]",
    )
    steps: int = _flag(1000, "optimization", "N", "optimizer steps", bound=COUNT)
    batch_size: Size = _flag(
        12, "optimization", "N", 'sequences per micro-batch, or "[(0, 8), (500, 16)]": 16 after 500 steps', bound=SIZE
    )
    accum: Size = _flag(
        1, "optimization", "N", "micro-batches per step (gradient accumulation); may change too", bound=SIZE
    )
    seq_len: Size | None = _flag(
        None, "optimization", "N", "tokens per sequence in training; may change too [--context]", bound=SIZE
    )
    tokens_per_step: int | None = _flag(
        None, "optimization", "N", "tokens per step; sets --accum [accum x batch x context]", bound=TOKENS
    )
    seed: int = _flag(0, "optimization", "N", "seed of weights, data order and dropout", bound=SEED)

    data: tuple[str, ...] = _flag(("pydocs",), "data", "SOURCE", "corpus, file, folder, glob or hf:NAME; repeatable")
    mix: str | None = _flag(None, "data", "W,W,...", "share of each --data in the batches [by size]")
    tokenizer: Spec = _flag("char", "data", "SPEC", "char, byte, bpe or gpt2", kind="tokenizer")

    init: str | None = _flag(None, "model", "FROM", "initial weights: a GPT-2 folder, a run, or gpt2 [random]")
    vocab_size: int | None = _flag(None, "model", "N", "rows of the embedding [the tokenizer's]", bound=SIZE)

    dtype: Spec = _flag("float32", "computing", "SPEC", "float32, bfloat16 or bfloat16(params='master')", kind="dtype")
    attention: str = _flag("auto", "computing", "NAME", "plain, cudnn, tpu, or auto: by device", fixed=False)
    document_mask: bool = _flag(False, "computing", "", "mask attention across the ends of documents")

    parallel: str = _flag("jit", "devices", "NAME", "jit, or pmap (replicated)", fixed=False)
    mesh: str | None = _flag(None, "devices", "AXIS=N,...", "axes data, zero, fsdp, tensor [data=ALL]", fixed=False)

    eval_every: int = _flag(
        250, "monitoring", "STEPS", "steps between validations and checkpoints", fixed=False, bound=COUNT
    )
    val_tokens: int | None = _flag(
        None, "monitoring", "N", "validate on the first N tokens of the split [all]", bound=TOKENS
    )
    log_every: int = _flag(10, "monitoring", "STEPS", "steps between records of metrics", fixed=False, bound=COUNT)
    log: tuple[Spec, ...] = _flag(
        (), "monitoring", "NAME", "also log to tensorboard or wandb; repeatable", fixed=False, kind="logger"
    )
    probe: tuple[Spec, ...] = _flag(
        (), "monitoring", "SPEC", "additional measurement during training; repeatable", kind="probe"
    )
    keep: int = _flag(2, "monitoring", "N", "latest checkpoints to keep, beside the best", fixed=False, bound=COUNT)
    keep_every: int | None = _flag(
        None, "monitoring", "STEPS", "also save every N steps, and keep these [no]", fixed=False, bound=COUNT
    )
    on_nan: Spec = _flag("stop", "monitoring", "SPEC", "after a non-finite step: stop, skip or rollback", kind="policy")
    explosion: float = _flag(
        100.0, "monitoring", "NUMBER", "gradient norm that triggers one warning", fixed=False, bound=NORM
    )
    sample_tokens: int = _flag(
        256, "monitoring", "N", "length of the final sample in tokens; 0: none", fixed=False, bound=DRAWN
    )

    def __init__(self, *, preset: str | None = None, **fields: Any):
        values = fields if fields.keys() >= FIELDS.keys() else resolved(fields, preset)
        for name in check_names(values):
            object.__setattr__(self, name, parsed(name, values[name]))

    @property
    def phases(self) -> Phases:
        """The shapes of the batches, step by step."""
        return as_sizes(vars(self))

    @property
    def step_sequences(self) -> int:
        """Sequences per step, in the phase with the most tokens."""
        return self.phases.largest.step_sequences

    @property
    def step_tokens(self) -> int:
        """Tokens per step, in the phase with the most."""
        return self.phases.largest.step_tokens


FIELDS = {f.name: f for f in sorted(dataclasses.fields(RunConfig), key=lambda f: GROUPS.index(f.metadata["group"]))}
FIXED = frozenset(name for name, f in FIELDS.items() if f.metadata["fixed"])
BOUND_OF: dict[str, Bound] = {  # tokens_per_step last: it is a product of other fields
    name: bound
    for name in sorted(FIELDS, key=lambda name: name == "tokens_per_step")
    if (bound := FIELDS[name].metadata["bound"])
}
KIND_OF: dict[str, str] = {name: kind for name, f in FIELDS.items() if (kind := f.metadata.get("kind"))}
TUPLES = frozenset(name for name, f in FIELDS.items() if isinstance(f.default, tuple))
MOST_SEQUENCES = 1 << 62  # maximum of a run: sequences are numbered in 64 bits
NO_GROUPS = ("none",)
STANDARD, BASE, BASE_SIZES = "standard", PRESETS["nano"], ("base_width", "base_layers", "base_heads")
CORPUS_NAMES = ("pydocs", "stdlib")  # as in minigpt_flax.data.CORPORA, whose import needs NumPy; a test compares
HUB = "hf:"
RATES = Path(__file__).with_name("default_rates.txt")


def flag_of(name: str) -> str:
    """The flag of a field.

    >>> flag_of("batch_size")
    '--batch-size'
    """
    return f"--{name.replace('_', '-')}"


def check_names(fields: Iterable[str]) -> Iterable[str]:
    """Return the names, if all are fields of :class:`RunConfig`.

    Raises:
      UserError: a name is not a field; suggests the nearest one.
    """
    for name in fields:
        if name not in FIELDS:
            raise UserError(f"RunConfig has no field {name!r}{nearest(name, FIELDS)}")
    return fields


def parsed(name: str, value: Any, *, trusted: bool = True) -> Any:
    """Parse the text of a field's value; other values are returned unchanged.

    Raises:
      UserError: the text is not a valid spec or group.
    """
    if name in TUPLES and isinstance(value, str):
        value = (value,)
    one = lambda item: _parsed(name, item, trusted)
    return tuple(map(one, value)) if name in TUPLES else one(value)


def _parsed(name: str, value: Any, trusted: bool) -> Any:
    if name in SIZES:
        return value if value is None else parse_size(value, flag_of(name))
    if not isinstance(value, str):
        return value
    if name == "group":
        return param_groups.read_complete(value, trusted=trusted)
    return parse(value, KIND_OF[name], trusted=trusted) if name in KIND_OF else value


def resolve(given: Mapping[str, Any], preset: str | None = None, known: Mapping[str, Any] | None = None) -> RunConfig:
    """Create the configuration of a preset with the given fields; see :func:`resolved`."""
    return RunConfig(**resolved(given, preset, known))


def resolved(
    given: Mapping[str, Any], preset: str | None = None, known: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return the values of all fields.

    A spec with the name of the preset's spec keeps the preset's arguments, unless it sets them: ``--opt adamw`` with
    ``nano`` is ``adamw(b2=0.99, weight_decay=0.1)``. The remaining arguments of an optimizer, and its learning rate,
    come from :func:`default_of`.

    Args:
      given: fields set by the user; None counts as not set.
      preset: preset to start from; None uses the defaults of :class:`RunConfig`.
      known: fields that override the preset, such as the sizes of existing weights.

    Raises:
      UserError: a preset or field is unknown, or a value is out of range.
    """
    chosen = {**({} if preset is None else PRESETS[check_name(preset, PRESETS, "preset")]), **(known or {})}
    typed = {name: value for name, value in given.items() if value is not None}
    groups = typed.pop("group", chosen.pop("group", ()))
    below = {name: parsed(name, value) for name, value in {**_defaults(), **chosen}.items()}
    values = {**below, **normalized(typed, below)}
    own = values["opt"].name == below["opt"].name
    usual = default_of(values["opt"].name)
    if not ("lr" in typed or ("lr" in chosen and own)):
        values["lr"] = usual.keywords.get("lr", RunConfig.lr)
    values["opt"] = values["opt"].over(usual.without("lr"))
    values["group"] = complete_groups(groups, values)
    values = with_base(values)
    values = check(with_accumulation(check_bounds(values), typed))
    if values["tuned_at"] is None:
        return values
    from minigpt_flax.train.scaling import reference_of, rescaled  # import the optimizers

    folder = os.path.expanduser(values["tuned_at"])
    if os.path.isdir(folder):
        values["tuned_at"] = reference_of(folder, values)
    return rescaled(values)[0]


def _defaults() -> dict[str, Any]:
    return {name: f.default for name, f in FIELDS.items()}


def normalized(given: Mapping[str, Any], below: Mapping[str, Any]) -> dict[str, Any]:
    """Normalize given fields as in a configuration: parsed, with absolute paths.

    A spec takes its missing arguments from the spec in ``below``, if that has the same name. A group takes them from
    the run's own optimizer, or from the defaults of the group's optimizer.

    Raises:
      UserError: a field is unknown, a text is not a valid spec, or a number is out of range.
    """
    typed = {name: value for name, value in given.items() if value is not None}
    check_names(typed)
    groups = typed.pop("group", None)
    values = {name: parsed(name, value) for name, value in typed.items()}
    for name, value in values.items():
        if isinstance(value, Spec) and isinstance(below.get(name), Spec):
            values[name] = value.over(below[name]).located()
    if "data" in values:
        values["data"] = tuple(map(absolute, values["data"]))
    if "init" in values and os.path.isdir(os.path.expanduser(values["init"])):
        values["init"] = os.path.abspath(os.path.expanduser(values["init"]))
    return values if groups is None else {**values, "group": complete_groups(groups, {**below, **values})}


def absolute(source: str) -> str:
    """Make the path of a data source absolute, so that the run does not depend on the working directory.

    Built-in corpora, datasets (``hf:NAME``) and names that do not exist are returned unchanged.
    """
    path, mark, name_of_field = source.rpartition("#") if not os.path.lexists(source) else (source, "", "")
    path = os.path.expanduser(path or name_of_field)
    is_path = os.sep in path or os.path.lexists(path) or any(sign in path for sign in "*?[")
    if source in CORPUS_NAMES or source.startswith(HUB) or not is_path:
        return source
    return os.path.abspath(path) + (f"{mark}{name_of_field}" if mark else "")


def default_of(name: str) -> Spec:
    """The defaults of an optimizer, selected by a sweep: ``lr``, its peak learning rate, and other keywords."""
    lines = (line for line in RATES.read_text().splitlines() if line.partition("(")[0] == name)
    return next((parse(line, "optimizer") for line in lines), Spec(name))


def complete_groups(groups: Iterable[str | ParamGroup], values: Mapping[str, Any]) -> tuple[ParamGroup, ...]:
    """Complete groups with the keywords of the run's own optimizer, or with the defaults of theirs.

    A single ``none`` is not a group: it removes those of a preset.
    """
    groups = (groups,) if isinstance(groups, str) else tuple(groups)
    own = dataclasses.replace(values["opt"], keywords={**values["opt"].keywords, "lr": values["lr"]})

    def usual(name: str) -> Spec:
        return own if name == own.name else default_of(name)

    given = () if groups == NO_GROUPS else groups
    complete = lambda group: param_groups.complete(group, usual, values["lr"])
    return tuple(complete(group) if isinstance(group, str) else group for group in given)


def with_base(values: dict[str, Any]) -> dict[str, Any]:
    """Fill in the sizes of the base model: that of the preset whose learning rates are the defaults."""
    name = values["parametrization"].name
    if name == STANDARD:
        return values
    usual = {"base_width": BASE["width"], "base_layers": BASE["layers"] if name == "completep" else values["layers"]}
    return values | {field: size for field, size in usual.items() if values[field] is None}


def with_accumulation(values: dict[str, Any], typed: Collection[str]) -> dict[str, Any]:
    """Derive ``accum`` from ``tokens_per_step``, or ``tokens_per_step`` from ``accum`` if only that was given.

    Raises:
      UserError: ``tokens_per_step`` is not a multiple of the micro-batch; names the nearest multiples.
    """
    wanted, length = values["tokens_per_step"], values["seq_len"] or values["context"]
    if changing := [name for name in SIZES if isinstance(values[name], Stepwise)]:
        if "tokens_per_step" in typed or (wanted is not None and "accum" not in typed):
            raise UserError(
                f"--tokens-per-step {wanted:,} is one number, but {flag_of(changing[0])} changes during the run: give "
                "--accum, a number or points such as [(0, 1), (500, 2)], in its place"
            )
        return {**values, "tokens_per_step": None}
    unit = values["batch_size"] * length
    if wanted is None or unit < 1 or ("accum" in typed and "tokens_per_step" not in typed):
        return {**values, "tokens_per_step": values["accum"] * unit}
    if "accum" in typed:
        return values
    if wanted < 1 or wanted % unit:
        near = {max(1, wanted // unit) * unit, max(1, -(-wanted // unit)) * unit}
        raise UserError(
            f"--tokens-per-step {wanted:,} is not a multiple of {unit:,} = {values['batch_size']} x "
            f"{length} of --batch-size and {'--seq-len' if values['seq_len'] else '--context'}: give "
            f"{' or '.join(f'{number:,}' for number in sorted(near))}"
        )
    return {**values, "accum": wanted // unit}


def check_bounds(values: dict[str, Any]) -> dict[str, Any]:
    """Return the fields, if every number is in its range.

    Raises:
      UserError: a number is out of range.
    """
    for name, bound in BOUND_OF.items():
        for value in sizes_of(values[name]) if name in SIZES else () if values[name] is None else (values[name],):
            bound.check(flag_of(name), value)
    return values


def check(values: dict[str, Any]) -> dict[str, Any]:
    """Return the fields, if they are consistent; the arguments of specs are checked elsewhere.

    Raises:
      UserError: a number is out of range, or two fields contradict each other.
    """
    check_bounds(values)
    steps, phases = values["steps"], as_sizes(values)
    if steps * phases.largest.step_sequences > MOST_SEQUENCES:
        raise UserError(
            f"--steps {steps:,} of {phases.largest.step_sequences:,} sequences each are more than 2**62 sequences: "
            "lower --steps, --batch-size or --accum"
        )
    check_phases(phases, values["context"])
    for phase in phases:
        if values["tokens_per_step"] not in (None, phase.step_tokens):
            raise UserError(
                f"--tokens-per-step {values['tokens_per_step']:,} is not {phase.step_tokens:,} = {phase.accum} x "
                f"{phase.batch_size} x {phase.seq_len}, the product of --accum, --batch-size and "
                f"{'--seq-len' if values['seq_len'] else '--context'}: omit one of these flags"
            )
    check_parallel(values["parallel"], values["mesh"])
    if values["parametrization"].name == STANDARD:
        for name in BASE_SIZES:
            if values[name] is not None:
                raise UserError(
                    f"{flag_of(name)} {values[name]} is for --parametrization mup or completep: give one of them, or "
                    "omit the flag"
                )
    clip = values["clip"]
    if any(value == 0 for value in (*clip.args, clip.keywords.get(THRESHOLD))):
        raise UserError(f"--clip {clip} blocks every gradient: give a threshold above 0, or --clip none")
    return values


def changed(config: RunConfig, **fields: Any) -> RunConfig:
    """Replace some fields of a configuration, and check the result.

    Raises:
      UserError: a value is out of range.
    """
    return RunConfig(**check({**vars(config), **{name: parsed(name, value) for name, value in fields.items()}}))


def with_trust(config: RunConfig, trusted: bool) -> RunConfig:
    """Allow importing the optimizers of a configuration, if the user trusts the folder that it was read from."""
    mark = lambda spec: dataclasses.replace(spec, trusted=spec.trusted or trusted)
    groups = tuple(dataclasses.replace(group, spec=mark(group.spec)) for group in config.group)
    return dataclasses.replace(config, opt=mark(config.opt), group=groups)


def as_text(config: RunConfig) -> dict[str, Any]:
    """All fields as in ``config.json``: specs and groups as text."""
    return {name: _text(value) for name, value in ((name, getattr(config, name)) for name in FIELDS)}


def _text(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_text(item) for item in value]
    return str(value) if isinstance(value, Spec | ParamGroup | Stepwise) else value
