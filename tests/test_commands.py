"""Every command shown on a page is valid: its flags and the names in its specs exist."""

import re
import shlex

import pytest

from minigpt_flax import __main__ as minigpt
from minigpt_flax.cli import compare, coordinates, parser, tune
from minigpt_flax.train.config.run_config import resolve
from minigpt_flax.train.registry import REGISTRIES
from tests.test_snippets import EVERY

SHOWN = re.compile(r"^[ $]*(?:\S+ )*?(?:python (?:-m )?(train\.py|minigpt_flax)|(minigpt)) (.*)$", re.MULTILINE)
SPECS = {"probe": "probe", "wrap": "wrapper", "log": "logger"}  # which a configuration doesn't look up


def lines_of(page):
    """The command lines of a page's blocks, as (program, arguments)."""
    text = page.read_text(encoding="utf-8")
    fences = re.findall(r"^```(?:bash|sh|text)\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    indented = re.findall(
        r"(?:^    .*\n)+", re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE), re.MULTILINE
    )
    for block in (*fences, *indented):
        for script, installed, rest in SHOWN.findall(block.replace("\\\n", " ")):
            arguments = shlex.split(re.split(r" [|&>;]|(?<=\s)\[", rest)[0], comments=True)
            if "..." not in arguments and "|" not in arguments:
                yield script or installed, arguments


FOUND = sorted({(name, *rest) for page in EVERY for name, rest in lines_of(page)})


def look_up(given, preset):
    """Builds the configuration, and looks up the specs in it."""
    config = resolve(given, preset)
    for field, kind in SPECS.items():
        for spec in getattr(config, field):
            REGISTRIES[kind].partial(spec)


def test_pages_show_commands():
    assert len(FOUND) > 60


@pytest.mark.parametrize("command", FOUND, ids=" ".join)
def test_the_command_is_understood(command):
    program, *arguments = command
    values = (parser if program == "train.py" else minigpt).parser().parse(minigpt.without_family(arguments))
    run = values.pop("run", None)
    if "preset" not in values:
        return
    if run is compare.run:
        typed = {name: values.pop(name) for name in compare.OWN}
        if not (typed["folders"] or typed["resume"]):
            typed |= {"preset": typed["preset"] or "nano", "out": typed["out"] or "runs"}
            compare.requested(typed, parser.given_fields(values))
        return
    if run is tune.run:
        typed = {name: values.pop(name) for name in tune.OWN}
        if not typed["resume"]:
            tune.requested(typed, parser.given_fields(values))
        return
    if run is coordinates.run:
        look_up(parser.given_fields(values), values["preset"])
        return
    request = parser.requested(values)
    if request.resume is None and request.explain is None:
        look_up(request.given, request.preset or "nano")
