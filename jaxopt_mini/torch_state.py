"""Optimizer states of PyTorch: convert the ``state_dict()`` of a ``torch.optim`` optimizer, and back, without PyTorch.

A run of PyTorch continues here, or the reverse, with the same numbers, if the optimizers have the same hyperparameters:

======================  ======================================================================
torch                   here
======================  ======================================================================
``SGD``                 ``sgd(lr, momentum=b, nesterov=n, dampening=d)``
``Adam``                ``adam(lr, b1, b2, eps)``; with ``amsgrad``, ``amsgrad(lr, maximum_first=True)``
``AdamW``               ``adamw(lr, b1, b2, eps, weight_decay=w)``
``Adagrad``             ``adagrad(lr, initial_accumulator_value=0.0, eps=e, eps_in_sqrt=False)``
``RMSprop``             ``rmsprop(lr, decay=a, eps=e, eps_in_sqrt=False, rate_in_momentum=False)``
``Muon``                ``muon(lr, beta=b, eps=1e-7, weight_decay=w, debias=False)``
``SOAP``                ``soap(lr)``, of nikhilvyas/SOAP
``AdamWScheduleFree``   ``schedule_free_adamw(lr, rate_ahead=False)``, of facebookresearch/schedule_free
======================  ======================================================================

An L2 penalty there, ``weight_decay`` of ``SGD``, ``Adam``, ``Adagrad`` or ``RMSprop``, is ``add_decayed_weights`` first
in a chain here; it has no state. Two optimizers of PyTorch that share the parameters of one here, such as Muon and
AdamW, are converted one after the other, each with its own parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from jaxopt_mini.check import check_name
from jaxopt_mini.tree import by_name

Arrays = dict[str, np.ndarray]
Entry = Mapping[str, Any]


class TorchParameter(NamedTuple):
    """What a parameter of PyTorch is here.

    Attributes:
      path: path of the parameter, such as ``dense/kernel``; or several, which PyTorch stores as one tensor,
        concatenated along the last axis after the transposition.
      transpose: whether PyTorch stores it transposed, as the weight of its ``Linear``, (outputs, inputs).
      index: index of its layer, if it is stacked over layers here.
    """

    path: str | tuple[str, ...]
    transpose: bool = False
    index: tuple[int, ...] = ()

    @property
    def paths(self) -> tuple[str, ...]:
        """The paths, also of one parameter."""
        return (self.path,) if isinstance(self.path, str) else self.path


Name: TypeAlias = str | TorchParameter | None
Names: TypeAlias = Sequence[Name] | Mapping[str, Name]


class Steps(NamedTuple):
    """Where PyTorch stores the number of completed steps, and how many initial steps it doesn't count."""

    key: str = "step"
    in_group: bool = False
    uncounted: int = 0


STEP = Steps()


class Rule(NamedTuple):
    """How PyTorch stores one type of state.

    Attributes:
      keys: of the entry that PyTorch has for each parameter.
      fields: here; each is a tree like the parameters.
      load: entry of a parameter in PyTorch -> values of the fields, in PyTorch's order of axes.
      dump: the inverse, from the values and PyTorch's parameter group.
      steps: where the number of steps is; None if PyTorch doesn't store it.
      counts: the fields with the number of steps, and what is added to it.
      group: field that is one number for all parameters -> key in PyTorch's parameter group.
      requires: key in the parameter group -> its only value.
      sides: fields that end in the number of an axis of a matrix.
    """

    keys: tuple[str, ...]
    fields: tuple[str, ...]
    load: Callable[[Entry], Arrays]
    dump: Callable[[Arrays, Entry], dict[str, Any]]
    steps: Steps | None = STEP
    counts: Mapping[str, int] = {"count": 0}
    group: Mapping[str, str] = {}
    requires: Mapping[str, Any] = {}
    sides: tuple[str, ...] = ()


def _renamed(pairs: Mapping[str, str], steps: Steps | None = STEP, **more: Any) -> Rule:
    """A rule that only renames: field here -> key in PyTorch."""
    return Rule(
        tuple(pairs.values()),
        tuple(pairs),
        lambda entry: {field: array_of(entry[key]) for field, key in pairs.items()},
        lambda values, group: {key: values[field] for field, key in pairs.items()},
        steps,
        **more,
    )


