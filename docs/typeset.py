"""Update rules as LaTeX: converts the ASCII formulas of docstrings, or returns None where it can't.

A line has cells, separated by two spaces or more; a cell is a formula, a note in English, or a mix of both.
"""

from __future__ import annotations

import re
from collections.abc import Collection

TOKEN = re.compile(r"\s*(\d+(?:\.\d+)?(?:e-?\d+)?|[A-Za-z]\w*(?<!_)|<-|<=|\.\.\.|[-+*/^'|()<>,=_])")
RELATIONS = {"<-": r"\leftarrow", "=": "=", "<": "<", "<=": r"\le"}
GREEK = {name: rf"\{name}" for name in ("alpha", "beta", "gamma", "rho", "psi", "pi")}
SYMBOLS = {
    "lr": r"\eta", "weight_decay": r"\lambda", "lambd": r"\lambda", "momentum": r"\mu", "eps": r"\epsilon",
    "b1": r"\beta_1", "b2": r"\beta_2", "b3": r"\beta_3", "rho_inf": r"\rho_\infty",
    "eps_root": r"\epsilon_\mathrm{root}", "eta": r"\eta_t", "fan_in": r"\mathrm{fan\_in}",
    "fan_out": r"\mathrm{fan\_out}", **GREEK,
}  # fmt: skip
PLAIN = {
    "average",
    "column",
    "damping",
    "loss",
    "mask",
    "mean",
    "row",
    "slow",
    "RMS",
    "rms",
}  # written out in a formula
OPERATORS = {"min", "max", "cos", "mean", "sum", "rms", "triu", "sign", "clip"}


class Unreadable(Exception):
    """The text is no formula of this notation."""


class Formula:
    """A recursive-descent parser: sums of products of powers; juxtaposition multiplies."""

    def __init__(self, text: str, names: Collection[str]):
        self.names, self.tokens, end = names, [], 0
        for found in TOKEN.finditer(text):
            if found.start() != end:
                raise Unreadable(text)
            end = found.end()
            touches = end < len(text) and text[end] == "("
            self.tokens.append((found[1], touches))
        if end != len(text.rstrip()) or not self.tokens:
            raise Unreadable(text)

    @property
    def next(self) -> str:
        """The next token; empty at the end."""
        return self.tokens[0][0] if self.tokens else ""

    def take(self, expected: str = "") -> str:
        """Consumes a token."""
        if not self.tokens or expected not in ("", self.next):
            raise Unreadable(self.next)
        return self.tokens.pop(0)[0]

    def relation(self) -> str:
        """A whole formula, aligned at its first relation."""
        latex = self.sum()
        for mark in ("&", ""):
            if self.next in RELATIONS:
                latex += f" {mark}{RELATIONS[self.take()]} {self.sum()}"
        if self.tokens:
            raise Unreadable(self.next)
        return latex if "&" in latex else f"& {latex}"

    def sum(self) -> str:
        """Terms with their signs."""
        latex = self.take() if self.next == "-" else ""
        latex += self.product()
        while self.next in ("+", "-") and self.next:
            latex += f" {self.take()} {self.product()}"
        return latex

    def product(self) -> str:
        """Factors from left to right; a denominator is one factor."""
        factors = [self.power()]
        while self.next and self.next not in ("+", "-", ")", ",", "=", "<-", "<=", ">", "|"):
            if self.next == "<" and len(self.tokens) > 1 and not self.is_inner_product():
                break
            if self.next == "*":
                self.take()
            elif self.next == "/":
                self.take()
                scale = [factors.pop(0)] if factors[0] == SYMBOLS["lr"] and len(factors) > 1 else []
                factors = [*scale, rf"\frac{{{bare(factors)}}}{{{bare([self.power()])}}}"]
                continue
            factors.append(self.power())
        if self.next == "|" and not self.inside_bars:
            factors.append(self.product())
        return joined(factors)

    inside_bars = False

    def is_inner_product(self) -> bool:
        """Whether the next "<" opens a pair."""
        return any(token == ">" for token, _ in self.tokens)

    def power(self) -> str:
        """A factor with transposes and exponents."""
        latex = self.factor()
        while self.next in ("'", "^", "_") and self.next:
            mark = self.take()
            if mark == "'":
                inverse = [token for token, _ in self.tokens[:3]] == ["^", "-", "1"]
                self.tokens = self.tokens[3:] if inverse else self.tokens
                latex = rf"{latex}^{{-\top}}" if inverse else rf"{latex}^\top"
            else:
                latex = f"{{{latex}}}" if mark == "^" and "^" in latex else latex
                latex = f"{latex}{mark}{{{self.exponent()}}}"
        return latex

    def exponent(self) -> str:
        """What stands behind ``^`` or ``_``."""
        if self.next == "(":
            self.take("(")
            latex = self.sum()
            self.take(")")
            return latex.replace(r"\frac{1}{4}", "1/4").replace(r"\frac{1}{2}", "1/2")
        sign = self.take() if self.next == "-" else ""
        return sign + self.factor()

    def factor(self) -> str:
        """A number, a name, a call, or something in brackets."""
        if not self.tokens:
            raise Unreadable("")
        token, touches = self.tokens[0]
        if token in ("(", "|", "<"):
            return self.bracketed(self.take())
        if token == "...":
            return self.take() and r"\ldots"
        if not token[0].isalnum():
            raise Unreadable(token)
        self.take()
        return self.call(token) if touches and token[0].isalpha() else symbol(token, self.names)

    def bracketed(self, opening: str) -> str:
        """Brackets, a norm, or an inner product."""
        outer, self.inside_bars = self.inside_bars, opening == "|"
        latex = self.sum()
        while self.next == ",":
            latex += f"{self.take()} {self.sum()}"
        self.take({"(": ")", "|": "|", "<": ">"}[opening])
        self.inside_bars = outer
        left, right = {"(": "()", "|": "||", "<": (r"\langle", r"\rangle")}[opening]
        return rf"\left{left} {latex} \right{right}"

    def call(self, name: str) -> str:
        """A function of arguments."""
        arguments = self.bracketed(self.take("("))
        if name == "sqrt":
            return rf"\sqrt{{{bare([arguments])}}}"
        return rf"{operator(name)}{arguments}"


