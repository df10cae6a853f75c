"""What a run will do, as text of 80 columns: data, model, optimizer, and what each tensor gets."""

from __future__ import annotations

import textwrap
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import jax

from jaxopt_mini.tree import path_name
from minigpt_flax.data import unigram_entropy
from minigpt_flax.spec import parse, settings
from minigpt_flax.train.build import Run
from minigpt_flax.train.clock import quantity
from minigpt_flax.train.config.mesh import spell_mesh
from minigpt_flax.train.config.param_groups import REST
from minigpt_flax.train.config.run_config import RunConfig, complete_groups
from minigpt_flax.train.curvature_probes import WORK
from minigpt_flax.train.optimizer import decay_rates, labels
from minigpt_flax.train.parallel.sharding import device_bytes
from minigpt_flax.train.probes import PROBES, remembered

COLUMNS = 80
LABEL = 11  # columns of the labels on the left


def plan(run: Run) -> list[tuple[str, str]]:
    """Returns (label, text) pairs; a text may have several lines."""
    config = run.config
    decays = jax.tree.leaves_with_path(decay_rates(config, run.layout, run.shapes))
    rates = {path_name(path): rate for path, rate in decays}
    return [
        ("device", _devices(run)),
        ("data", _data(run)),
        ("model", f"{_model(run)}\n{_roles(run, rates)}"),
        *([] if config.init is None else [("weights", f"from {config.init}")]),
        ("compute", _compute(run)),
        ("batch", _batch(config)),
        ("optimizer", _optimizers(run)),
        ("rate", f"peak {config.lr:g}, {config.schedule}"),
        ("clip", config.clip),
        *(("wrapped", text) for text in config.wrap),
        ("decay", _decay(rates)),
        *(("probe", _probe(text, config.step_sequences)) for text in config.probe),
    ]


def _devices(run: Run) -> str:
    """The devices; of several, also how the run is spread over them."""
    count, used = jax.device_count(), run.mesh.size
    text = f"{count} x {run.mesh.devices.flat[0].device_kind}, JAX {jax.__version__}"
    if count > used:
        text = f"{used} of {text}"
    if used == 1:
        return text
    axes = spell_mesh(dict(run.mesh.shape))
    parameters, states = _share(run.state.params), _share(run.state.opt_state)
    way = f"{run.config.parallel}, mesh {axes}"
    if run.config.parallel == "pmap" and run.model.dropout:
        way += " (dropout masks differ from those of jit)"
    return f"{text}\n{way}\neach: parameters {parameters}, optimizer {states}"


def _share(part: Any) -> str:
    """What a device holds of something."""
    whole = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(part))
    return f"{quantity(device_bytes(part), 'B')} of {quantity(whole, 'B')}"


def _batch(config: RunConfig) -> str:
    """Tokens of a step: micro-batches, if several, x sequences x context."""
    sizes = (
        [config.batch_size, config.context] if config.accum == 1 else [config.accum, config.batch_size, config.context]
    )
    return f"{config.step_tokens:,} tokens = {' x '.join(map(str, sizes))} a step, {config.steps:,} steps"


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
    sizes = f"{model.layers} layers, {model.heads} heads, width {model.width}, context {model.context}"
    return f"{sizes}: {count:,} parameters"


def _compute(run: Run) -> str:
    """What the numbers are, how attention is computed and why so, and what is done for memory or compilation."""
    config, model = run.config, run.model
    parts = [config.dtype, f"{model.attention} attention" + (f" ({run.hindered})" if run.hindered else "")]
    parts += [f"remat {model.remat}"] * (model.remat != RunConfig.remat) + ["a loop over layers"] * model.scan_layers
    parts += ["documents apart"] * (model.end_of_text is not None)
    return textwrap.fill(", ".join(parts), COLUMNS - LABEL, subsequent_indent="  ")


def _roles(run: Run, rates: dict[str, float]) -> str:
    """A table: tensors and parameters of each role, their weight decay, and what the optimizer remembers of them."""
    fields = defaultdict(set)
    for field, owner, _ in remembered(jax.eval_shape(run.init).opt_state, run.layout):
        fields[owner].add(field)
    groups: dict[str, list[tuple[str, int]]] = {}
    leaves = zip(jax.tree.leaves_with_path(run.layout), jax.tree.leaves(run.shapes), strict=True)
    for (path, entry), leaf in leaves:
        groups.setdefault(entry.role, []).append((path_name(path), leaf.size))
    rows = [f"{'role':10s}{'tensors':>8s}{'parameters':>13s}  {'decay':8s}state"]
    for role, members in groups.items():
        decays = ", ".join(sorted({f"{rates[name]:.3g}" for name, _ in members}))
        state = ", ".join(sorted(set().union(*(fields[name] for name, _ in members)))) or "none"
        rows.append(f"{role:10s}{len(members):8d}{sum(size for _, size in members):13,d}  {decays:8s}{state}")
    return "\n".join(rows)


def _optimizers(run: Run) -> str:
    """The rule of each group of tensors, in the order in which they were given; the rest has the run's own."""
    groups = complete_groups(run.config.group, run.config)
    if not groups:
        return run.config.opt
    assigned = labels(groups, run.layout)
    rules = {str(i): f"{group.word}, peak {group.lr:g}" for i, group in enumerate(groups)} | {REST: run.config.opt}
    texts = []
    for label, rule in rules.items():
        names = [name for name, found in assigned.items() if found == label]
        texts.append(f"{rule} on {len(names)} tensors: {', '.join(patterns(names))}")
    return "\n".join(textwrap.fill(text, COLUMNS - LABEL, subsequent_indent="  ") for text in texts)


def _probe(text: str, sequences: int) -> str:
    """A probe and what it costs."""
    word = parse(text, "probe")
    if word.name not in WORK:
        return f"{text}: a pass over the parameters in the steps on record"
    return f"{text}: about {WORK[word.name](settings(word, PROBES[word.name]), sequences):.1%} more work"


def _decay(rates: dict[str, float]) -> str:
    """The tensors by the rate at which they decay."""
    groups: dict[str, list[str]] = {}
    for name, rate in rates.items():
        groups.setdefault(f"{rate:.3g}", []).append(name)
    if list(groups) == ["0"]:
        return "none: this optimizer, as written, takes nothing off the weights"
    texts = []
    for rate, names in sorted(groups.items(), reverse=True):
        title = "none" if rate == "0" else f"rate x {rate}"
        texts.append(f"{title} on {len(names)} tensors: {', '.join(patterns(names))}")
    return "\n".join(textwrap.fill(text, COLUMNS - LABEL, subsequent_indent="  ") for text in texts)


def patterns(names: Iterable[str]) -> list[str]:
    """Parameters' names, shortened: siblings in braces.

    >>> patterns(["blocks/mlp/up/kernel", "blocks/mlp/down/kernel", "head/kernel"])
    ['blocks/mlp/{down,up}/kernel', 'head/kernel']
    """
    siblings: dict[tuple[str, str], set[str]] = {}
    for name in names:
        *above, parent, last = f"/{name}".split("/")
        siblings.setdefault(("/".join(above), last), set()).add(parent)
    found = []
    for (above, last), parents in siblings.items():
        parent = f"{{{','.join(sorted(parents))}}}" if len(parents) > 1 else next(iter(parents))
        found.append(f"{above}/{parent}/{last}".lstrip("/"))
    return found
