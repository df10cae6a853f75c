"""Every keyword of every spec against odd literals: answered by a message of this project, never a traceback."""

import inspect
import itertools
import linecache
import random

import jax
import pytest

from minigpt_flax.errors import UserError
from minigpt_flax.literals import literals, problem
from minigpt_flax.spec import as_user_error, parse
from minigpt_flax.train import build
from minigpt_flax.train.config.run_config import resolve
from minigpt_flax.train.optimizer import build_optimizer, check_one_step
from minigpt_flax.train.registry import REGISTRIES

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
OURS = ("too many or too few values", "is not a spec")
SIZES = {"layers": 1, "heads": 2, "width": 8, "context": 4, "batch_size": 4, "steps": 40, "data": ("x",)}
KEYWORDS = [
    (kind, name, parameter)
    for kind, rows in REGISTRIES.items()
    for name, row in rows.table.items()
    for parameter in list(inspect.signature(row).parameters.values())[rows.leading :]
]


def checked(kind, name, parameter, odd):
    """The message about a value of the wrong type; None if the type is right."""
    needed = ", threshold=1.0" if kind == "clip" and parameter.name != "threshold" else ""
    try:
        REGISTRIES[kind].partial(parse(f"{name}({parameter.name}={odd}{needed})", kind))
    except UserError as error:
        return str(error)


def test_types_of_literals():
    for kind, name, parameter in KEYWORDS:
        for odd in ODD:
            message = checked(kind, name, parameter, odd)
            assert message is None or (len(message) < 400 and "\n" not in message)
            assert message is not None or odd not in NEVER, (name, parameter, odd)
            takes_bool = "bool" in str(parameter.annotation) or isinstance(parameter.default, bool)
            assert odd != "True" or takes_bool == (message is None), (name, parameter)


def test_messages_of_refused_literals():
    message = checked("optimizer", "adamw", dict_of("adamw")["b1"], "'x'")
    assert message == "optimizer 'adamw': b1 takes a number of at most 1e+30, got 'x'"
    assert "takes a whole number" in str(checked("optimizer", "muon", dict_of("muon")["ns_steps"], "0.5"))
    assert "must be at most 100" in str(checked("optimizer", "muon", dict_of("muon")["ns_steps"], "1000000000"))
    assert "can only be set in Python" in str(checked("optimizer", "adopt", dict_of("adopt")["clip_value_fn"], "1"))


@pytest.mark.parametrize("kind", ["optimizer", "wrapper", "schedule"])
def test_options_are_named_also_where_python_takes_them_by_position(kind):
    """``sgd(0.1)`` would set the momentum, where the user means the learning rate."""
    for name in REGISTRIES[kind].table:
        with pytest.raises(UserError, match=rf"'{name}\(0.1\)' has too many or too few values: write {name}"):
            REGISTRIES[kind].partial(parse(f"{name}(0.1)", kind))


def dict_of(name):
    return inspect.signature(REGISTRIES["optimizer"].table[name]).parameters


def test_defaults_and_recommended_values_are_accepted():
    for _, name, parameter in KEYWORDS:
        if isinstance(parameter.default, bool | int | float | str | tuple | None):
            assert problem(parameter, parameter.default) is None, (name, parameter)
    assert [literal.what for literal in literals("tuple[str, ArrayLike] | None")][1] == "None"


@pytest.fixture(scope="module")
def setup():
    tokenizer = REGISTRIES["tokenizer"].bind(parse("byte", "tokenizer"), "")
    return build.make_setup(resolve(SIZES, "nano"), tokenizer)


def attempt(setup, kind, text):
    """Builds a run as far as it shows whether a spec is right."""
    value = (text,) if kind in ("wrapper", "probe") else text
    config = resolve({**SIZES, FIELDS[kind]: value}, "nano")
    if kind == "probe":
        step = build.make_step(
            build.loss_sum(setup.model), setup.tx, setup.schedule, key=jax.random.key(0), layout=setup.layout,
            axis=None, probes=build.chosen_probes(config.probe), observed=True,
        )  # fmt: skip
        batch = jax.ShapeDtypeStruct((4, 5), "int32")
        as_user_error("probe", lambda: jax.eval_shape(step, jax.eval_shape(setup.init), batch))
    else:
        check_one_step(config, *build_optimizer(config, setup.layout), setup.shapes)


def our_own(error):
    """Whether a refusal was written here: raised as it is, or as an error that our own code raised."""
    if error is None or isinstance(error, UserError):
        return True
    trace = error.__traceback__
    while trace.tb_next:
        trace = trace.tb_next
    lines = linecache.getlines(trace.tb_frame.f_code.co_filename)[max(0, trace.tb_lineno - 4) : trace.tb_lineno]
    return "raise " in "".join(lines)


def refusals(setup, cases):
    for (kind, name, parameter), odd in cases:
        if kind not in FIELDS:
            continue
        try:
            attempt(setup, kind, f"{name}({parameter.name}={odd})")
        except UserError as error:
            own = our_own(error.__cause__) or any(words in str(error) for words in OURS)
            assert own and "\n" not in str(error), (name, parameter.name, odd, error)


def test_a_sample_of_odd_literals(setup):
    cases = list(itertools.product(KEYWORDS, ODD))
    refusals(setup, random.Random(0).sample(cases, 150))


@pytest.mark.slow
def test_all_odd_literals(setup):
    refusals(setup, itertools.product(KEYWORDS, ODD))
