"""The specification of a comparison or a tuning, as a JSON file in its folder. Imports no JAX."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minigpt_flax.errors import UserError
from minigpt_flax.invocation import show
from minigpt_flax.runs import files
from minigpt_flax.runs.records import wrong_folder
from minigpt_flax.runs.schema import check_fields, check_type, read_json, types_of
from minigpt_flax.train.config.stored import TYPES

UNSTORED = "trust"  # whether code may be executed: never read from a file


@dataclass(frozen=True)
class StudyFile:
    """A kind of specification, and the file that holds it.

    Attributes:
      kind: dataclass of the specification, with a field ``given``: fields of ``RunConfig`` that all runs share.
      what: its name in messages.
      name: of the file.
      version: of the file's format.
      later: fields that earlier versions lack; they did what the default does.
    """

    kind: type
    what: str
    name: str
    version: int
    later: tuple[str, ...] = ()

    def is_in(self, folder: Path) -> bool:
        """Whether the folder holds the file."""
        return (folder / self.name).exists()

    def version_in(self, folder: Path) -> int:
        """The version of the file in a folder.

        Raises:
          UserError: the file is damaged, or of a later release.
        """
        path = folder / self.name
        version = check_type(read_json(path).get("version", 1), int, f"{show(path)}: version")
        if not 1 <= version <= self.version:
            raise UserError(f"{show(path)} was written by a later release")
        return version

    def read(self, folder: Path) -> dict[str, Any]:
        """The fields of the specification, of the right types.

        Raises:
          UserError: the folder has no such file, or the file is damaged.
        """
        path = folder / self.name
        if not path.is_file():
            raise wrong_folder(folder, self.what)
        self.version_in(folder)
        values = {name: value for name, value in read_json(path).items() if name != "version"}
        types = {name: kind for name, kind in types_of(self.kind).items() if name != UNSTORED}
        found = check_fields(values, types, show(path), optional=self.later)
        return {**found, "given": check_fields(found["given"], TYPES, f"{show(path)}: given", optional=TYPES)}

    def require_same(self, there: Any, here: Any, folder: Path, same: Callable[[str, Any, Any], bool]) -> None:
        """Checks that a folder holds the same specification.

        Args:
          there: what the folder holds.
          here: what was asked for.
          folder: of both.
          same: (field, value there, value here) -> whether values that differ are compatible.

        Raises:
          UserError: names what differs.
        """
        for item in dataclasses.fields(self.kind):
            before, after = getattr(there, item.name), getattr(here, item.name)
            if item.compare and before != after and not same(item.name, before, after):
                raise UserError(
                    f"{show(folder)} holds a {self.what} with {item.name}={before!r}, not {after!r}: give another "
                    "--name"
                )

    def write(self, specification: Any, folder: Path) -> None:
        """Writes the file into its folder, which is created if it doesn't exist.

        Raises:
          UserError: the folder holds other files, or can't be written.
        """
        if not self.is_in(folder) and folder.exists() and not _is_empty(folder):
            raise UserError(f"{show(folder)} exists already and is no {self.what}: give another --name")
        stored = {name: value for name, value in dataclasses.asdict(specification).items() if name != UNSTORED}
        try:
            files.make_folder(folder)
            files.replace(folder / self.name, json.dumps({"version": self.version, **stored}, indent=2) + "\n")
        except OSError as error:
            files.remove_empty_folder(folder)
            raise UserError(f"can't write {show(folder)}: {error.strerror}") from error


def _is_empty(folder: Path) -> bool:
    """Whether it is a folder that holds at most temporary files."""
    return folder.is_dir() and all(files.is_temporary(entry.name) for entry in folder.iterdir())