SIDES = tuple(f"{name}/{axis}" for name in ("factors", "bases") for axis in (0, 1))


def _load_soap(entry: Entry) -> Arrays:
    """The mean of the gradient is stored in the basis there, and not rotated here."""
    sides = [array_of(matrix) for key in ("GG", "Q") for matrix in (*entry[key], [])[:2]]
    mean = _rotated(array_of(entry["exp_avg"]), sides[2:], back=True)
    return {"mu": mean, "nu": array_of(entry["exp_avg_sq"])} | {
        f: m for f, m in zip(SIDES, sides, strict=True) if m.size
    }


def _dump_soap(values: Arrays, group: Entry) -> dict[str, Any]:
    mean, sides = values["mu"], [values.get(side, np.zeros(0, np.float32)) for side in SIDES]
    stored = {"exp_avg": _rotated(mean, sides[2:], back=False), "exp_avg_sq": values["nu"].reshape(mean.shape)}
    listed = lambda matrices: [matrix if matrix.size else [] for matrix in matrices[: mean.ndim]]
    beta = group["shampoo_beta"] if group["shampoo_beta"] >= 0 else group["betas"][1]
    stored |= {"precondition_frequency": group["precondition_frequency"], "shampoo_beta": beta}
    return {**stored, "GG": listed(sides[:2]), "Q": listed(sides[2:])}


def _rotated(tensor: np.ndarray, bases: Sequence[np.ndarray], *, back: bool) -> np.ndarray:
    """A tensor in the bases of its axes, or back; an axis without a basis has an empty one."""
    for basis in bases[: tensor.ndim]:
        tensor = np.moveaxis(tensor, 0, -1)
        tensor = tensor @ (basis.T if back else basis) if basis.size else tensor
    return tensor


MAX_COUNT = 2**31 - 1  # of an int32
RULES: dict[str, Rule] = {  # type of a state here -> its form in PyTorch
    "ScaleByAdamState": _renamed({"mu": "exp_avg", "nu": "exp_avg_sq"}),
    "ScaleByAmsgradState": _renamed({"mu": "exp_avg", "nu": "exp_avg_sq", "nu_max": "max_exp_avg_sq"}),
    "TraceState": _renamed({"trace": "momentum_buffer"}, None),
    "DampedTraceState": _renamed({"trace": "momentum_buffer"}, None),
    "MuonState": _renamed({"mu": "momentum_buffer"}, None),
    "ScaleByRssState": _renamed({"sum_of_squares": "sum"}),
    "ScaleByRmsState": _renamed({"nu": "square_avg"}),
    "ScaleByRStdDevState": _renamed({"mu": "grad_avg", "nu": "square_avg"}),
    "ScaleByRmsWithCountState": _renamed({"nu": "exp_avg_sq"}, None),  # inside the next one
    "ScheduleFreeState": _renamed(
        {"z": "z"},
        Steps("k", in_group=True),
        counts={"step_count": 1},
        group={"weight_sum": "weight_sum", "max_lr": "lr_max"},
        requires={"train_mode": True},
    ),
    "ScaleBySoapState": Rule(
        ("exp_avg", "exp_avg_sq", "GG", "Q"),
        ("mu", "nu", *SIDES),
        _load_soap,
        _dump_soap,
        Steps(uncounted=1),
        sides=SIDES,
    ),
    **{  # only counts
        name: _renamed({}, None)
        for name in ("ScaleByScheduleState", "InjectStatefulHyperparamsState", "WrappedScheduleState")
    },
}


class _Slot(NamedTuple):
    """A parameter of PyTorch: its number, its group, its entry, and what it is here."""

    number: Any
    group: int
    here: TorchParameter
    entry: Entry
    settings: Entry

    @property
    def label(self) -> str:
        return "+".join(self.here.paths) + "".join(f"[{i}]" for i in self.here.index)


