"""Parameter groups with their own optimizers: ``WHERE=SPEC``, such as ``embedding=adamw(lr=0.3)``.

WHERE is a role, or a pattern of parameter names (``blocks/mlp/*``). An index in brackets, as in Python, selects layers
of stacked parameters: ``blocks[0:2]/mlp/*``, ``matrix[-1]``. In addition to the optimizer's keywords, the spec accepts
``lr``, a peak learning rate, or ``lr_scale``, a multiple of the default one, and ``schedule``, a schedule in place of
the run's. Imports no JAX.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

from minigpt_flax.bounds import RATE
from minigpt_flax.errors import UserError, nearest
from minigpt_flax.spec import Spec, parse

REST = "rest"
RATES = {"lr", "lr_scale"}  # keywords of a group, in addition to its optimizer's
SCHEDULE = "schedule"  # likewise
LAYERS = re.compile(r"\[(?P<start>-?\d+)?(?P<colon>:)?(?P<stop>-?\d+)?\]")


@dataclass(frozen=True)
class ParamGroup:
    """One parameter group.

    Attributes:
      where: role, or pattern of parameter names; either may have an index of layers.
      spec: optimizer of the group.
      lr: peak learning rate of the group.
      schedule: schedule of the group; None follows that of the run.
    """

    where: str
    spec: Spec
    lr: float
    schedule: Spec | None = None

    def __str__(self) -> str:
        """The group as on the command line."""
        own = {} if self.schedule is None else {SCHEDULE: str(self.schedule)}
        return f"{self.where}={Spec(self.spec.name, self.spec.args, {**self.spec.keywords, 'lr': self.lr, **own})}"

    def covers(self, name: str, role: str, layers: int = 0) -> bool:
        """Whether a parameter with this name, role and number of layers belongs to the group, or some layers of it."""
        pattern, indices = LAYERS.subn("", self.where, count=1)
        return (pattern == role or fnmatchcase(name, pattern)) and (layers > 0 or not indices)

    def layers(self, count: int) -> range:
        """The layers of a covered parameter with ``count`` layers that belong to the group.

        Raises:
          UserError: there is no such layer.

        >>> ParamGroup("blocks[-2:]/mlp/*", Spec("sgd"), 0.1).layers(6)
        range(4, 6)
        """
        index = LAYERS.search(self.where)
        if index is None:
            return range(count)
        start, stop = (int(text) if text else None for text in (index["start"], index["stop"]))
        if index["colon"] is None and start is not None:
            stop = start + 1 or None
        found = range(count)[start:stop]
        ends = [at for at in (start, stop) if at is not None]
        if not found or not all(-count <= at <= count for at in ends):
            raise UserError(f"group {self.where!r}: the model has {count} layers, 0 to {count - 1}")
        return found


def read(text: str, *, trusted: bool = True) -> tuple[str, Spec]:
    """Parse a group of the command line.

    Raises:
      UserError: the text is not WHERE=SPEC, or a learning rate is out of range.

    >>> read("embedding=adamw(b2=0.95, lr_scale=0.1)")
    ('embedding', Spec(name='adamw', args=(), keywords={'b2': 0.95, 'lr_scale': 0.1}))
    """
    where, equals, rest = text.partition("=")
    if not (where.strip() and equals):
        raise UserError(
            f'group {text!r} is not WHERE=SPEC: write a role or a pattern of names, as "embedding=lion(lr=1e-4)"'
        )
    spec = parse(rest, "optimizer", trusted=trusted)
    _own_schedule(spec)
    for key in RATES & spec.keywords.keys():
        RATE.check(f"group {text!r}: {key}", spec.keywords[key])
    return where.strip(), spec.located()


def _own_schedule(spec: Spec) -> Spec | None:
    """The schedule that the spec of a group names.

    Raises:
      UserError: it is no text, or no spec.
    """
    text = spec.keywords.get(SCHEDULE)
    if text is not None and not isinstance(text, str):
        raise UserError(f"{SCHEDULE} of a group takes a spec in quotes, such as {SCHEDULE}='wsd(cooldown=0.3)'")
    return None if text is None else parse(text, "schedule")


def complete(text: str, usual: Callable[[str], Spec], lr: float) -> ParamGroup:
    """Fill in the defaults of a group.

    Args:
      text: the group as on the command line.
      usual: ``name of an optimizer -> spec`` with its default keywords, and its default ``lr`` if it has one.
      lr: peak learning rate if neither the text nor ``usual`` has one.

    >>> usual = lambda name: parse("adamw(b2=0.99, lr=0.01)", "optimizer")
    >>> str(complete("embedding=adamw(lr_scale=0.1)", usual, 1.0))
    'embedding=adamw(b2=0.99, lr=0.001)'
    """
    where, typed = read(text)
    spec = typed.over(usual(typed.name))
    peak = spec.keywords.get("lr", lr) * spec.keywords.get("lr_scale", 1.0)
    return ParamGroup(where, spec.without(*RATES, SCHEDULE), float(peak), _own_schedule(spec))


def read_complete(text: str, *, trusted: bool = True) -> ParamGroup:
    """Parse the ``str`` of a group.

    Raises:
      UserError: the text is not WHERE=SPEC, or has no learning rate.
    """
    where, spec = read(text, trusted=trusted)
    if "lr" not in spec.keywords:
        raise UserError(f"group {text!r} has no lr: write {where}={spec.name}(lr=...)")
    return ParamGroup(where, spec.without(*RATES, SCHEDULE), float(spec.keywords["lr"]), _own_schedule(spec))


def assign(
    groups: Iterable[ParamGroup], roles: Mapping[str, str], layers: Mapping[str, int] | None = None
) -> dict[str, str | tuple[str, ...]]:
    """Assign each parameter, or each of its layers, to a group.

    Args:
      groups: the groups.
      roles: role of each parameter, by name.
      layers: number of layers of each stacked parameter, by name.

    Returns:
      For each parameter, the index of its group ("0", "1", ...), or ``REST``; a tuple of these for its layers if they
      belong to several groups.

    Raises:
      UserError: a group covers no parameter, or two groups cover the same one.
    """
    groups, layers = list(groups), layers or {}
    for group in groups:
        if not any(group.covers(name, role, layers.get(name, 0)) for name, role in roles.items()):
            known = sorted({*roles.values(), *roles})
            what = "parameter that is stacked over layers" if LAYERS.search(group.where) else "parameter"
            raise UserError(
                f"group {group.where!r} covers no {what}{nearest(group.where, known)}; "
                f"roles: {', '.join(sorted(set(roles.values())))}; names are like {', '.join(list(roles)[:3])}"
            )
    return {name: _labels(name, role, layers.get(name, 0), groups) for name, role in roles.items()}


def _labels(name: str, role: str, count: int, groups: list[ParamGroup]) -> str | tuple[str, ...]:
    """The group of a parameter, or the groups of its layers."""
    found = [[REST] for _ in range(max(1, count))]  # a parameter that isn't stacked has one entry
    for i, group in enumerate(groups):
        if group.covers(name, role, count):
            for layer in group.layers(count) or [0]:
                found[layer].append(str(i))
    for layer, labels in enumerate(found):
        if len(labels) > 2:
            both = " and ".join(repr(groups[int(i)].where) for i in labels[1:])
            which = f"layer {layer} of {name}" if len({tuple(labels) for labels in found}) > 1 else f"parameter {name}"
            raise UserError(f"{which} is in the groups {both}: let one group cover it")
    own = tuple(labels[-1] for labels in found)
    return own[0] if len(set(own)) == 1 else own


def members(assigned: Mapping[str, str | tuple[str, ...]], label: str) -> dict[str, tuple[int, ...] | None]:
    """The parameters of one group, as :func:`assign` labels them.

    Returns:
      Name of each parameter -> its layers in the group; None for the whole parameter.

    >>> members({"w": "0", "b": ("rest", "0"), "c": "rest"}, "0")
    {'w': None, 'b': (1,)}
    """
    found: dict[str, tuple[int, ...] | None] = {}
    for name, own in assigned.items():
        if own == label:
            found[name] = None
        elif isinstance(own, tuple) and label in own:
            found[name] = tuple(layer for layer, entry in enumerate(own) if entry == label)
    return found


def with_layers(name: str, layers: tuple[int, ...] | None) -> str:
    """The name of a parameter with an index of its layers.

    >>> with_layers("blocks/mlp/up/kernel", (1, 2)), with_layers("blocks/mlp/up/kernel", (0, 2))
    ('blocks[1:3]/mlp/up/kernel', 'blocks[0,2]/mlp/up/kernel')
    """
    if not layers:
        return name
    start, stop = min(layers), max(layers) + 1
    consecutive = stop - start == len(layers) > 1
    index = f"{start}:{stop}" if consecutive else ",".join(map(str, layers))
    first, slash, rest = name.partition("/")
    return f"{first}[{index}]{slash}{rest}"
