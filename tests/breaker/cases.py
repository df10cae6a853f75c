"""The cases, by kind, made from the tables of the project."""

from __future__ import annotations

import hashlib
import json
import random
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from tests.breaker import odd, tables, world
from tests.breaker.tables import DONE, HALF, OTHER, TEXT, TOKENS, VERSUS, line


@dataclass(frozen=True)
class Case:
    """One case.

    Attributes:
      kind: a key of ``KINDS``.
      argv: the command and its arguments.
      damage: what was done to the folder before, in words.
      make: does it, given the working folder.
      refuse: whether status 0 is wrong.
      must: whether another status than 0 is wrong.
      then: a line that must work if this one did.
      disk: bytes that a file may have at most; None: any.
      cold: in a new process instead of a forked one.
    """

    kind: str
    argv: tuple[str, ...]
    damage: str = ""
    make: Callable[[Path], None] | None = None
    refuse: bool = False
    must: bool = False
    then: tuple[str, ...] = ()
    disk: int | None = None
    cold: bool = False

    @property
    def id(self) -> str:
        """The kind and a digest of what makes up the case."""
        text = repr((self.argv, self.damage, self.then, self.disk, self.cold))
        return f"{self.kind}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"

    @property
    def bases(self) -> tuple[str, ...]:
        """The folders that the case needs."""
        text = " ".join((*self.argv, self.damage, *self.then))
        return tuple(name for name in world.BASES if name in text)


def plain(random: random.Random, bases: Path) -> Iterator[Case]:
    """The lines that the other kinds spoil, as they are: all must work."""
    for folder in (name for name in world.BASES if name != OTHER):
        for argv in _lines(folder):
            taken = {f"{flag}={folder.removeprefix('runs/')}" for flag in ("--name", "--out")}  # as an output
            if not taken & set(argv) and not (argv[0] == "compare" and folder == HALF):
                yield Case("plain", tuple(argv), f"{folder} is whole", must=True)