def operator(name: str) -> str:
    """The name of a function."""
    if name in ("min", "max", "cos"):
        return rf"\{name}"
    return upright(name) if "_" in name else rf"\operatorname{{{name}}}"


def upright(name: str) -> str:
    """A name written out."""
    return rf"\mathrm{{{name}}}".replace("_", r"\_")


def bare(factors: list[str]) -> str:
    r"""A product without the parentheses around all of it.

    >>> bare([r"\left( a \right)"]), bare([r"\left( a \right) \left( b \right)"])
    ('a', '\\left( a \\right) \\left( b \\right)')
    """
    latex, depth = joined(factors), 0
    for found in re.finditer(r"\\(left|right)\b", latex):
        depth += 1 if found[1] == "left" else -1
        if depth == 0 and found.end() < len(latex) - 1:
            return latex
    return latex[6:-7].strip() if latex.startswith(r"\left(") and latex.endswith(r"\right)") else latex


def joined(factors: list[str]) -> str:
    """A product; names of several letters keep a distance."""
    latex = factors[0]
    for before, factor in zip(factors, factors[1:], strict=False):
        wide = any("rm{" in part or "operatorname" in part or r"\max" in part for part in (before, factor))
        latex += (r" \, " if wide else " ") + factor
    return latex


def symbol(name: str, names: Collection[str]) -> str:
    r"""A name or a number.

    >>> symbol("m_hat", ()), symbol("b1", ()), symbol("p0", ()), symbol("o_ij", ())
    ('\\hat{m}', '\\beta_1', 'p_0', 'o_{ij}')
    """
    if name[0].isdigit():
        value, _, exponent = name.partition("e")
        return rf"10^{{{exponent}}}" if exponent and value == "1" else name
    if name in SYMBOLS:
        return SYMBOLS[name]
    if found := re.fullmatch(r"([A-Za-z])(\d)", name):
        return f"{found[1]}_{found[2]}"
    if name in names:
        return upright(name)
    base, _, index = name.partition("_")
    if index == "hat":
        return rf"\hat{{{symbol(base, names)}}}"
    if index:
        index = symbol(index, names) if index in SYMBOLS else index if len(index) < 3 else rf"\mathrm{{{index}}}"
        head = operator(base) if base in OPERATORS else symbol(base, names)
        return f"{head}_{{{index}}}"
    if len(name) == 1:
        return name
    if name.isupper() and name != "RMS":
        return " ".join(name)
    if name in PLAIN:
        return rf"\mathrm{{{name}}}"
    raise Unreadable(name)


