"""Parameter groups with their own optimizers: ``WHERE=SPEC``, such as ``embedding=adamw(lr=0.3)``.

WHERE is a role, or a pattern of parameter names (``blocks/mlp/*``). In addition to the optimizer's keywords, the spec
accepts ``lr``, a peak learning rate, or ``lr_scale``, a multiple of the default one. Imports no JAX.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

from minigpt_flax.bounds import RATE
from minigpt_flax.errors import UserError, nearest
from minigpt_flax.spec import Spec, parse

REST = "rest"
RATES = {"lr", "lr_scale"}  # keywords of a group, in addition to its optimizer's


@dataclass(frozen=True)
class ParamGroup:
    """One parameter group.

    Attributes:
      where: role, or pattern of parameter names.
      spec: optimizer of the group.
      lr: peak learning rate of the group.
    """

    where: str
    spec: Spec
    lr: float

    def __str__(self) -> str:
        """The group as on the command line."""
        return f"{self.where}={Spec(self.spec.name, self.spec.args, {**self.spec.keywords, 'lr': self.lr})}"

    def covers(self, name: str, role: str) -> bool:
        """Whether a parameter with this name and role belongs to the group."""
        return self.where == role or fnmatchcase(name, self.where)


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
    for key in RATES & spec.keywords.keys():
        RATE.check(f"group {text!r}: {key}", spec.keywords[key])
    return where.strip(), spec.located()


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
    return ParamGroup(where, spec.without(*RATES), float(peak))


def read_complete(text: str, *, trusted: bool = True) -> ParamGroup:
    """Parse the ``str`` of a group.

    Raises:
      UserError: the text is not WHERE=SPEC, or has no learning rate.
    """
    where, spec = read(text, trusted=trusted)
    if "lr" not in spec.keywords:
        raise UserError(f"group {text!r} has no lr: write {where}={spec.name}(lr=...)")
    return ParamGroup(where, spec.without(*RATES), float(spec.keywords["lr"]))


def assign(groups: Iterable[ParamGroup], roles: Mapping[str, str]) -> dict[str, str]:
    """Assign each parameter to a group.

    Args:
      groups: the groups.
      roles: role of each parameter, by name.

    Returns:
      For each parameter, the index of its group ("0", "1", ...), or ``REST``.

    Raises:
      UserError: a group covers no parameter, or two groups cover the same one.
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