def from_torch(
    saved: Entry, state: Any, params: Any, names: Names, *, steps: int | None = None, schedules: bool = True
) -> Any:
    """Converts the state of an optimizer from PyTorch.

    Args:
      saved: ``state_dict()`` of the optimizer there; arrays may stand in place of tensors.
      state: state of the optimizer here, such as ``tx.init(params)``, whose values are replaced.
      params: parameters here.
      names: what each parameter of ``saved`` is here, a path or a :class:`TorchParameter`, in the order of its groups;
        or by its name there, if ``saved`` has names (its optimizer was given ``named_parameters()``). None leaves a
        parameter out.
      steps: number of completed steps, if the state here has it and PyTorch doesn't store it (``SGD``, ``Muon``).
      schedules: whether schedules continue at that step; False leaves their counts unchanged.

    Returns:
      The state with the values of ``saved``; others, such as those of wrappers, are unchanged.

    Raises:
      ValueError: a name is unknown, or a value is missing, has another shape, or belongs to another optimizer; the
        message names the parameter.

    >>> from jaxopt_mini import adamw
    >>> params = {"kernel": jnp.zeros((1, 2))}
    >>> entry = {"step": 7, "exp_avg": np.ones((2, 1)), "exp_avg_sq": np.ones((2, 1))}
    >>> saved = {"state": {0: entry}, "param_groups": [{"params": [0]}]}
    >>> tx = adamw(0.1)
    >>> state = from_torch(saved, tx.init(params), params, [TorchParameter("kernel", transpose=True)])
    >>> print(state[0].count, state[0].mu["kernel"])
    7 [[1. 1.]]
    """
    slots = _slots(saved, names, by_name(params))
    nodes = list(_nodes(state))
    _check_entries(slots, nodes, by_name(params))
    found = _steps_there(slots, nodes) if steps is None else steps

    def load(node: Any) -> Any:
        rule, flat = _rule(node), _flat(node)
        mine = [slot for slot in slots if _holds(rule, flat, slot)]
        for slot in mine:
            _put(rule, flat, slot)
        if not (mine if rule.keys else schedules):
            return node
        numbers = {field: _shared(rule, mine, key) for field, key in rule.group.items()}
        numbers |= {name: _known(found, node) + more for name, more in rule.counts.items() if name in flat}
        return _unflatten(node, flat | {name: np.asarray(number) for name, number in numbers.items()})

    return _replaced(state, load)


def to_torch(
    state: Any,
    params: Any,
    like: Entry,
    names: Names,
    *,
    steps: int | None = None,
    tensor: Callable[[np.ndarray], Any] = np.asarray,
) -> dict[str, Any]:
    """Converts the state of an optimizer to PyTorch.

    Args:
      state: state here.
      params: parameters here.
      like: ``state_dict()`` of the optimizer there, also before its first step; its groups are kept.
      names: see :func:`from_torch`.
      steps: number of completed steps, if the state here doesn't have it and PyTorch stores it.
      tensor: function that converts each array, such as ``torch.from_numpy``, for ``load_state_dict``.

    Returns:
      A ``state_dict()``; before the first step it has no values.

    Raises:
      ValueError: a name is unknown, or a parameter has no values that PyTorch stores; the message names it.
    """
    slots, nodes = _slots(like, names, by_name(params)), list(_nodes(state))
    found = _steps_here(nodes) if steps is None else steps
    entries: dict[Any, dict[str, Any]] = {slot.number: {} for slot in slots}
    groups = [dict(group) for group in like["param_groups"]]
    for node in nodes if found != 0 else ():
        rule, flat = _rule(node), _flat(node)
        for slot in slots:
            if _holds(rule, flat, slot):
                values = rule.dump(_taken(rule, flat, slot), slot.settings)
                entries[slot.number] |= jax.tree.map(lambda x: tensor(x) if isinstance(x, np.ndarray) else x, values)
                groups[slot.group] |= {key: float(flat[field]) for field, key in rule.group.items()} | dict(
                    rule.requires
                )
                if rule.steps is not None:
                    where = groups[slot.group] if rule.steps.in_group else entries[slot.number]
                    where[rule.steps.key] = _stored_steps(rule.steps, _known(found, node), tensor)
    if found != 0:
        _check_complete(slots, entries, nodes)
    return {"state": {number: entry for number, entry in entries.items() if entry}, "param_groups": groups}


