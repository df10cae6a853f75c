"""Parameter groups with an optimizer of their own: ``WHERE=SPEC``, such as ``embedding=adamw(lr=0.3)``.

WHERE is a role, or a pattern of parameter names (``blocks/mlp/*``). Beside its own keywords the spec takes ``lr``, a
peak learning rate, or ``lr_scale``, a multiple of the default one. Imports no JAX.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

from minigpt_flax.bounds import RATE
from minigpt_flax.errors import UserError, nearest
from minigpt_flax.spec import Spec, parse

REST = "rest"
RATES = {"lr", "lr_scale"}  # keywords of a group, beside its optimizer's


@dataclass(frozen=True)
class ParamGroup:
    """One group.

    Attributes:
      where: role, or pattern of parameter names.
      spec: its optimizer.
      lr: its peak learning rate.
    """

    where: str
    spec: Spec
    lr: float

    def __str__(self) -> str:
        """The group as it would be typed."""
        return f"{self.where}={Spec(self.spec.name, self.spec.args, {**self.spec.keywords, 'lr': self.lr})}"

    def covers(self, name: str, role: str) -> bool:
        """Whether the parameter of this name and role belongs here."""
        return self.where == role or fnmatchcase(name, self.where)


def read(text: str, *, trusted: bool = True) -> tuple[str, Spec]:
    """Parses a group as typed.

    Raises:
      UserError: it isn't WHERE=SPEC, or a learning rate is out of range.

    >>> read("embedding=adamw(b2=0.95, lr_scale=0.1)")
    ('embedding', Spec(name='adamw', args=(), keywords={'b2': 0.95, 'lr_scale': 0.1}))
    """
    where, equals, rest = text.partition("=")
    if not (where.strip() and equals):
        raise UserError(
            f'group {text!r} is not WHERE=SPEC: write a role or a pattern of names, as "embedding=lion(lr=1e-4)"'
        )
    spec = parse(rest, "optimizer", trusted=trusted)
    for key in RATES & spec.keywords.keys():
        RATE.check(f"group {text!r}: {key}", spec.keywords[key])
    return where.strip(), spec.located()


def complete(text: str, usual: Callable[[str], Spec], lr: float) -> ParamGroup:
    """Fills in what the text leaves open.

    Args:
      text: the group as typed.
      usual: name of an optimizer -> its default keywords, with ``lr`` where that is known.
      lr: peak learning rate where it isn't.

    >>> usual = lambda name: parse("adamw(b2=0.99, lr=0.01)", "optimizer")
    >>> str(complete("embedding=adamw(lr_scale=0.1)", usual, 1.0))
    'embedding=adamw(b2=0.99, lr=0.001)'
    """
    where, typed = read(text)
    spec = typed.over(usual(typed.name))
    peak = spec.keywords.get("lr", lr) * spec.keywords.get("lr_scale", 1.0)
    return ParamGroup(where, spec.without(*RATES), float(peak))


def read_complete(text: str, *, trusted: bool = True) -> ParamGroup:
    """Reads back what ``str`` of a group gives.

    Raises:
      UserError: it isn't WHERE=SPEC, or has no learning rate.
    """
    where, spec = read(text, trusted=trusted)
    if "lr" not in spec.keywords:
        raise UserError(f"group {text!r} has no lr: write {where}={spec.name}(lr=...)")
    return ParamGroup(where, spec.without(*RATES), float(spec.keywords["lr"]))


def assign(groups: Iterable[ParamGroup], roles: Mapping[str, str]) -> dict[str, str]:
    """Returns the group of each parameter, by the group's place ("0", "1", ...), or ``REST``.

    Args:
      groups: the groups.
      roles: name of a parameter -> its role.

    Raises:
      UserError: a group covers nothing, or two cover the same parameter.
    """
    groups = list(groups)
    for group in groups:
        if not any(group.covers(name, role) for name, role in roles.items()):
            known = sorted({*roles.values(), *roles})
            raise UserError(
                f"group {group.where!r} covers no parameter{nearest(group.where, known)}; "
                f"roles: {', '.join(sorted(set(roles.values())))}; names are like {', '.join(list(roles)[:3])}"
            )
    assigned = {}
    for name, role in roles.items():
        found = [i for i, group in enumerate(groups) if group.covers(name, role)]
        if len(found) > 1:
            both = " and ".join(repr(groups[i].where) for i in found)
            raise UserError(f"parameter {name} is in the groups {both}: let one group cover it")
        assigned[name] = str(found[0]) if found else REST
    return assigned
