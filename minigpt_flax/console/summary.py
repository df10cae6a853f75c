"""The summary before a run, as text of 80 columns: data, model, optimizer, weight decay by tensor."""

from __future__ import annotations

import math
import textwrap
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any

import jax

from jaxopt_mini.tree import by_name, path_name
from minigpt_flax.data import unigram_entropy
from minigpt_flax.invocation import show
from minigpt_flax.phases import Phases
from minigpt_flax.spec import Spec, settings
from minigpt_flax.text import counted
from minigpt_flax.train.base_model import base_of, initial_std
from minigpt_flax.train.build import Run
from minigpt_flax.train.clock import quantity
from minigpt_flax.train.config.mesh import spell_mesh
from minigpt_flax.train.config.param_groups import REST, members, with_layers
from minigpt_flax.train.config.run_config import STANDARD, RunConfig
from minigpt_flax.train.curvature_probes import WORK
from minigpt_flax.train.decay_rates import decay_rates
from minigpt_flax.train.multipliers import factors_of, labels, runs_in_blocks
from minigpt_flax.train.optimizer import CUSTOM
from minigpt_flax.train.parallel.sharding import device_bytes
from minigpt_flax.train.probes import PROBES, parameter_states
from minigpt_flax.train.registry import REGISTRIES, is_frozen

COLUMNS = 80
VARIES = "varies"  # a weight decay that is no constant multiple of the learning rate
LABEL = 11  # columns of the labels on the left


def summary(run: Run) -> list[tuple[str, str]]:
    """Returns (label, text) pairs; a text may have several lines."""
    config = run.config
    decays = decay_rates(config, run.layout, run.shapes)
    rates = {path_name(path): rate for path, rate in jax.tree.leaves_with_path(decays)}
    texts = [
        ("device", _devices(run)),
        ("data", _data(run)),
        ("model", f"{_model(run)}\n{_roles(run, rates)}"),
        *([] if config.init is None else [("weights", f"from {show(config.init)}")]),
        ("compute", _compute(run)),
        ("batch", _batch(config.phases, config.steps)),
        ("optimizer", _optimizers(run)),
        ("lr", _learning_rates(run)),
        *([] if config.tuned_at is None else [("tuned at", f"{config.tuned_at}, rescaled when the run started")]),
        *([] if config.parametrization.name == STANDARD else [("transfer", _transfer(run, rates))]),
        ("clip", str(config.clip)),
        *(("wrapper", str(spec)) for spec in config.wrap),
        ("decay", "set by the optimizer" if decays is None else _decay(rates)),
        *(("probe", _probe(spec, config.step_sequences)) for spec in config.probe),
    ]
    return [(label, _wrapped(text.split("\n"))) for label, text in texts]


def _devices(run: Run) -> str:
    """The devices; with several, also how the run is sharded over them."""
    count, used = jax.device_count(), run.mesh.size
    text = f"{count} x {run.mesh.devices.flat[0].device_kind}, JAX {jax.__version__}"
    if count > used:
        text = f"{used} of {text}{_reason(run)}"
    if used == 1:
        return text
    axes = spell_mesh(dict(run.mesh.shape))
    parameters, states = _share(run.state.params), _share(run.state.opt_state)
    return f"{text}\n{run.config.parallel}, mesh {axes}\nper device: parameters {parameters},\n  optimizer {states}"


def _reason(run: Run) -> str:
    """Why not all devices are used, if the batch size is why."""
    sizes, batch = run.mesh.shape, run.config.batch_size
    batch = f"{batch}" if isinstance(batch, int) else f'"{batch}"'
    limited = run.config.mesh is None and sizes.get("data", 1) > 1
    return f"\n(the largest number that divides --batch-size {batch})" if limited else ""


def _share(part: Any) -> str:
    """Bytes of a tree on one device, and in total."""
    whole = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(part))
    return f"{quantity(device_bytes(part), 'B')} of {quantity(whole, 'B')}"


def _batch(phases: Phases, steps: int) -> str:
    """Tokens per step: micro-batches (if several) x sequences x tokens per sequence; a line for each phase."""
    if len(phases) == 1:
        return f"{phases.at(0)} per step, {counted(steps, 'step')}"
    lines = [f"from step {phase.first + 1:,}: {phase} per step" for phase in phases]
    return "\n".join([*lines, f"{phases.tokens_after(steps):,} tokens in {counted(steps, 'step')}"])


