"""The spec grammar: ``name`` or ``name(key=literal, ...)``, bound to a function by that function's own signature.

Specs are parsed with ``ast`` and hold literals only; nothing is ever evaluated. The name is a row of a table, or for an
optimizer also an external factory: ``package.module:factory`` or ``file.py:factory``.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import math
import os
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from minigpt_flax.errors import UserError, check_name, nearest
from minigpt_flax.literals import problem
from minigpt_flax.text import shortened

LONGEST = 2000  # characters of a spec
THRESHOLD = "threshold"  # the argument of a clip, which may be positional
EXTERNAL = re.compile(r"(?P<name>.+:(?P<factory>[A-Za-z_][\w.]*))(?P<arguments>\(.*\))?", re.DOTALL)


@dataclass(frozen=True)
class Spec:
    """A parsed spec.

    Attributes:
      name: a row of a table, or ``module:factory``.
      args: positional literals (a clip's threshold).
      keywords: keyword literals.
      trusted: whether the user wrote it, so that code that it names may be imported; not part of its identity.
    """

    name: str
    args: tuple[Any, ...] = ()
    keywords: dict[str, Any] = field(default_factory=dict)
    trusted: bool = field(default=True, compare=False, repr=False)

    def __str__(self) -> str:
        """The spec as text that :func:`parse` reads."""
        parts = [repr(arg) for arg in self.args] + [f"{k}={v!r}" for k, v in self.keywords.items()]
        return f"{self.name}({', '.join(parts)})" if parts else self.name

    def __hash__(self) -> int:
        """Equal specs have equal hashes, whatever the order of their keywords."""
        return hash((self.name, self.args, frozenset(self.keywords)))

    @property
    def is_external(self) -> bool:
        """Whether it names an external factory."""
        return ":" in self.name

    def located(self) -> Spec:
        """Returns this spec with the path of its file made absolute."""
        place, _, factory = self.name.rpartition(":")
        if not place.endswith(".py"):
            return self
        return dataclasses.replace(self, name=f"{os.path.abspath(os.path.expanduser(place))}:{factory}")

    def over(self, other: Spec) -> Spec:
        """Returns this spec, completed with arguments of ``other`` if that has the same name.

        >>> str(parse("adamw(b2=0.95)", "optimizer").over(parse("adamw(b2=0.99, eps=1e-9)", "optimizer")))
        'adamw(b2=0.95, eps=1e-09)'
        """
        if self.name != other.name:
            return self
        args = () if THRESHOLD in self.keywords else other.args
        return dataclasses.replace(self, args=self.args or args, keywords={**other.keywords, **self.keywords})

    def without(self, *keys: str) -> Spec:
        """Returns this spec without some keywords."""
        return dataclasses.replace(self, keywords={k: v for k, v in self.keywords.items() if k not in keys})


def parse(text: str, kind: str, *, trusted: bool = True) -> Spec:
    """Parses one spec.

    Args:
      text: such as ``adamw(b2=0.95)``.
      kind: what it names, for the error ("optimizer").
      trusted: see :class:`Spec`.

    Raises:
      UserError: it isn't a name, or an argument isn't a literal.

    >>> parse("clip_by_norm(1.0, ord=inf)", "clip")
    Spec(name='clip_by_norm', args=(1.0,), keywords={'ord': inf})
    >>> parse("opt.py:mine(b=0.5)", "optimizer")
    Spec(name='opt.py:mine', args=(), keywords={'b': 0.5})
    """
    form = f"{kind} {shortened(repr(text), 100)} is not a spec: write name, or name(key=value, ...)"
    if len(text) > LONGEST:
        raise UserError(f"{form}, of at most {LONGEST:,} characters")
    external = EXTERNAL.fullmatch(text.strip())
    try:
        tree = _expression(text.strip())
    except UserError:
        if external is None:
            raise UserError(form) from None
        tree = _expression(f"{external['factory'].rpartition('.')[2]}{external['arguments'] or ''}", form)
    else:
        external = None
    name, arguments = _call(tree, form)
    try:
        args = tuple(_literal(arg) for arg in arguments.args)
        keywords = {str(k.arg): _literal(k.value) for k in arguments.keywords if k.arg}
    except (ValueError, TypeError, MemoryError, RecursionError) as error:
        raise UserError(f"{form}, with values such as 0.1, True, None, inf, 'text', (1, 2)") from error
    if len(keywords) < len(arguments.keywords):  # one is repeated, or given as **
        raise UserError(form)
    return Spec(external["name"] if external else name, args, keywords, trusted)


def _expression(text: str, form: str = "") -> ast.expr:
    try:
        return ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        raise UserError(form) from error


def _call(tree: ast.expr, form: str) -> tuple[str, ast.Call]:
    """Name and arguments of ``name`` or ``name(...)``."""
    if isinstance(tree, ast.Name):
        return tree.id, ast.Call(tree, [], [])
    if isinstance(tree, ast.Call) and isinstance(tree.func, ast.Name):
        return tree.func.id, tree
    raise UserError(form)


class _Infinity(ast.NodeTransformer):
    """Replaces the name ``inf``, which Python prints but doesn't read as a literal."""

    def visit_Name(self, node: ast.Name) -> ast.expr:
        return ast.copy_location(ast.Constant(math.inf), node) if node.id == "inf" else node


def _literal(node: ast.expr) -> Any:
    return ast.literal_eval(_Infinity().visit(node))


def look_up(spec: Spec, table: Mapping[str, Callable], kind: str) -> Callable:
    """Returns the row that ``spec`` names.

    Raises:
      UserError: there is none; the message lists the rows and the nearest.
    """
    return table[check_name(spec.name, table, kind)]


def look_up_name(spec: Spec, table: Mapping[str, Callable], kind: str) -> Callable:
    """Returns the row that ``spec`` names, where the rows take no arguments from the user.

    Raises:
      UserError: there is none, or arguments were given.
    """
    row = look_up(spec, table, kind)
    if str(spec) != spec.name:
        raise UserError(f"{kind} {spec.name!r} takes no arguments, got '{spec}'")
    return row


def bind(spec: Spec, row: Callable, kind: str, *leading: Any, offered: Mapping[str, Any] | None = None) -> Any:
    """Calls ``row`` with the arguments of ``spec``.

    Args:
      spec: names ``row``.
      row: a function of a table.
      kind: what the table holds, for errors.
      *leading: the leading arguments that the contract of the table fixes (learning rate; peak and total steps).
      offered: values of the run by name; passed if the signature has that name and the spec doesn't set it.

    Raises:
      UserError: unknown keyword, wrong number of arguments, or a value that the row refuses.
    """
    return as_user_error(f"{kind} '{spec}'", lambda: partial_bind(spec, row, kind, len(leading), offered)(*leading))


def partial_bind(
    spec: Spec, row: Callable, kind: str, leading: int, offered: Mapping[str, Any] | None = None
) -> Callable:
    """Returns ``row`` with the arguments of ``spec``, a function of its ``leading`` first ones; see :func:`bind`.

    Raises:
      UserError: unknown keyword, wrong number of arguments, or a value of the wrong type.
    """
    parameters = inspect.signature(row).parameters
    names = list(parameters)[leading:]
    for key in spec.keywords:
        if key not in names and not _takes_any(parameters):
            known = f"it has: {', '.join(names) or 'none'}"
            raise UserError(f"{kind} {spec.name!r} has no keyword {key!r}{nearest(key, names)}; {known}")
    context = {k: v for k, v in (offered or {}).items() if k in names and k not in spec.keywords}
    try:
        bound = _options_by_name(parameters, leading).bind(*[None] * leading, *spec.args, **context, **spec.keywords)
    except TypeError as error:
        shown = signature(row, skip=leading, without=offered or ())
        reason = "has too many or too few values"
        if spec.is_external:
            reason = "has a factory that takes other arguments than the learning rate and these keywords"
        raise UserError(f"{kind} '{spec}' {reason}: write {shown}") from error
    for key, value in () if spec.is_external else bound.arguments.items():  # external factories may use any annotations
        wrong = problem(parameters[key], value) if key in names and key not in context else None
        if wrong is not None:
            raise UserError(f"{kind} {spec.name!r}: {wrong}")
    return lambda *first: row(*first, *spec.args, **context, **spec.keywords)


def _options_by_name(parameters: Mapping[str, inspect.Parameter], leading: int) -> inspect.Signature:
    """Return the signature of a row in a spec: after the leading ones, only required arguments may be positional.

    A library function may accept more by position, but ``sgd(0.1)`` on the command line would set the momentum.
    """
    in_a_spec = [
        p.replace(kind=p.KEYWORD_ONLY) if i >= leading and p.default is not p.empty else p
        for i, p in enumerate(parameters.values())
    ]
    return inspect.Signature(sorted(in_a_spec, key=lambda p: p.kind))


def _takes_any(parameters: Mapping[str, inspect.Parameter]) -> bool:
    return any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values())


