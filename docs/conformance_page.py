"""The page on conformance, from the results and the reproductions in ``conformance/``."""

from __future__ import annotations

import ast
import json
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from docs.catalog import HEAD, table

KIT = Path(__file__).parents[1] / "conformance"
RECORDINGS = KIT.parent / "tests" / "golden" / "optimizers"
KINDS = "py", "text"  # blocks of the kit's README
FRAMEWORKS = {"jax", "numpy", "python", "library"}
# A departure's file -> library and recordings that show it.
SHOWN = {
    "heavyball_caution": ("heavyball", "cautious_adamw", "cautious_adamw_foreach", "adamw_cautious_wd"),
    "heavyball_hyperball": ("heavyball", "adamh", "adamh_levanter"),
    "heavyball_mars": ("heavyball", "mars_adamw_1d"),
    "heavyball_nadam": ("heavyball", "torch_nadam_l2"),
    "heavyball_scion": ("heavyball",),  # no recording has its choice of norms
    "heavyball_soap": ("heavyball", "soap_square_freq10", "soap_one_sided"),
    "keras_lamb": ("keras", "lamb"),
    "keras_nadam": ("keras", "torch_nadam"),
    "keras_schedule_free": ("keras", "schedule_free_adamw_wd"),
    "optax_adan": ("optax", "adan", "adan_noprox_clip"),
    "optax_muon": ("optax", "muon_aux_adam_f32"),
    "optax_radam": ("optax", "torch_radam"),
    "optax_rprop": ("optax", "torch_rprop"),
    "optax_schedule_free": ("optax", "schedule_free_adamw_wd"),
    "pytorch_optimizer_adopt": ("pytorch_optimizer", "adopt", "adopt_wd"),
    "pytorch_optimizer_apollo": ("pytorch_optimizer", "apollo"),
    "pytorch_optimizer_galore": ("pytorch_optimizer", "galore_adamw", "fira"),
    "pytorch_optimizer_lamb": ("pytorch_optimizer", "lamb"),
}
# Why a recording has no row: what the run needs besides gradients, or what it shows besides parameters.
WITHOUT_ROW = {
    "the basis from which the run starts, which was recorded": ("dion_rank4", "dion_full", "klsoap_h", "soap_muon_f32"),
    "the random probes of each step, which were recorded": (
        *("kron_jax", "kron_torch", "kron_torch_grad", "psgd_h", "psgd_kron", "psgd_kron_eq"),
    ),
    "the loss of each step": ("schedule_free_plus", "schedule_free_plus_anneal"),
    "gradients of another loss, for the Hessian": ("sophia_g",),
    "an average, or a point ahead, beside the parameters": (
        *("average_ema", "average_tail_ema", "average_lawa_queue", "average_uniform"),
        *("ema_nesterov_adamw", "ema_nesterov_muon_f32"),
    ),
}
PAGE = """\
{head}# Conformance

Which libraries compute what the authors of an optimizer published? The conformance kit (`conformance/`) replays
recorded trajectories of the authors' code (same start, same gradients, 40 steps) on the optimizers of a library and
prints where they depart, from which step on, and which convention explains it.

    pip install ./conformance          # in a clone; needs NumPy only
    python -m jaxopt_conformance optax

A few lines test an optimizer of your own, in any framework. This one has a fault:

{example}
The report:

{report}
`conformance/README.md` has the adapters for Optax, PyTorch and Keras, and all flags.

## How to read the results

- *Deviation* is the largest deviation of a parameter at any step, divided by the largest distance that the reference
  moves it. A run *agrees* if it stays within 1e-4 and what float32 rounding explains.
- The *reference* is the code that was recorded: the authors' own where there is one. For `lamb` it is the code of the
  EPFL benchmark, for the classic optimizers PyTorch. A departure from it is not always an error.
- Every recorded hyperparameter is passed. Code that works in bfloat16 is compared in float32.
- An *explanation* is confirmed: the library's own keyword reproduces the recording, or the rule in NumPy with that one
  convention changed reproduces the library. Without one, no combination of up to four known conventions does.
- *Documented* departures are conventions that the library states (a file and line of its release follow), or where it
  follows the paper and the reference doesn't.
- The tables cover {covered} of {recorded} recordings. The others [need more](#recordings-without-a-row) than
  parameters and gradients.

{summary}
## Departures that look unintended

Each contradicts the library's own documentation, comment or cited source. Files and line numbers are those of the
release; for HeavyBall and pytorch_optimizer the links lead to the repository. The scripts print what the library
computes and what the reference does.

{departures}
## Results by library

Where a row has no script, its command prints the departure. The call is in the library's table,
[`jaxopt_conformance/libraries`]({kit}/jaxopt_conformance/libraries/__init__.py).

{libraries}
## Recordings without a row

The kit passes parameters and gradients and compares parameters. These runs need, or show, something else. The tests of
this repository replay them for `jaxopt_mini`.

{without}"""


