"""The folder that a case runs in: a working folder, a user's own files inside and outside, and what changed in it."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.breaker.tables import DONE, EXPORT, HALF, OTHER, TEXT, TOKENS, VERSUS, line

SENTENCE = "The quick brown fox jumps over the lazy dog.\n"
OUTSIDE = "outside"  # beside the working folder; no command is asked to write there
NOTES = "notes.txt"  # a user's file, planted everywhere
HOME = "home"
BASES = {  # folder -> the lines that make it
    DONE: [line("train", {"--name": "done", "--steps": "4"})],
    HALF: [line("train", {"--name": "half", "--steps": "4", "--stop-after": "2"})],
    OTHER: [line("train", {"--name": "other", "--opt": "sgd", "--steps": "4"})],
    VERSUS: [line("compare", {"--name": "versus"})],
    TOKENS: [line("prepare", {"--out": TOKENS})],
    EXPORT: [line("train", {"--name": "done", "--steps": "4"}), line("export", {"--out": EXPORT})],
}


@dataclass(frozen=True)
class Entry:
    """What is at a path: kind of file, and a digest of its content or its target."""

    kind: int
    content: str
    changed: int


def populate(root: Path) -> Path:
    """Makes a working folder with odd things in it and a user's files; returns the folder."""
    work = root / "work"
    for folder in (work, root / OUTSIDE / "folder", root / HOME, work / "folder"):
        folder.mkdir(parents=True)
    for folder in (work, work / "folder", root / OUTSIDE, root / OUTSIDE / "folder"):
        (folder / NOTES).write_text("mine\n")
    (work / TEXT).write_text(SENTENCE * 40)
    os.mkfifo(work / "fifo")
    (work / "loop").symlink_to("loop")
    (work / "link").symlink_to(f"../{OUTSIDE}/{NOTES}")
    (work / "linked").symlink_to(f"../{OUTSIDE}/folder")
    (work / "dangling").symlink_to(f"../{OUTSIDE}/new")
    (work / "locked").mkdir(mode=0o000)
    return work


def add_bases(work: Path, bases: Path, names: Iterator[str] | tuple[str, ...]) -> None:
    """Copies folders that commands have made, with a user's file planted in each."""
    for name in names:
        shutil.copytree(bases / name, work / name, symlinks=True)
        for path in (work / name).rglob("*.json"):  # runs record the absolute paths of their data
            path.write_text(re.sub(rf'"/[^"]*/{work.name}/', f'"{work}/', path.read_text()))
        (work / name / NOTES).write_text("mine\n")


def snapshot(root: Path) -> dict[str, Entry]:
    """Everything below ``root``, by relative path."""
    found = {}
    for folder, names, files in os.walk(root):
        for path in (Path(folder, name) for name in [*names, *files]):
            with contextlib.suppress(FileNotFoundError):  # gone meanwhile
                found[str(path.relative_to(root))] = entry(path)
    return found


def entry(path: Path) -> Entry:
    """What is at ``path``; of a folder only that it is one."""
    state = path.lstat()
    kind = stat.S_IFMT(state.st_mode)
    if stat.S_ISLNK(state.st_mode):
        return Entry(kind, os.readlink(path), 0)
    if stat.S_ISREG(state.st_mode):
        return Entry(kind, hashlib.sha256(path.read_bytes()).hexdigest(), state.st_mtime_ns)
    return Entry(kind, "", 0)


def remove(root: Path) -> None:
    """Removes a case's folder, whatever its permissions."""
    for folder, names, _ in os.walk(root):
        for path in (Path(folder, name) for name in names):
            if not path.is_symlink():
                path.chmod(0o700)
    shutil.rmtree(root, ignore_errors=True)
