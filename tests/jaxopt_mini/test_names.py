"""Public names: no function shadows a public module, and the names of the last release still work."""

import importlib
import pickle
import pkgutil

import optax
import pytest

import jaxopt_mini
from jaxopt_mini import _renamed, schedules, wrappers

MODULES = [info.name for info in pkgutil.walk_packages(jaxopt_mini.__path__, "jaxopt_mini.")]


@pytest.mark.parametrize("name", [name for name in MODULES if not name.rpartition(".")[2].startswith("_")])
def test_no_public_module_is_shadowed_by_a_function(name):
    package, _, leaf = name.rpartition(".")
    assert getattr(importlib.import_module(package), leaf) is importlib.import_module(name)


@pytest.mark.parametrize(
    ("module", "old"), [(module, old) for module, names in _renamed.RENAMED.items() for old in names]
)
def test_an_old_name_gives_the_object_of_the_new_one(module, old):
    found = getattr(importlib.import_module(module), old)
    new = _renamed.RENAMED[module][old]
    assert found is new and old not in vars(importlib.import_module(module))


def test_an_old_name_can_be_imported():
    code = "from jaxopt_mini import scale_by_neuron, step; from jaxopt_mini.matrices import lay_out, choose"
    names: dict = {}
    exec(code, names)
    assert names["scale_by_neuron"] is jaxopt_mini.scale_by_normuon and names["step"] is schedules.step


def test_an_unknown_name_is_an_error():
    with pytest.raises(AttributeError, match=r"^module 'jaxopt_mini.tree' has no attribute 'look_behind'$"):
        _ = jaxopt_mini.tree.look_behind


@pytest.mark.parametrize("name", _renamed.OPTAX)
def test_a_name_of_optax_is_answered_with_the_name_here(name):
    assert hasattr(optax, name) or hasattr(optax.tree_utils, name)
    with pytest.raises(AttributeError, match=f"use jaxopt_mini.{_renamed.OPTAX[name]}$"):
        getattr(jaxopt_mini, name)
    found = jaxopt_mini
    for part in _renamed.OPTAX[name].split("."):
        found = getattr(found, part)
    assert callable(found)


def test_names_that_are_common_words_stay_out_of_a_star_import():
    names: dict = {}
    exec("from jaxopt_mini import *", names)
    assert names["adamw"] is jaxopt_mini.adamw
    assert {"step", "linear", "trace", "scale", "join", "constant"}.isdisjoint(names)
    assert set(_renamed.LINKS).isdisjoint(names)


def test_old_module_paths_work_for_imports_and_pickles():
    names: dict = {}
    code = "from jaxopt_mini.optimizers.adam import scale_by_adam; from jaxopt_mini.conditional import update_if"
    exec(code, names)
    assert names["scale_by_adam"] is jaxopt_mini.scale_by_adam and names["update_if"] is wrappers.update_if
    old = b"cjaxopt_mini.optimizers.normuon\nScaleByNeuronState\n."  # what pickle stored for the class
    assert pickle.loads(old) is type(jaxopt_mini.scale_by_normuon().init({}))
