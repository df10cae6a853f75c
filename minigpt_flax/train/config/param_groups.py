"""Groups of parameters with an optimizer of their own: ``WHERE=WORD``, such as ``embedding=adamw(lr=0.3)``.

WHERE is a role, or a pattern of parameters' names (``blocks/mlp/*``). Beside its own keywords the word takes ``lr``, a
peak learning rate, or ``lr_scale``, a multiple of the one that it would have. Imports no JAX.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

from minigpt_flax.bounds import RATE
from minigpt_flax.errors import UserError, nearest
from minigpt_flax.spec import Word, parse

REST = "rest"
RATES = {"lr", "lr_scale"}  # keywords of a group, beside its optimizer's


@dataclass(frozen=True)
class Group:
    """One group.

    Attributes:
      where: role or pattern.
      word: its optimizer.
      lr: its peak learning rate.
    """

    where: str
    word: Word
    lr: float

    def __str__(self) -> str:
        """The group as it would be typed."""
        return f"{self.where}={Word(self.word.name, self.word.args, {**self.word.keywords, 'lr': self.lr})}"

    def covers(self, name: str, role: str) -> bool:
        """Whether the parameter of this name and role belongs here."""
        return self.where == role or fnmatchcase(name, self.where)


def read(text: str) -> tuple[str, Word]:
    """Parses a group as typed.

    Raises:
      UserError: it isn't WHERE=WORD, or a rate is out of range.

    >>> read("embedding=adamw(b2=0.95, lr_scale=0.1)")
    ('embedding', Word(name='adamw', args=(), keywords={'b2': 0.95, 'lr_scale': 0.1}))
    """
    where, equals, rest = text.partition("=")
    if not (where.strip() and equals):
        raise UserError(
            f'group {text!r} is not WHERE=WORD: write a role or a pattern of names, as "embedding=lion(lr=1e-4)"'
        )
    word = parse(rest, "optimizer")
    for key in RATES & word.keywords.keys():
        value = word.keywords[key]
        RATE.check(f"group {text!r}: {key}", value)
    return where.strip(), word


def complete(text: str, table: Mapping[str, Word], lr: float) -> Group:
    """Fills in what the text leaves open.

    Args:
      text: the group as typed, or one that is complete already.
      table: name -> the optimizer's usual keywords, with ``lr``.
      lr: peak learning rate of an optimizer that the table doesn't have.

    >>> str(complete("embedding=adamw(lr_scale=0.1)", {"adamw": parse("adamw(b2=0.99, lr=0.01)", "optimizer")}, 1.0))
    'embedding=adamw(b2=0.99, lr=0.001)'
    """
    where, typed = read(text)
    word = typed.over(table.get(typed.name, typed))
    peak = word.keywords.get("lr", lr) * word.keywords.get("lr_scale", 1.0)
    return Group(where, word.without(*RATES), peak)


def assign(groups: Iterable[Group], roles: Mapping[str, str]) -> dict[str, str]:
    """Says which group each parameter is in, by the group's place ("0", "1", ...), or ``REST``.

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