def _data(run: Run) -> str:
    parts, vocab_size = run.data.parts, run.tokenizer.vocab_size
    lines = [f"{p.name}: {len(p.train):,} training and {len(p.val):,} validation tokens" for p in parts]
    if len(parts) > 1:
        lines = [f"{line}, {float(w):.4g} of a batch" for line, w in zip(lines, run.data.weights, strict=True)]
    entropies = ", ".join(f"{unigram_entropy(part.train, vocab_size):.2f}" for part in parts)
    lines.append(f"{run.tokenizer.name} tokenizer, {vocab_size:,} tokens, unigram entropy {entropies} nats")
    return "\n".join(lines)


def _model(run: Run) -> str:
    model, count = run.model, sum(leaf.size for leaf in jax.tree.leaves(run.shapes))
    return f"{_size(model)}, context {model.context}: {counted(count, 'parameter')}"


def _size(model: Any) -> str:
    return f"{counted(model.layers, 'layer')}, {counted(model.heads, 'head')}, width {model.width}"


def _compute(run: Run) -> str:
    """Dtype, attention kernel and the reason for a fallback, activation checkpointing, loop over layers."""
    config, model = run.config, run.model
    reason = f" ({run.attention_fallback_reason})" if run.attention_fallback_reason else ""
    parts = [str(config.dtype), f"{model.attention} attention{reason}"]
    parts += [f"remat {model.remat}"] * (model.remat != RunConfig.remat) + ["loop over layers"] * model.scan_layers
    parts += ["attention masked across documents"] * (model.end_of_text is not None)
    return ", ".join(parts)


def _roles(run: Run, rates: dict[str, float]) -> str:
    """A table by role: tensors, parameters, weight decay, and the optimizer's state."""
    fields = defaultdict(set)
    for field, owner, _ in parameter_states(jax.eval_shape(run.init).opt_state, run.layout):
        fields[owner].add(field)
    groups: dict[str, list[tuple[str, int]]] = {}
    leaves = zip(jax.tree.leaves_with_path(run.layout), jax.tree.leaves(run.shapes), strict=True)
    for (path, entry), leaf in leaves:
        groups.setdefault(entry.role, []).append((path_name(path), leaf.size))
    rows = [("role", "tensors", "parameters", "decay", "state")]
    for role, entries in groups.items():
        decays = ", ".join(sorted({_fraction(rates[name]) for name, _ in entries if name in rates})) or "-"
        state = ", ".join(sorted(set().union(*(fields[name] for name, _ in entries)))) or "none"
        rows.append((role, str(len(entries)), f"{sum(size for _, size in entries):,}", decays, state))
    wide = max(6, *(len(decays) for *_, decays, _ in rows)) + 2
    return "\n".join(f"{a:10s}{b:>8s}{c:>13s}  {d:{wide}s}{e}" for a, b, c, d, e in rows)


def _optimizers(run: Run) -> str:
    """The optimizer of each parameter group, in the order of the flags; the other tensors have the run's optimizer."""
    groups, own = run.config.group, str(run.config.opt)
    if not groups:
        return own
    assigned = labels(run.config, run.layout)
    specs = {str(i): str(group.spec) for i, group in enumerate(groups)} | {REST: own}
    parts = {label: members(assigned, label) for label in specs}
    return _listed((specs[label], [with_layers(*part) for part in found.items()]) for label, found in parts.items())


def _learning_rates(run: Run) -> str:
    """Peak and schedule of the run, and of each group that has a learning rate."""
    config = run.config
    if run.schedule is None:
        return "set by the optimizer"
    groups = [group for group in config.group if not is_frozen(group.spec)]
    lines = [(group.where, group.lr, group.schedule or config.schedule) for group in groups]
    rest = not config.group or members(labels(config, run.layout), REST)
    lines = [(REST if lines else "", config.lr, config.schedule)] * bool(rest) + lines
    return "\n".join(f"{where}{': ' * bool(where)}peak {peak:g}, {schedule}" for where, peak, schedule in lines)


def _listed(groups: Iterable[tuple[str, list[str]]]) -> str:
    """A paragraph for each group of tensors that isn't empty: its title and their names."""
    shown = ((title, counted(len(names), "tensor"), patterns(names)) for title, names in groups if names)
    return "\n".join(f"{title} on {count}: {', '.join(names)}" for title, count, names in shown)


def _wrapped(lines: Iterable[str]) -> str:
    """The lines broken at the last column; what continues a line is indented."""
    fill = lambda line: textwrap.fill(line, COLUMNS - LABEL, subsequent_indent="  ", break_on_hyphens=False)
    return "\n".join(map(fill, lines))