def flags(random: random.Random, bases: Path) -> Iterator[Case]:
    """Every flag of every command with odd values, without one, twice, misspelled; pairs of flags."""
    seen: set[str] = set()  # many flags of `compare` are those of `train`: fewer values again
    for command, parser in tables.commands().items():
        known = list(tables.flags(parser))
        for action in known:
            count = 3 if action.option_strings[0] in seen and command not in ("sample", "eval") else 9
            seen.add(action.option_strings[0])
            flag, number = action.option_strings[0], tables.is_number(action)
            base = line(command, {flag: "X"})[:-1] if flag not in tables.TINY else line(command)
            base = [word for word in base if word != flag and not word.startswith(f"{flag}=")]
            make = lambda *words, refuse=False, base=base: Case("flags", (*base, *words), refuse=refuse)
            if tables.takes_value(action):
                values = odd.NUMBERS if number else odd.TEXTS
                for value in random.sample(values, count):
                    yield make(f"{flag}={value}")
                yield from (
                    make(f"{flag}={value}", refuse=True) for value in (odd.NEVER if number else ())[: count // 3]
                )
                yield make(flag, refuse=True)
                yield make(f"{flag}=1", f"{flag}=2")
            else:
                yield make(f"{flag}={random.choice(odd.TEXTS)}", refuse=True)
                yield make(flag, flag)
            yield make(flag[:-1] + "~", "1", refuse=True)
        yield from _pairs(random, command, known)


def _pairs(random: random.Random, command: str, known: list) -> Iterator[Case]:
    """Pairs of flags that may contradict each other."""
    for _ in range(min(40, 3 * len(known))):
        pair = random.sample(known, min(2, len(known)))
        value = lambda one: random.choice(("0", "1", "2", "3", "none", "0.5")) if tables.takes_value(one) else None
        yield Case("flags", tuple(line(command, {one.option_strings[0]: value(one) for one in pair})))


def places(random: random.Random, bases: Path) -> Iterator[Case]:
    """Positional arguments: none, too many, odd ones; commands that aren't there."""
    for command in tables.commands():
        usual = tables.LINES.get(command, tables.Line()).places
        for at in ((), (*usual, *usual), (*usual, "x"), (*usual, ""), *((value,) for value in odd.TEXTS)):
            if at != usual:
                yield Case("places", tuple(line(command, at=at)))
        yield Case("places", (command[:-1],), refuse=True)
        yield Case("places", (command.upper(),), refuse=True)
    yield from (Case("places", (value,)) for value in odd.TEXTS)


def specs(random: random.Random, bases: Path) -> Iterator[Case]:
    """Odd literals in every keyword of every spec, and specs that are none."""
    for spec in tables.specs():
        make = lambda text, refuse=False, spec=spec: Case(
            "specs", tuple(line("train", {spec.flag: text})), refuse=refuse
        )
        for keyword in spec.keywords:
            for value in random.sample(odd.LITERALS, 2):
                yield make(f"{spec.name}({keyword}={value})")
        keyword = random.choice(spec.keywords or ("x",))
        yield make(f"{spec.name}({keyword}={random.choice(odd.BAD_LITERALS)})", refuse=True)
        for shape in random.sample(odd.SHAPES, 2):
            yield make(shape.format(spec.name, spec.name))
        yield make(f"{spec.name}({random.choice(odd.LITERALS)})")
    for flag in sorted({spec.flag for spec in tables.specs()}):
        for text in odd.DEEP:
            yield Case("specs", tuple(line("train", {flag: f"x(y={text})"})), refuse=True)
            yield Case("specs", tuple(line("train", {flag: text})), refuse=flag != "--data")


def readers(folder: str) -> list[list[str]]:
    """Lines of every command that reads a folder; a command with a positional argument reads that."""
    found = [line(name, at=(folder,)) for name, parser in tables.commands().items() if "RUN" in _metavars(parser)]
    found = [argv for argv in found if argv[0] != "compare"]  # which takes several
    train = tables.commands()["train"]
    reading = [action.option_strings[0] for action in tables.flags(train) if action.metavar in ("RUN", "FROM")]
    found += [line("train", {flag: folder}) for flag in reading if flag != "--resume"]
    return [
        *found,
        ["train", f"--resume={folder}"],
        line("train", {"--name": Path(folder).name}),
        ["compare", folder, OTHER],
    ]


def _metavars(parser) -> set:
    return {action.metavar for action in tables.places(parser)}


def files(random: random.Random, bases: Path) -> Iterator[Case]:
    """Every file of every folder that a command writes, damaged, under the commands that read it."""
    for folder in (name for name in world.BASES if name != OTHER):
        lines = _lines(folder)
        for path in _paths(bases / folder):
            deep = len(path.parts) > 1
            for words, damage in random.sample(sorted(odd.FILE.items()), 3 if deep else len(odd.FILE)):
                for argv in random.sample(lines, min(len(lines), 1 if deep else 3)):
                    yield _damaged("files", argv, folder, path, words, damage)


def json_fields(random: random.Random, bases: Path) -> Iterator[Case]:
    """Every field of every JSON file removed, added, or of another value."""
    for folder in (name for name in world.BASES if name != OTHER):
        lines = _lines(folder)
        for path in _paths(bases / folder):
            text = _json(bases / folder / path)
            if text is None:
                continue
            deep = len(path.parts) > 1
            edits = [*_whole(), *_edits(random, text, path)]
            for words, damage in random.sample(edits, min(len(edits), 10 if deep else len(edits))):
                yield _damaged("json", random.choice(lines), folder, path, words, damage)


def _whole() -> Iterator[tuple[str, odd.Damage]]:
    for content in odd.WHOLE:
        yield f"is {content[:20].decode(errors='replace')!r} of {len(content)} bytes", odd._bytes(content)


def _edits(random: random.Random, text: str, path: Path) -> Iterator[tuple[str, odd.Damage]]:
    """Changes of single fields."""
    number = random.randrange(len(text.splitlines())) if path.suffix == ".jsonl" else None
    value = json.loads(text if number is None else text.splitlines()[number])
    where = "" if number is None else f"line {number + 1}: "
    edited = lambda at, edit: lambda file: file.write_text(odd.change(text, at, edit, number))
    for at in odd.fields(value):
        name = ".".join(map(str, at))
        yield f"{where}{name} is removed", edited(at, lambda holder, key: holder.pop(key))
        for words, new in random.sample(sorted(odd.VALUES.items()), 3):
            yield f"{where}{name} is {words}", edited(at, lambda holder, key, new=new: _set(holder, key, new))
    if isinstance(value, dict):
        yield f"{where}has a field more", edited(("a field more",), lambda holder, key: _set(holder, key, 1))


def _set(holder, key, value) -> None:
    holder[key] = value


def _json(path: Path) -> str | None:
    """The text of a JSON file, or of one with a value a line."""
    try:
        text = path.read_text()
        json.loads(text.splitlines()[0] if path.suffix == ".jsonl" else text)
        return text
    except (ValueError, IndexError, OSError):  # no JSON; a folder
        return None


def _lines(folder: str) -> list[list[str]]:
    """The lines that read a folder of ``BASES``."""
    if folder in (DONE, HALF):
        return readers(folder)
    if folder == VERSUS:
        return [
            ["compare", folder],
            ["compare", f"--resume={folder}"],
            line("compare", {"--name": "versus"}),
            line("report", at=(folder,)),
        ]
    if folder == TOKENS:
        return [
            line("train", {"--data": folder}),
            line("eval", {"--data": folder}),
            line("prepare", {"--out": folder}),
        ]
    return [line("train", {"--init": folder}), line("export", {"--out": folder})]


def _paths(folder: Path) -> list[Path]:
    """The files and folders below a folder, relative."""
    return sorted(path.relative_to(folder) for path in folder.rglob("*"))


def _damaged(kind: str, argv: list[str], folder: str, path: Path, words: str, damage: odd.Damage) -> Case:
    steady = re.sub(r"[0-9a-f]{32}", "HASH", str(path))
    return Case(kind, tuple(argv), f"{folder}/{steady} {words}", lambda work: damage(work / folder / path))


def data(random: random.Random, bases: Path) -> Iterator[Case]:
    """Odd files of text and tokens, under every suffix."""
    for suffix in odd.SUFFIXES:
        for words, content in odd.CONTENTS.items():
            name = f"odd{suffix}"
            make = lambda work, name=name, content=content: (work / name).write_bytes(content)
            for argv in random.sample(_data_lines(name), 1):
                yield Case("data", tuple(argv), f"{name} holds {words}", make)
    for words, damage in odd.FILE.items():
        for argv in _data_lines(TEXT):
            yield Case("data", tuple(argv), f"{TEXT} {words}", lambda work, damage=damage: damage(work / TEXT))


def _data_lines(name: str) -> list[list[str]]:
    """The lines that read a file of text or tokens; some of them a folder of such files."""
    small = {"--tokenizer": "byte"}
    return [
        line("train", {"--data": name}),
        line("train", {"--data": name, **small}),
        line("train", {"--data": (TEXT, name), "--mix": "1,1"}),
        line("train", {"--init": name}),
        line("prepare", at=(name,)),
        line("prepare", small, at=(name,)),
        line("eval", {"--data": name}),
        line("sample", {"--prompt-file": name}),
        line("report", at=(name,)),
    ]


def outputs(random: random.Random, bases: Path) -> Iterator[Case]:
    """Outputs sent to files, links, folders that can't be written, and to odd names; then a disk that is full."""
    for command, parser in tables.commands().items():
        for action in tables.flags(parser):
            flag = action.option_strings[0]
            if action.metavar in ("DIR", "FILE", "FOLDER") or flag == "--name":
                for place in odd.PLACES:
                    yield Case("outputs", tuple(line(command, {flag: place})))
                for name in random.sample(odd.NAMES, 12):
                    yield Case("outputs", tuple(line(command, {flag: f"new/{name}"})))
        for disk in (1, 100, 1000, 5000, 20_000, 50_000):
            yield Case("outputs", tuple(line(command)), f"a file has at most {disk} bytes", disk=disk)
    for disk in (1, 100, 500, 1000, 5000, 20_000):
        yield Case("outputs", ("train", f"--resume={HALF}"), f"a file has at most {disk} bytes", disk=disk)


def is_utf8(text: str) -> bool:
    """Whether a name can be written as UTF-8: one that can't may be refused."""
    return not any("\ud800" <= letter <= "\udfff" for letter in text)


def names(random: random.Random, bases: Path) -> Iterator[Case]:
    """Runs of odd names, which every command must read; and such names given to new runs."""
    for name in odd.NAMES:
        folder = f"runs/{name}"
        for argv in random.sample(readers(folder), 3):
            if not any(word.startswith("--name") and word.endswith(name) for word in argv):
                original = DONE if "train" not in argv else HALF
                copy = lambda work, folder=folder, original=original: shutil.copytree(work / original, work / folder)
                yield Case("names", tuple(argv), f"{folder!a} is a copy of {original}", copy, must=is_utf8(folder))
        yield Case("names", tuple(line("train", {"--name": name})), then=("sample", folder, "--max-tokens=4"))
        yield Case(
            "names", tuple(line("prepare", {"--out": f"./{name}"})), then=tuple(line("train", {"--data": f"./{name}"}))
        )


KINDS: dict[str, Callable[[random.Random, Path], Iterator[Case]]] = {
    "plain": plain,
    "flags": flags,
    "places": places,
    "specs": specs,
    "files": files,
    "json": json_fields,
    "data": data,
    "outputs": outputs,
    "names": names,
}


def make(seed: int, bases: Path, kinds: list[str]) -> list[Case]:
    """All cases of some kinds, each once."""
    found = {}
    for kind in kinds:
        for case in KINDS[kind](random.Random(f"{seed} {kind}"), bases):
            found.setdefault(case.id, case)
    return list(found.values())


def colder(cases: list[Case], seed: int, number: int) -> list[Case]:
    """Some of the cases, to be run as new processes."""
    some = random.Random(seed).sample(cases, min(number, len(cases)))
    return [replace(case, kind="cold", cold=True) for case in some]
