"""The word grammar: ``name`` or ``name(key=literal, ...)``, bound to a row of a table by the row's own signature.

Words are parsed with ``ast`` and hold literals only; nothing is ever evaluated.
"""

from __future__ import annotations

import ast
import inspect
import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from minigpt_flax.errors import UserError, check_name, nearest
from minigpt_flax.literals import problem
from minigpt_flax.text import shortened

LONGEST = 2000  # characters of a spec
THRESHOLD = "threshold"  # the argument of a clip, which may be written without its name


@dataclass(frozen=True)
class Word:
    """A parsed word.

    Attributes:
      name: the row of a table.
      args: positional literals (a clip's threshold).
      keywords: keyword literals.
    """

    name: str
    args: tuple[Any, ...] = ()
    keywords: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        """The word as it would be typed."""
        parts = [repr(arg) for arg in self.args] + [f"{k}={v!r}" for k, v in self.keywords.items()]
        return f"{self.name}({', '.join(parts)})" if parts else self.name

    def over(self, other: Word) -> Word:
        """This word, with whatever it leaves open taken from ``other`` if that is the same row.

        >>> str(parse("adamw(b2=0.95)", "optimizer").over(parse("adamw(b2=0.99, eps=1e-9)", "optimizer")))
        'adamw(b2=0.95, eps=1e-09)'
        """
        if self.name != other.name:
            return self
        args = () if THRESHOLD in self.keywords else other.args
        return Word(self.name, self.args or args, {**other.keywords, **self.keywords})

    def without(self, *keys: str) -> Word:
        """This word, less some keywords."""
        return Word(self.name, self.args, {key: value for key, value in self.keywords.items() if key not in keys})


def parse(text: str, kind: str) -> Word:
    """Parses one word.

    Args:
      text: such as ``adamw(b2=0.95)``.
      kind: what it names, for the error ("optimizer").

    Raises:
      UserError: it isn't a name, or an argument isn't a literal.

    >>> parse("clip_by_norm(1.0, ord=inf)", "clip")
    Word(name='clip_by_norm', args=(1.0,), keywords={'ord': inf})
    """
    form = f"{kind} {shortened(repr(text), 100)} is not a word: write name, or name(key=value, ...)"
    if len(text) > LONGEST:
        raise UserError(f"{form}, of at most {LONGEST:,} characters")
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        raise UserError(form) from error
    if isinstance(tree, ast.Name):
        return Word(tree.id)
    if not (isinstance(tree, ast.Call) and isinstance(tree.func, ast.Name)):
        raise UserError(form)
    try:
        args = tuple(_literal(arg) for arg in tree.args)
        keywords = {str(k.arg): _literal(k.value) for k in tree.keywords if k.arg}
    except (ValueError, TypeError, MemoryError, RecursionError) as error:
        raise UserError(f"{form}, with values such as 0.1, True, None, inf, 'text', (1, 2)") from error
    if len(keywords) < len(tree.keywords):  # one was given twice, or as **
        raise UserError(form)
    return Word(tree.func.id, args, keywords)


class _Infinity(ast.NodeTransformer):
    """Lets ``inf``, which Python prints but doesn't read, stand for the number."""

    def visit_Name(self, node: ast.Name) -> ast.expr:
        return ast.copy_location(ast.Constant(math.inf), node) if node.id == "inf" else node


def _literal(node: ast.expr) -> Any:
    return ast.literal_eval(_Infinity().visit(node))


def look_up(word: Word, table: Mapping[str, Callable], kind: str) -> Callable:
    """Returns the row that ``word`` names.

    Raises:
      UserError: there is none; the message lists the rows and the nearest.
    """
    return table[check_name(word.name, table, kind)]


def look_up_name(text: str, table: Mapping[str, Callable], kind: str) -> Callable:
    """Returns the row that ``text`` names; its rows take no arguments from a person.

    Raises:
      UserError: there is none, or arguments were given.
    """
    word = parse(text, kind)
    row = look_up(word, table, kind)
    if str(word) != word.name:
        raise UserError(f"{kind} {word.name!r} takes no arguments, got {text!r}")
    return row


def bind(
    word: Word,
    table: Mapping[str, Callable],
    kind: str,
    *given: Any,
    offered: Mapping[str, Any] | None = None,
) -> Any:
    """Calls the row that ``word`` names.

    Args:
      word: the parsed word.
      table: name -> function.
      kind: what the table holds, for errors.
      *given: the leading arguments that the contract of the table fixes (learning rate; peak and total steps).
      offered: what the run knows, by name; taken only where the signature has that name and the word doesn't set it.

    Returns:
      What the row returns.

    Raises:
      UserError: unknown name, keyword or number of arguments, or a value that the row refuses.
    """
    return blame(f"{kind} '{word}'", lambda: ready(word, table, kind, len(given), offered)(*given))


def ready(
    word: Word, table: Mapping[str, Callable], kind: str, given: int, offered: Mapping[str, Any] | None = None
) -> Callable:
    """The row that ``word`` names with its arguments, waiting for the ``given`` leading ones; see :func:`bind`.

    Raises:
      UserError: unknown name, keyword or number of arguments, or a value of the wrong type.
    """
    row = look_up(word, table, kind)
    names = keywords_of(row, given)
    for key in word.keywords:
        if key not in names:
            there = f"it has: {', '.join(names) or 'none'}"
            raise UserError(f"{kind} {word.name!r} has no keyword {key!r}{nearest(key, names)}; {there}")
    context = {k: v for k, v in (offered or {}).items() if k in names and k not in word.keywords}
    parameters = inspect.signature(row)
    try:
        bound = parameters.bind(*[None] * given, *word.args, **context, **word.keywords)
    except TypeError as error:
        shown = signature(row, skip=given, without=offered or ())
        raise UserError(f"{kind} '{word}' has too many or too few values: write {shown}") from error
    for key, value in bound.arguments.items():
        wrong = problem(parameters.parameters[key], value) if key in names and key not in context else None
        if wrong is not None:
            raise UserError(f"{kind} {word.name!r}: {wrong}")
    return lambda *leading: row(*leading, *word.args, **context, **word.keywords)


def blame(what: str, call: Callable[[], Any]) -> Any:
    """Returns ``call()``; what it raises about a value is the fault of ``what``, a word.

    Raises:
      UserError: instead of another error about a value, in one line.
    """
    try:
        return call()
    except UserError:
        raise
    except (ValueError, TypeError, OverflowError) as error:
        raise UserError(f"{what}: {' '.join(str(error).split())}") from error


def settings(word: Word, row: Callable) -> dict[str, Any]:
    """Value of every keyword of ``row`` that has one: what the word says, or else the default.

    >>> settings(parse("noise(every=5)", "probe"), lambda view, *, every=200, parts=4: {})
    {'every': 5, 'parts': 4}
    """
    defaults = {p.name: p.default for p in inspect.signature(row).parameters.values() if p.default is not p.empty}
    return {**defaults, **word.keywords}


def keywords_of(row: Callable, skip: int) -> list[str]:
    """Names of the arguments of ``row`` after the first ``skip``, which the contract of its table fixes."""
    return list(inspect.signature(row).parameters)[skip:]


def signature(row: Callable, skip: int = 0, without: Collection[str] = ()) -> str:
    """``name(arg, keyword=default)`` as it is typed.

    Args:
      row: a function of a table.
      skip: leading arguments that the run gives.
      without: keywords that the run gives.

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
    """A default value as it is typed; a dtype or a function by its name."""
    return repr(getattr(value, "__name__", value))