def params_from_torch(tensors: Sequence[Any], params: Any, names: Sequence[Name]) -> Any:
    """Converts parameters from PyTorch.

    Args:
      tensors: parameters there, in the order of ``names``.
      params: parameters here, which give structure, shapes and dtypes.
      names: see :func:`from_torch`.

    Returns:
      Parameters like ``params``.

    Raises:
      ValueError: a name is unknown, or a tensor has another shape; the message names the parameter.
    """
    entries = [{"": tensor} for tensor in tensors]
    slots = _slots(
        {"state": dict(enumerate(entries)), "param_groups": [{"params": range(len(entries))}]}, names, by_name(params)
    )
    flat = _flat(params)
    for slot in slots:
        _check_shape(slot, "", by_name(params))
        _put(VALUES, flat, slot)
    return _unflatten(params, flat)


def params_to_torch(params: Any, names: Sequence[Name]) -> list[np.ndarray]:
    """Converts parameters to PyTorch, in the order of ``names``; the inverse of :func:`params_from_torch`.

    >>> [tensor.shape for tensor in params_to_torch({"w": jnp.zeros((2, 3))}, [TorchParameter("w", transpose=True)])]
    [(3, 2)]
    """
    slots = _slots({"state": {}, "param_groups": [{"params": range(len(names))}]}, names, by_name(params))
    return [_taken(VALUES, _flat(params), slot)[""] for slot in slots]


VALUES = _renamed({"": ""})  # a parameter itself


def array_of(value: Any) -> np.ndarray:
    """A tensor of PyTorch, or an array, as an array; bfloat16, which NumPy lacks, becomes float32."""
    if hasattr(value, "detach"):
        value = value.detach().cpu()
        value = value.float() if "bfloat16" in str(value.dtype) else value
    return np.asarray(value)


def _slots(saved: Entry, names: Names, params: Mapping[str, Any]) -> list[_Slot]:
    """The parameters of PyTorch, after checking their names here.

    Raises:
      ValueError: a name is unknown or given twice, or their number is another.
    """
    places = [(number, i) for i, group in enumerate(saved["param_groups"]) for number in group["params"]]
    if wrong := [number for number, _ in places if not isinstance(number, int)]:
        raise ValueError(f"PyTorch's groups must number their parameters, got {str(wrong[0])[:40]}")
    listed = _listed(saved, names)
    if len(listed) != len(places):
        raise ValueError(
            f"PyTorch has {len(places)} parameters in its groups, got {len(listed)} names: give one for each"
        )
    slots, seen = [], set()
    for (number, i), name in zip(places, listed, strict=True):
        if name is None:
            continue
        here = name if isinstance(name, TorchParameter) else TorchParameter(name)
        for path in here.paths:
            check_name(path, params, "no parameter")
            if (path, here.index) in seen:
                raise ValueError(f"{path}: two parameters of PyTorch have this name: give each its own")
            seen.add((path, here.index))
        slots.append(_Slot(number, i, here, saved["state"].get(number, {}), saved["param_groups"][i]))
    return slots


def _listed(saved: Entry, names: Names) -> list[Name]:
    if not isinstance(names, Mapping):
        return list(names)
    theirs = [name for group in saved["param_groups"] for name in group.get("param_names", ())]
    if not theirs:
        raise ValueError("PyTorch's groups have no names of parameters: give the names as a list, in their order")
    for name in theirs:
        check_name(name, names, "names has no entry")
    return [names[name] for name in theirs]


def _check_entries(slots: list[_Slot], nodes: list[Any], params: Mapping[str, Any]) -> None:
    """Compares the entries of PyTorch with what the states here need.

    Raises:
      ValueError: a value is missing, has another shape, or is needed by no state here.
    """
    flats = [(_rule(node), _flat(node), type(node).__name__) for node in nodes]
    for slot in slots:
        used = set()
        for rule, flat, name in flats:
            if not _holds(rule, flat, slot):
                continue
            if not isinstance(slot.entry, Mapping):
                raise ValueError(f"{slot.label}: PyTorch's entry is no dict")
            if rule.sides and len(slot.here.paths) > 1:
                raise ValueError(f"{slot.label}: the factors of {name} can't be divided among several parameters")
            for key in rule.keys:
                if slot.entry.get(key) is None:
                    raise ValueError(f"{slot.label}: PyTorch has no {key!r}, which {name} needs; {_has(slot)}")
                if not isinstance(slot.entry[key], list | tuple):
                    _check_shape(slot, key, params)
            used.update(rule.keys)
        unused = [key for key, value in slot.entry.items() if key not in used and np.ndim(value) and key != "step"]
        if unused:
            raise ValueError(f"{slot.label}: no state here has a place for PyTorch's {unused[0]!r}; {_has(slot)}")