def as_user_error(what: str, call: Callable[[], Any]) -> Any:
    """Returns ``call()``; an error about a value becomes a user's error about ``what``, a spec.

    Raises:
      UserError: in one line, in place of a ValueError, TypeError or OverflowError.
    """
    try:
        return call()
    except UserError:
        raise
    except (ValueError, TypeError, OverflowError) as error:
        raise UserError(f"{what}: {' '.join(str(error).split())}") from error


def settings(spec: Spec, row: Callable) -> dict[str, Any]:
    """Returns the keywords of ``row`` with the values of the spec, else the defaults.

    >>> settings(parse("noise(every=5)", "probe"), lambda view, *, every=200, parts=4: {})
    {'every': 5, 'parts': 4}
    """
    defaults = {p.name: p.default for p in inspect.signature(row).parameters.values() if p.default is not p.empty}
    return {**defaults, **spec.keywords}


def keywords_of(row: Callable, skip: int) -> list[str]:
    """Returns the names of the arguments of ``row`` after the first ``skip``, which the contract of its table fixes."""
    return list(inspect.signature(row).parameters)[skip:]


def signature(row: Callable, skip: int = 0, without: Collection[str] = ()) -> str:
    """Formats ``name(arg, keyword=default)``.

    Args:
      row: a function of a table.
      skip: number of leading arguments that the run passes.
      without: keywords that the run passes.

    >>> signature(lambda rate, *, b1=0.9, mask=None: None, skip=1, without=["mask"])
    '<lambda>(b1=0.9)'
    """
    shown = []
    for parameter in list(inspect.signature(row).parameters.values())[skip:]:
        if parameter.name not in without:
            default = "" if parameter.default is parameter.empty else f"={_spell(parameter.default)}"
            shown.append(parameter.name + default)
    return f"{row.__name__}({', '.join(shown)})" if shown else row.__name__


def _spell(value: Any) -> str:
    """Formats a default value; a dtype or a function by its name."""
    return repr(getattr(value, "__name__", value))