def page() -> str:
    """The page."""
    results = {path.stem: json.loads(path.read_text("utf-8")) for path in sorted((KIT / "results").glob("*.json"))}
    readme = (KIT / "README.md").read_text("utf-8")
    example, report = (re.findall(rf"^```{kind}\n.*?^```\n", readme, re.DOTALL | re.MULTILINE)[0] for kind in KINDS)
    return PAGE.format(
        head=HEAD,
        kit="../conformance",
        recorded=len([name for name in _configs() if (RECORDINGS / f"{name}.npz").is_file()]),
        covered=len({row["recording"] for result in results.values() for row in result["results"]}),
        example=example,
        report=report,
        summary=_summary(results),
        departures="\n".join(map(_departure, SHOWN)),
        libraries="\n".join(_library(name, result) for name, result in results.items()),
        without=table(
            ("what is needed", "recordings"),
            (f"{reason} | {', '.join(f'`{name}`' for name in names)}" for reason, names in WITHOUT_ROW.items()),
        ),
    )


def _configs() -> Mapping[str, Any]:
    """The index of the recordings."""
    return json.loads((RECORDINGS / "index.json").read_text("utf-8"))["configs"]


def _versions(result: Mapping[str, Any]) -> str:
    """The versions of the library's own packages."""
    named = {name: version for name, version in result["versions"].items() if name not in FRAMEWORKS}
    first = next(iter(named))
    own = {first: named[first]} if first in ("optax", "torch") else named
    dependencies = {"optax", "torch"} - {first}
    return ", ".join(f"{name} {version}" for name, version in own.items() if name not in dependencies)


def _summary(results: Mapping[str, Any]) -> str:
    """A row for each library."""
    rows = []
    for name, result in results.items():
        counts = Counter(_kind(row) for row in result["results"])
        cells = [counts[kind] or "" for kind in ("agrees", "documented", "explained", "unexplained")]
        rows.append(" | ".join([f"[`{name}`](#{_slug(name)})", _versions(result), *map(str, cells)]))
    return table(("library", "versions", "agree", "documented", "explained", "unexplained"), rows) + "\n"


def _kind(row: Mapping[str, Any]) -> str:
    """The column of the summary."""
    if row["verdict"] == "agrees":
        return "agrees"
    return "documented" if row["documented"] else "explained" if row["explanation"] else "unexplained"


def _departure(name: str) -> str:
    """The docstring of a reproduction and its code."""
    source = (KIT / "departures" / f"{name}.py").read_text("utf-8")
    docstring = ast.get_docstring(ast.parse(source)) or ""
    text, _, links = docstring.partition("\n\n[1]: ")
    urls = dict(re.findall(r"\[(\d+)\]: (\S+)", f"[1]: {links}"))
    text = re.sub(r"\]\[(\d+)\]", lambda match: f"]({urls[match[1]]})", text)
    title, body = text.split("\n\n", 1)
    code = source.split('"""', 2)[2].strip()
    return f"({name.replace('_', '-')})=\n### {title.rstrip('.')}\n\n{body}\n\n```py\n{code}\n```\n"


def _library(name: str, result: Mapping[str, Any]) -> str:
    """The departures of a library in a table, the rest in a line."""
    departs = [row for row in result["results"] if row["verdict"] != "agrees"]
    agrees = ", ".join(f"`{row['recording']}`" for row in result["results"] if row["verdict"] == "agrees")
    versions = ", ".join(f"{key} {value}" for key, value in result["versions"].items() if key != "library")
    rows = [_row(name, row) for row in departs]
    head = ("recording", "reference", "deviation", "first step", "explanation", "reproduction")
    parts = [f"({_slug(name)})=\n### {name}\n", f"{versions}.\n"]
    parts += [table(head, rows)] if rows else []
    return "\n".join([*parts, f"Agree ({len(result['results']) - len(departs)}): {agrees}.\n"])


def _row(library: str, row: Mapping[str, Any]) -> str:
    """One departure."""
    script = next((file for file, (lib, *runs) in SHOWN.items() if lib == library and row["recording"] in runs), "")
    known = "; ".join(filter(None, (row["explanation"], row["documented"], row["error"])))
    why = known or ("that of the script" if script else "none found")
    command = f"`python -m jaxopt_conformance {library} {row['recording']}`"
    reproduction = f"[script](#{script.replace('_', '-')}), {command}" if script else command
    deviation = "" if row["deviation"] is None else f"{row['deviation']:.1e}"
    cells = (f"`{row['recording']}`", row["reference"], deviation, row["first_step"], why, reproduction)
    return " | ".join(map(str, cells))


def _slug(library: str) -> str:
    """The label of a library's section."""
    return f"library-{library.replace('_', '-')}"