def is_english(word: str, names: Collection[str]) -> bool:
    """Whether a word of a cell is no symbol of its formula."""
    known = {*SYMBOLS, *names, *OPERATORS, *PLAIN, "sqrt"}
    return word.removesuffix("'s") not in known and not (word.isupper() and len(word) < 4)


def note(cell: str, names: Collection[str]) -> str:
    """A cell with words: its formulas as mathematics, everything else as text."""
    pieces = re.split(r"(, |: |; |:$|;$)", cell)
    parts: list[tuple[bool, str]] = []
    for piece in pieces:
        parts += [(True, piece)] if re.fullmatch(r", |: |; |:|;", piece) else split(piece, names)
    latex = "".join(rf"\text{{{escape(text)}}}" if plain else f" {text} " for plain, text in merged(parts))
    return latex.strip()


def split(piece: str, names: Collection[str]) -> list[tuple[bool, str]]:
    """Alternating text and formulas."""
    try:
        return [(False, Formula(piece, names).relation().replace("&", ""))]
    except Unreadable:
        pass
    words = [
        found for found in re.finditer(r"\([a-z]{2,}(?: [a-z]+)*\)|(?<![\w(])[A-Za-z][a-z-]+(?:'s)?(?![\w(])", piece)
        if is_english(found[0].strip("()"), names)
    ]  # fmt: skip
    if not words:
        raise Unreadable(piece)
    parts, end = [], 0
    for found in [*words, None]:
        between = piece[end : found.start() if found else len(piece)].strip()
        if between.startswith("a ") and parts:
            parts.append((True, " a "))
            between = between[2:]
        if between:
            parts.append(middle(between, names))
        if found:
            parts.append((True, f" {found[0]} "))
            end = found.end()
    return parts


def middle(text: str, names: Collection[str]) -> tuple[bool, str]:
    """What stands between two words: text too if it is an article or a plain word."""
    if text in ("a", "-") or re.fullmatch(r"[a-z]{2,}", text) and text not in GREEK and text not in ("lr", "eps"):
        return True, f" {text} "
    return False, Formula(text, names).relation().replace("&", "")


def merged(parts: list[tuple[bool, str]]) -> list[tuple[bool, str]]:
    """Neighboring texts as one."""
    result: list[tuple[bool, str]] = []
    for plain, text in parts:
        if plain and result and result[-1][0]:
            text = result.pop()[1] + text
        result.append((plain, text))
    return [(plain, re.sub(r" +([,;:])", r"\1", re.sub(" +", " ", text)) if plain else text) for plain, text in result]


def escape(text: str) -> str:
    r"""Text for ``\text``."""
    return text.replace("_", r"\_")


def rows(block: str, names: Collection[str]) -> list[list[str]]:
    """The formulas of a block, each with the notes that follow it."""
    found: list[list[str]] = []
    for line in block.splitlines():
        fresh = True
        for cell in re.split(r"\s{2,}|(?<=\S);\s*$", line.strip()):
            if not cell:
                continue
            try:
                found.append([Formula(cell, names).relation()])
            except Unreadable:
                text = note(cell, names)
                relation = re.search(r"\\leftarrow|=", text)
                if fresh or relation and relation[0] != "=":
                    at = relation.start() if relation else 0
                    found.append([f"{text[:at]}&{'' if relation else ' '}{text[at:]}"])
                else:
                    found[-1].append(text)
            fresh = False
    return found


def typeset(block: str, names: Collection[str]) -> str | None:
    r"""An ASCII block as LaTeX; None if a cell of it can't be read.

    >>> print(typeset("p <- p - lr m_hat / (sqrt(v_hat) + eps)", ()))
    p \leftarrow p - \eta \frac{\hat{m}}{\sqrt{\hat{v}} + \epsilon}
    """
    try:
        found = rows(block, names)
    except Unreadable:
        return None
    lines = [" & ".join([first, *([r" \quad ".join(["", *notes]).strip()] * bool(notes))]) for first, *notes in found]
    if len(lines) == 1:
        return lines[0].replace("&", "").strip()
    latex = " \\\\\n".join(lines)
    return f"\\begin{{aligned}}\n{latex}\n\\end{{aligned}}"
