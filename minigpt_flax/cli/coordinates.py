"""``diagnose coordinates``: check that activations don't grow with the width or depth, without a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from minigpt_flax.bounds import Bound
from minigpt_flax.cli import compiled
from minigpt_flax.cli.diagnose import progress, text_of, writable, write_study
from minigpt_flax.cli.parser import Parser, add_fields, given_fields
from minigpt_flax.cli.sizes import sizes
from minigpt_flax.console import output
from minigpt_flax.console.output import Output
from minigpt_flax.errors import UserError
from minigpt_flax.invocation import line, show
from minigpt_flax.runs import files
from minigpt_flax.text import tell

SUMMARY = "Check how activations grow with width or depth in the first steps."
SEEDS = Bound(1, 100, whole=True)
SLOPE = Bound(0, 10, above=True)
OMITTED = (  # fields that the check sets, or has no use for
    *(
        "base_width",
        "base_layers",
        "base_heads",
        "seed",
        "accum",
        "tokens_per_step",
        "tuned_at",
        "init",
        "document_mask",
        "log",
    ),
    *("parallel", "mesh", "eval_every", "val_tokens", "log_every", "probe", "keep", "keep_every", "on_nan"),
    *("explosion", "sample_tokens"),
)
DEFAULTS = {"schedule": "constant", "parametrization": "completep", "steps": 10}
AXES = {"widths": "width", "depths": "depth"}
FIELDS = {"widths": "width", "depths": "layers"}  # of the configuration


def declare(parser: Parser) -> None:
    """Adds the arguments."""
    parser.usage = f"{line('diagnose coordinates')} [--flag VALUE ...]"
    parser.add_argument("--widths", metavar="N,N,...", help="widths, smallest first [64,128,256]")
    parser.add_argument("--depths", metavar="N,N,...", help="numbers of layers, smallest first [none]")
    parser.add_argument("--seeds", type=SEEDS, default=2, metavar="N", help="initial weights to average over [2]")
    parser.add_argument(
        "--tolerance", type=SLOPE, metavar="SLOPE", help="largest slope that passes [0.2 over width, 0.3 over depth]"
    )
    parser.add_argument("--preset", metavar="NAME", default="nano", help="default values of the other flags [nano]")
    parser.add_argument(
        "--out", metavar="DIR", default="coordinates", help="folder for numbers and plots [coordinates]"
    )
    compiled.declare(parser)
    output.declare(parser)
    add_fields(parser, without=OMITTED)


def run(
    *,
    widths: str | None,
    depths: str | None,
    seeds: int,
    tolerance: float | None,
    preset: str,
    out: str,
    compile_cache: str | None,
    quiet: bool,
    json: bool,
    **values: Any,
) -> int:
    """Runs the check over the widths, then over the depths; prints and writes each.

    Returns:
      0 if every slope is within the tolerance, 1 if one is not or its standard error doesn't decide.

    Raises:
      UserError: a flag is wrong, or a run diverges.
    """
    answer, given = Output(quiet, json), DEFAULTS | given_fields(values)
    asked = {"widths": sizes("--widths", widths), "depths": sizes("--depths", depths, "2,4,8")}
    chosen = {name: found for name, found in asked.items() if found} or {"widths": [64, 128, 256]}
    for name, field in FIELDS.items():
        if name in chosen and field in given:
            listed = ",".join(map(str, chosen[name]))
            raise UserError(f"--{name} {listed} sets the {AXES[name]} of the models: omit --{field}")
    names = {f"{name}.{form}" for name in AXES for form in ("json", "png")}
    target = Path(out)
    files.require_own_folder(target, names, "--out")
    compiled.use(compile_cache)
    from minigpt_flax.diagnose.coordinates import study
    from minigpt_flax.train.config.run_config import resolve
    from minigpt_flax.train.dataset import load_dataset

    passed = True
    with progress(answer.human) as report:
        for name, found in chosen.items():
            size = {FIELDS[name]: found[0]}
            if name == "depths" and "widths" in chosen:
                size["width"] = chosen["widths"][0]
            config = resolve({**given, **size}, preset)
            result = study(
                config, load_dataset(config), AXES[name], found, seeds=seeds, tolerance=tolerance, report=report
            )
            passed &= result.numbers["passed"] is True
            writable(target)
            write_study(name, result, target)
            answer.result(text_of(name, result), {"study": "coordinates", **result.numbers})
    if answer.human:
        tell(f"numbers and plots: {show(target)}")
    return 0 if passed else 1