def _check_complete(slots: list[_Slot], entries: Mapping[Any, Entry], nodes: list[Any]) -> None:
    """Refuses entries without values, or without those that the optimizer of PyTorch already has."""
    for slot in slots:
        missing = [key for key in slot.entry if key not in entries[slot.number] and np.ndim(slot.entry[key])]
        if missing or not entries[slot.number] and any(_rule(node).keys for node in nodes):
            raise ValueError(
                f"{slot.label}: the state here has no {missing[0] if missing else 'values'!r} for PyTorch's optimizer: "
                "give the state of the same optimizer"
            )


def _has(slot: _Slot) -> str:
    names = ", ".join(map(str, slot.entry)) or "no values"
    return f"it has {names}: give the state of the same optimizer"


def _check_shape(slot: _Slot, key: str, params: Mapping[str, Any]) -> None:
    parts = [params[path].shape[len(slot.here.index) :] for path in slot.here.paths]
    whole = (*parts[0][:-1], sum(part[-1] for part in parts)) if len(parts) > 1 else parts[0]
    expected, found = whole[::-1] if slot.here.transpose else whole, tuple(np.shape(slot.entry[key]))
    if found != expected:
        hint = "" if found[::-1] != expected else ", its transpose: set transpose"
        raise ValueError(f"{slot.label}: PyTorch's {key or 'tensor'} has shape {found} instead of {expected}{hint}")


def _steps_there(slots: list[_Slot], nodes: list[Any]) -> int | None:
    """The number of steps that PyTorch stores for these parameters; None if it stores none."""
    found = None
    for rule, flat in ((_rule(node), _flat(node)) for node in nodes):
        for slot in slots:
            where = slot.settings if rule.steps and rule.steps.in_group else slot.entry
            if rule.steps is None or not _holds(rule, flat, slot) or rule.steps.key not in where:
                continue
            own = _whole(slot, rule.steps.key, where[rule.steps.key]) + rule.steps.uncounted
            if found not in (None, own):
                raise ValueError(f"{slot.label}: PyTorch has done {own} steps, and {found} on others: give steps")
            found = own
    return found


def _whole(slot: _Slot, key: str, value: Any) -> int:
    number = array_of(value)
    if number.size != 1 or number.dtype.kind not in "iuf" or not 0 <= number.item() < MAX_COUNT:
        raise ValueError(f"{slot.label}: PyTorch's {key!r} must be a number of steps, got {str(value)[:40]}")
    return int(number.item())


def _steps_here(nodes: list[Any]) -> int | None:
    """The number of steps that the states count; None if they count none."""
    counts = {int(getattr(n, f)) - more for n in nodes for f, more in _rule(n).counts.items() if hasattr(n, f)}
    if len(counts) > 1:
        raise ValueError(f"the state counts different numbers of steps, {sorted(counts)}: give steps")
    return next(iter(counts), None)


def _known(steps: int | None, node: Any) -> int:
    if steps is None:
        raise ValueError(f"{type(node).__name__} needs the number of completed steps, which isn't stored: give steps")
    return steps


def _stored_steps(how: Steps, steps: int, tensor: Callable[[np.ndarray], Any]) -> Any:
    done = steps - how.uncounted
    return done if how.in_group or how.uncounted else tensor(np.array(done, np.float32))


def _shared(rule: Rule, slots: list[_Slot], key: str) -> float:
    """A number of the parameter groups, which must be the same in all of them."""
    for slot in slots:
        for name, value in rule.requires.items():
            if slot.settings.get(name, value) != value:
                raise ValueError(
                    f"{slot.label}: PyTorch's optimizer has {name}={not value}: call its train() before saving"
                )
        if slot.settings.get(key) != slots[0].settings.get(key):
            raise ValueError(f"{slot.label}: PyTorch's {key} differs between its groups, which is one number here")
    return max(float(slots[0].settings[key]), 0.0)


