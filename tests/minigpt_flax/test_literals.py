"""Every keyword of every spec against odd literals: answered in our own words, never a traceback."""

import inspect
import itertools
import linecache
import random

import jax
import pytest

from minigpt_flax.data.tokenizers import TOKENIZERS
from minigpt_flax.errors import UserError
from minigpt_flax.literals import literals, problem
from minigpt_flax.spec import bind, parse, ready
from minigpt_flax.train import build
from minigpt_flax.train.config.run_config import resolve
from minigpt_flax.train.optimizer import build_optimizer, rehearse
from minigpt_flax.train.registry import KINDS

ODD = (
    "None", "True", "'x'", "()", "(1, 2)", "(0.5, 0.5, 0.5)", "('x', 0.1)", "-1", "0", "0.5", "1.0", "2", "1e308",
    "inf", "-inf", "10" * 15, "1j", "-0.0", "1e-300", "[1]", "{1: 2}", "{'x': 1}", "{1, 2}", "b'x'", "...", "'float16'",
    "10000000000",    "-" * 900 + "1", "(" * 150 + "1" + ")" * 150, "[" * 60 + "]" * 60, "'" + "x" * 5000 + "'",
)  # fmt: skip
NEVER = ("1e308", "-inf", "10" * 15, "1j", "[1]", "{1, 2}", "b'x'", "...", "-" * 900 + "1", "[" * 60 + "]" * 60)
FIELDS = {
    "optimizer": "opt",
    "clip": "clip",
    "schedule": "schedule",
    "wrapper": "wrap",
    "probe": "probe",
    "policy": "on_nan",
}
OURS = ("too many or too few values", "is not a word")
SIZES = {"layers": 1, "heads": 2, "width": 8, "context": 4, "batch_size": 4, "steps": 40, "data": ("x",)}
KEYWORDS = [
    (kind, name, parameter)
    for kind, rows in KINDS.items()
    for name, row in rows.table.items()
    for parameter in list(inspect.signature(row).parameters.values())[rows.given :]
]


def checked(kind, name, parameter, odd):
    """The message about a value of the wrong type; None if the type is right."""
    needed = ", threshold=1.0" if kind == "clip" and parameter.name != "threshold" else ""
    try:
        ready(parse(f"{name}({parameter.name}={odd}{needed})", kind), KINDS[kind].table, kind, KINDS[kind].given)
    except UserError as error:
        return str(error)


def test_types_of_literals():
    for kind, name, parameter in KEYWORDS:
        for odd in ODD:
            said = checked(kind, name, parameter, odd)
            assert said is None or (len(said) < 400 and "\n" not in said)
            assert said is not None or odd not in NEVER, (name, parameter, odd)
            takes_bool = "bool" in str(parameter.annotation) or isinstance(parameter.default, bool)
            assert odd != "True" or takes_bool == (said is None), (name, parameter)


def test_what_a_refusal_says():
    said = checked("optimizer", "adamw", dict_of("adamw")["b1"], "'x'")
    assert said == "optimizer 'adamw': b1 takes a number of at most 1e+30, got 'x'"
    assert "takes a whole number" in str(checked("optimizer", "muon", dict_of("muon")["ns_steps"], "0.5"))
    assert "must be at most 100" in str(checked("optimizer", "muon", dict_of("muon")["ns_steps"], "1000000000"))
    assert "can only be set in Python" in str(checked("optimizer", "adopt", dict_of("adopt")["clip_value_fn"], "1"))


def dict_of(name):
    return inspect.signature(KINDS["optimizer"].table[name]).parameters


def test_defaults_and_recommended_values_are_accepted():
    for _, name, parameter in KEYWORDS:
        if isinstance(parameter.default, bool | int | float | str | tuple | None):
            assert problem(parameter, parameter.default) is None, (name, parameter)
    assert [literal.what for literal in literals("tuple[str, ArrayLike] | None")][1] == "None"


@pytest.fixture(scope="module")
def plan():
    tokenizer = bind(parse("byte", "tokenizer"), TOKENIZERS, "tokenizer", "")
    return build.design(resolve(SIZES, "nano"), tokenizer), tokenizer


def attempt(plan, kind, text):
    """Builds a run as far as it shows whether a spec is right."""
    design, tokenizer = plan
    value = (text,) if kind in ("wrapper", "probe") else text
    config = resolve({**SIZES, FIELDS[kind]: value}, "nano")
    if kind == "probe":
        step = build.make_step(
            build.loss_sum(design.model), design.tx, design.schedule, key=jax.random.key(0), layout=design.layout,
            axis=None, probes=build.chosen_probes(config.probe), observed=True,
        )  # fmt: skip
        batch = jax.ShapeDtypeStruct((4, 5), "int32")
        build.blame("probe", lambda: jax.eval_shape(step, jax.eval_shape(design.init), batch))
    else:
        rehearse(config, *build_optimizer(config, design.layout), design.shapes)


def our_own(error):
    """Whether a refusal was written here: raised as it is, or as an error that our own code raised."""
    if error is None or isinstance(error, UserError):
        return True
    trace = error.__traceback__
    while trace.tb_next:
        trace = trace.tb_next
    lines = linecache.getlines(trace.tb_frame.f_code.co_filename)[max(0, trace.tb_lineno - 4) : trace.tb_lineno]
    return "raise " in "".join(lines)


def refusals(plan, cases):
    for (kind, name, parameter), odd in cases:
        if kind not in FIELDS:
            continue
        try:
            attempt(plan, kind, f"{name}({parameter.name}={odd})")
        except UserError as error:
            own = our_own(error.__cause__) or any(words in str(error) for words in OURS)
            assert own and "\n" not in str(error), (name, parameter.name, odd, error)


def test_a_sample_of_odd_literals(plan):
    cases = list(itertools.product(KEYWORDS, ODD))
    refusals(plan, random.Random(0).sample(cases, 150))


@pytest.mark.slow
def test_all_odd_literals(plan):
    refusals(plan, itertools.product(KEYWORDS, ODD))
