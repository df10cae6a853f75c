"""``config.json``: how a configuration is written and read back. Imports no JAX."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

from minigpt_flax.errors import UserError
from minigpt_flax.invocation import show
from minigpt_flax.phases import Size
from minigpt_flax.runs.schema import SMALL, check_fields, check_type, parse_json, read_text, types_of
from minigpt_flax.spec import Spec
from minigpt_flax.train.config.param_groups import ParamGroup
from minigpt_flax.train.config.run_config import BASE_SIZES, FIELDS, RunConfig, as_text, check, parsed

ADDED = {  # version in which a field was added, after 2; earlier runs did what its default does
    "val_tokens": 3,
    **dict.fromkeys(("parametrization", *BASE_SIZES), 4),
    **dict.fromkeys(("seq_len", "tuned_at"), 5),
}
VERSION = 5
IN_EVERY_VERSION = frozenset(
    "opt lr schedule clip steps batch_size seed data tokenizer layers heads kv_heads width hidden context norm "
    "position mlp bias tie_head qk_norm softcap dropout eval_every log_every probe keep explosion sample_tokens".split()
)
AS_TEXT = {
    Size: int | str,
    Size | None: int | str | None,
    Spec: str,
    tuple[Spec, ...]: tuple[str, ...],
    tuple[ParamGroup, ...]: tuple[str, ...],
}
TYPES = {name: AS_TEXT.get(kind, kind) for name, kind in types_of(RunConfig).items() if name in FIELDS}


class Stored(NamedTuple):
    """Contents of ``config.json``.

    Attributes:
      config: the configuration; its specs aren't trusted.
      version: of the format, from 1 for a file without a version.
      assumed: fields that version 1 lacks, with the value taken for each; empty for later versions.
    """

    config: RunConfig
    version: int
    assumed: str


def to_json(config: RunConfig) -> str:
    """The configuration as the run's folder holds it."""
    return json.dumps({"version": VERSION, **as_text(config)}, indent=2) + "\n"


def from_json(text: str, where: str) -> Stored:
    """Reads a configuration back. A later version has every field of it; version 1 may lack those added later.

    Raises:
      UserError: it is none, is of a later version, or names the field that is unknown, missing, or of another type.
    """
    values = parse_json(text, where)
    version = check_type(values.pop("version", 1), int, f"{where}: version")
    if not 1 <= version <= VERSION:
        raise UserError(f"{where} is of version {version}, which this release doesn't know (it reads 1 to {VERSION})")
    if isinstance(values.get("data"), str):  # the first runs had one source
        values["data"] = [values["data"]]
    missing = {name: FIELDS[name].default for name in TYPES if _may_lack(name, values, version)}
    try:
        found = check_fields(values, TYPES, where, optional=missing)
        fields = {name: parsed(name, value, trusted=False) for name, value in {**missing, **found}.items()}
        config = RunConfig(**check(fields))
    except UserError as error:
        raise UserError(f"{error}" if where in str(error) else f"{where} is damaged: {error}") from error
    unclear = {name: value for name, value in missing.items() if name not in ADDED}
    return Stored(config, version, ", ".join(f"{name}={value!r}" for name, value in unclear.items()))


def _may_lack(name: str, values: dict[str, Any], version: int) -> bool:
    if name in values:
        return False
    return version < ADDED[name] if name in ADDED else version == 1 and name not in IN_EVERY_VERSION


def read_config(path: Path) -> Stored:
    """Reads the ``config.json`` of a run; reports on stderr what an old file leaves open.

    Raises:
      UserError: see :func:`from_json`.
    """
    stored = from_json(read_text(path, SMALL), show(path))
    if stored.assumed:
        print(f"{show(path)} is of version 1; assumed: {stored.assumed}", file=sys.stderr)
    return stored