def _nodes(state: Any) -> Iterator[Any]:
    """The states that have a rule, outermost first."""
    if type(state).__name__ in RULES:
        yield state
    for part in state.values() if isinstance(state, dict) else state if isinstance(state, tuple | list) else ():
        yield from _nodes(part)


def _replaced(state: Any, function: Callable[[Any], Any]) -> Any:
    """The state with the function applied to every state that has a rule."""
    state = function(state) if type(state).__name__ in RULES else state
    if isinstance(state, dict):
        return {key: _replaced(part, function) for key, part in state.items()}
    if not isinstance(state, tuple | list):
        return state
    parts = [_replaced(part, function) for part in state]
    return type(state)(*parts) if hasattr(state, "_fields") else type(state)(parts)


def _rule(node: Any) -> Rule:
    return RULES[type(node).__name__]


def _flat(tree: Any) -> Arrays:
    return {name: np.array(leaf) for name, leaf in by_name(tree).items()}


def _unflatten(like: Any, flat: Arrays) -> Any:
    leaves = [jnp.asarray(flat[name], leaf.dtype) for name, leaf in by_name(like).items()]
    return jax.tree.unflatten(jax.tree.structure(like), leaves)


def _key(field: str, path: str) -> str:
    return "/".join(part for part in (field, path) if part)


def _holds(rule: Rule, flat: Arrays, slot: _Slot) -> bool:
    """Whether a state has values of a parameter."""
    return bool(rule.fields) and _key(rule.fields[0], slot.here.paths[0]) in flat


def _turned(rule: Rule, values: Arrays, here: TorchParameter) -> Arrays:
    """Values in the other order of axes, if it is another."""
    if not here.transpose:
        return values
    swapped = {field: f"{field[:-1]}{1 - int(field[-1])}" for field in rule.sides}
    return {swapped.get(field, field): value if field in swapped else value.T for field, value in values.items()}


def _put(rule: Rule, flat: Arrays, slot: _Slot) -> None:
    """Writes the values of one parameter into the flat state.

    Raises:
      ValueError: a factor of a side is missing or has another size.
    """
    values = _turned(rule, rule.load(slot.entry), slot.here)
    for field in rule.fields:
        leaves = [flat[_key(field, path)] for path in slot.here.paths]
        leaves = [leaf[slot.here.index] if leaf.ndim else leaf for leaf in leaves]
        value = values.get(field, np.zeros(()))
        if field in rule.sides and leaves[0].shape != value.shape:
            raise ValueError(f"{slot.label}: {field} has shape {value.shape} in PyTorch and {leaves[0].shape} here")
        ends = np.cumsum([leaf.shape[-1] for leaf in leaves])[:-1] if len(leaves) > 1 else []
        for path, leaf, part in zip(
            slot.here.paths, leaves, np.split(value, ends, -1) if len(ends) else [value], strict=True
        ):
            flat[_key(field, path)][slot.here.index if flat[_key(field, path)].ndim else ()] = part.reshape(leaf.shape)


def _taken(rule: Rule, flat: Arrays, slot: _Slot) -> Arrays:
    """The values of one parameter, in PyTorch's order of axes."""
    values = {}
    for field in rule.fields:
        leaves = [flat[_key(field, path)] for path in slot.here.paths]
        if field in rule.sides and not leaves[0].ndim:
            continue
        leaves = [_float32(leaf[slot.here.index]) for leaf in leaves]
        values[field] = leaves[0] if len(leaves) == 1 else np.concatenate(leaves, -1)
    return {field: np.ascontiguousarray(value) for field, value in _turned(rule, values, slot.here).items()}


def _float32(leaf: np.ndarray) -> np.ndarray:
    """A dtype of NumPy: bfloat16 and other dtypes of JAX become float32."""
    return leaf.astype(np.float32) if leaf.dtype.kind == "V" or leaf.dtype.name == "bfloat16" else leaf