def _transfer(run: Run, rates: dict[str, float]) -> str:
    """The base, and what its hyperparameters become for each role of this model."""
    config, model = run.config, run.model
    base = base_of(config, model)
    scales = {"embedding": model.embedding_scale, "branches": model.residual_scale, "logits": model.logit_scale}
    scales |= {} if model.attention_scale is None else {"attention scores": model.attention_scale}
    rows: dict[tuple[str, ...], int] = {}
    for row in _transferred(run, rates):
        rows[row] = rows.get(row, 0) + 1
    head = ("role", "tensors", "std", "lr", "decay", "eps")
    table = [head, *((role, str(count), *cells) for (role, *cells), count in rows.items())]
    lines = [f"{a:16s}{b:>8s}  {c:9s}{d:10s}{e:10s}{f}" for a, b, c, d, e, f in table]
    in_blocks = ", ".join(dict.fromkeys(spec.name for spec in _specs(config) if runs_in_blocks(spec, config)))
    return "\n".join(
        [
            f"{config.parametrization}, base: {_size(base)}",
            ", ".join(f"{name} x {scale:.4g}" for name, scale in scales.items()),
            *([f"{in_blocks}: in blocks of the base's shapes"] if in_blocks else []),
            *lines,
        ]
    )


def _specs(config: RunConfig) -> list[Spec]:
    """The optimizers of a run."""
    return [config.opt, *(group.spec for group in config.group)]


def _transferred(run: Run, rates: dict[str, float]) -> Iterator[tuple[str, ...]]:
    """Role, initial standard deviation, peak learning rate, weight decay and eps of each parameter, multiplied."""
    config, entries, shapes = run.config, by_name(run.layout), by_name(run.shapes)
    specs = {REST: (config.opt, config.lr)} | {str(i): (g.spec, g.lr) for i, g in enumerate(config.group)}
    gradient, _, update = map(by_name, factors_of(config, run.layout) or ())
    for name, label in labels(config, run.layout).items():
        spec, peak = specs[label if isinstance(label, str) else label[0]]
        peak = None if is_frozen(spec) else peak
        known = {} if spec.is_external or spec == CUSTOM else settings(spec, REGISTRIES["optimizer"].row(spec))
        std, eps, decay = initial_std(run.model, name, shapes[name].shape), known.get("eps"), rates.get(name)
        cells = (std, 1.0), (peak, update[name]), (decay, 1 / update[name]), (eps, 1 / gradient[name])
        role = f"{entries[name].role}{', blocks' * (entries[name].role == 'vector' and len(entries[name].stacked) > 0)}"
        yield role, *(_product(*cell) for cell in cells)


def _product(value: Any, factor: float) -> str:
    return "-" if not isinstance(value, int | float) else VARIES if math.isnan(value) else f"{value * factor:.3g}"


def _probe(spec: Spec, sequences: int) -> str:
    """A probe and its cost."""
    if spec.name not in WORK:
        return f"{spec}: a pass over the parameters in the logged steps"
    return f"{spec}: about {WORK[spec.name](settings(spec, PROBES[spec.name]), sequences):.1%} more work"


def _decay(rates: dict[str, float]) -> str:
    """The tensors, grouped by weight decay."""
    groups: dict[str, list[str]] = {}
    for name, rate in rates.items():
        groups.setdefault(_fraction(rate), []).append(name)
    if list(groups) == ["0"]:
        return "none: this optimizer has no weight decay"
    titles = {"0": "none", VARIES: "not a constant multiple of lr"}
    return _listed((titles.get(rate, f"lr x {rate}"), names) for rate, names in sorted(groups.items(), reverse=True))


def _fraction(rate: float) -> str:
    return VARIES if math.isnan(rate) else f"{rate:.3g}"


def patterns(names: Iterable[str]) -> list[str]:
    """Shortens parameter names: siblings go in braces.

    >>> patterns(["blocks/mlp/up/kernel", "blocks/mlp/down/kernel", "head/kernel"])
    ['blocks/mlp/{down,up}/kernel', 'head/kernel']
    """
    siblings: dict[tuple[str, str], set[str]] = {}
    for name in names:
        *above, parent, last = f"/{name}".split("/")
        siblings.setdefault(("/".join(above), last), set()).add(parent)
    shortened = []
    for (above, last), parents in siblings.items():
        parent = f"{{{','.join(sorted(parents))}}}" if len(parents) > 1 else next(iter(parents))
        shortened.append(f"{above}/{parent}/{last}".lstrip("/"))
    return shortened
