"""Resume PyTorch's optimizers here, and the reverse: ``python -m benchmarks.torch_states [--peers DIR]``.

An optimizer of PyTorch makes 50 steps, and its parameters and state are converted; the same optimizer makes the next 50
here. The deviation is the largest difference of a parameter, at the end, from a run that made all 100 steps there. The
reverse begins here, and is compared with 100 steps here. The gradients are those of a quadratic at the run's own
parameters, with noise, so that an error in the state changes everything after it. PyTorch's Muon orthogonalizes in
bfloat16, which alone changes its numbers by 4e-3; "Muon (float32)" replaces it by float32.

Needs torch; ``DIR`` has the authors' ``soap.py`` and package ``schedulefree``. The results go to
``benchmarks/results/torch/states.json``. With ``--record FILE``, it writes the parameters and states after 5 steps and
the parameters after 7 instead, for the tests.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.peers import load
from benchmarks.results import environment, save
from jaxopt_mini import (
    adagrad,
    adam,
    adamw,
    add_decayed_weights,
    amsgrad,
    apply_updates,
    chain,
    muon,
    rmsprop,
    schedule_free_adamw,
    sgd,
    soap,
)
from jaxopt_mini.torch_state import TorchParameter, from_torch, params_from_torch, params_to_torch, to_torch
from minigpt_flax.cli.entry import guarded
from minigpt_flax.cli.parser import Parser

STEPS = 50  # before the change, and after it
RESULTS = Path(__file__).parent / "results" / "torch" / "states.json"
SHAPES = {"first": (6, 4), "second": (4, 8), "bias": (8,)}
NAMES = [TorchParameter("first", transpose=True), TorchParameter("second", transpose=True), "bias"]
MATRICES = NAMES[:2]


class Pair(NamedTuple):
    """An optimizer there and the same one here."""

    there: Callable[[Any, list[Any]], Any]  # (module that has it, parameters) -> optimizer
    here: Callable[[], Any]
    module: str = "torch.optim"
    names: list[Any] = NAMES
    counted: bool = True  # whether PyTorch stores the number of steps
    float32: bool = False  # in place of bfloat16


PAIRS: dict[str, Pair] = {
    "SGD": Pair(lambda m, p: m.SGD(p, 0.05), lambda: sgd(0.05), counted=False),
    "SGD (momentum)": Pair(
        lambda m, p: m.SGD(p, 0.02, momentum=0.9, weight_decay=0.01),
        lambda: chain(add_decayed_weights(0.01), sgd(0.02, momentum=0.9)),
        counted=False,
    ),
    "SGD (nesterov)": Pair(
        lambda m, p: m.SGD(p, 0.02, momentum=0.9, nesterov=True),
        lambda: sgd(0.02, momentum=0.9, nesterov=True),
        counted=False,
    ),
    "SGD (dampening)": Pair(
        lambda m, p: m.SGD(p, 0.02, momentum=0.9, dampening=0.3),
        lambda: sgd(0.02, momentum=0.9, dampening=0.3),
        counted=False,
    ),
    "Adam": Pair(lambda m, p: m.Adam(p, 0.01, betas=(0.9, 0.98)), lambda: adam(0.01, b2=0.98)),
    "Adam (amsgrad)": Pair(
        lambda m, p: m.Adam(p, 0.01, betas=(0.9, 0.98), amsgrad=True),
        lambda: amsgrad(0.01, b2=0.98, maximum_first=True),
    ),
    "AdamW": Pair(
        lambda m, p: m.AdamW(p, 0.01, betas=(0.9, 0.98), weight_decay=0.1),
        lambda: adamw(0.01, b2=0.98, weight_decay=0.1),
    ),
    "Adagrad": Pair(
        lambda m, p: m.Adagrad(p, 0.1, lr_decay=0.01),
        lambda: adagrad(0.1, initial_accumulator_value=0.0, eps=1e-10, eps_in_sqrt=False, lr_decay=0.01),
    ),
    "RMSprop": Pair(lambda m, p: m.RMSprop(p, 0.01), lambda: rmsprop(0.01, decay=0.99, eps_in_sqrt=False)),
    "RMSprop (centered, momentum)": Pair(
        lambda m, p: m.RMSprop(p, 0.01, momentum=0.9, centered=True),
        lambda: rmsprop(0.01, decay=0.99, eps_in_sqrt=False, centered=True, momentum=0.9, rate_in_momentum=False),
    ),
    "Muon": Pair(
        lambda m, p: m.Muon(p, 0.02, weight_decay=0.1),
        lambda: muon(0.02, weight_decay=0.1, debias=False, eps=1e-7),
        names=MATRICES,
        counted=False,
    ),
    "Muon (float32)": Pair(
        lambda m, p: m.Muon(p, 0.02, weight_decay=0.1),
        lambda: muon(0.02, weight_decay=0.1, debias=False, eps=1e-7),
        names=MATRICES,
        counted=False,
        float32=True,
    ),
    "SOAP": Pair(
        lambda m, p: m.SOAP(p, 0.01, precondition_frequency=5),
        lambda: soap(0.01, precondition_frequency=5),
        module="soap",
    ),
    "SOAP (one side)": Pair(
        lambda m, p: m.SOAP(p, 0.01, precondition_frequency=5, max_precond_dim=6),
        lambda: soap(0.01, precondition_frequency=5, max_precond_dim=6),
        module="soap",
    ),
    "AdamWScheduleFree": Pair(
        lambda m, p: m.AdamWScheduleFree(p, 0.02, warmup_steps=10, weight_decay=0.1, foreach=False),
        lambda: schedule_free_adamw(0.02, warmup_steps=10, weight_decay=0.1, rate_ahead=False),
        module="schedulefree",
    ),
}


class Problem(NamedTuple):
    """Start, target and noise of each parameter, by its name here."""

    start: dict[str, np.ndarray]
    target: dict[str, np.ndarray]
    noise: dict[str, np.ndarray]

    def gradient(self, params: dict[str, np.ndarray], step: int) -> dict[str, np.ndarray]:
        """Gradient of half the squared distance to the target, with noise."""
        return {name: value - self.target[name] + self.noise[name][step] for name, value in params.items()}


def problem(names: list[Any], seed: int = 0) -> Problem:
    """A random problem of the named parameters."""
    draw = np.random.default_rng(seed)
    used = [path for name in names for path in (name.paths if isinstance(name, TorchParameter) else (name,))]
    normal = lambda *shape: draw.standard_normal(shape).astype(np.float32)
    of = lambda *more: {name: normal(*more, *SHAPES[name]) for name in used}
    return Problem(of(), of(), of(2 * STEPS))


def run_there(pair: Pair, module: Any, given: Problem, params: Any, saved: Any, steps: range) -> tuple[Any, Any]:
    """Parameters and state dict after these steps of PyTorch; ``saved`` converts the state dict before them."""
    import torch  # pyright: ignore[reportMissingImports]

    tensors = [torch.nn.Parameter(torch.tensor(value)) for value in params_to_torch(params, pair.names)]
    optimizer = pair.there(module, tensors)
    mode = getattr(optimizer, "train", lambda: None)
    mode()
    if saved is not None:
        optimizer.load_state_dict(saved(optimizer.state_dict()))
    here = lambda: params_from_torch(tensors, params, pair.names)
    for step in steps:
        grads = given.gradient(jax.device_get(here()), step)
        for tensor, grad in zip(tensors, params_to_torch(grads, pair.names), strict=True):
            tensor.grad = torch.tensor(grad)
        optimizer.step()
    return here(), optimizer.state_dict()


def run_here(
    tx: Any, given: Problem, params: Any, state: Any, steps: range, *, compiled: bool = True
) -> tuple[Any, Any]:
    """Parameters and state after these steps of the optimizer here."""
    update = jax.jit(tx.update) if compiled else tx.update
    for step in steps:
        updates, state = update(given.gradient(params, step), state, params)
        params = apply_updates(params, updates)
    return params, state


def deviations(pair: Pair, module: Any) -> dict[str, float]:
    """Largest deviation of a parameter after resuming here, and after resuming there."""
    import torch  # pyright: ignore[reportMissingImports]

    given = problem(pair.names)
    start, (first, last) = jax.tree.map(jnp.asarray, given.start), (range(STEPS), range(STEPS, 2 * STEPS))
    tx, count = pair.here(), None if pair.counted else STEPS
    whole_there, _ = run_there(pair, module, given, start, None, range(2 * STEPS))
    whole_here, _ = run_here(tx, given, start, tx.init(start), range(2 * STEPS))
    params, saved = run_there(pair, module, given, start, None, first)
    state = from_torch(saved, tx.init(params), params, pair.names, steps=count)
    to_here, _ = run_here(tx, given, params, state, last)
    params, state = run_here(tx, given, start, tx.init(start), first)
    back = lambda like: to_torch(state, params, like, pair.names, steps=STEPS, tensor=torch.from_numpy)
    to_there, _ = run_there(pair, module, given, params, back, last)
    return {"there to here": _largest(to_here, whole_there), "here to there": _largest(to_there, whole_here)}


def _largest(tree: Any, expected: Any) -> float:
    return max(float(jnp.max(jnp.abs(tree[name] - expected[name]))) for name in expected)


def wide_bfloat16() -> Any:
    """Within it, PyTorch's conversion to bfloat16 only copies."""
    import torch  # pyright: ignore[reportMissingImports]

    return mock.patch.object(torch.Tensor, "bfloat16", torch.Tensor.clone)


def module_of(name: str, folder: Path | None) -> Any:
    """The module with an optimizer; None if it is not installed."""
    if name == "soap":
        return load(name, folder) if folder is not None and (folder / "soap.py").is_file() else None
    sys.path += [] if folder is None or str(folder) in sys.path else [str(folder)]
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


RECORDED = (5, 7)  # steps


def record(path: Path, folder: Path | None) -> None:
    """Writes parameters and state of every optimizer after 5 steps, and parameters after 7."""
    stored: dict[str, Any] = {}
    for name, pair in PAIRS.items():
        given, module = problem(pair.names), module_of(pair.module, folder)
        with wide_bfloat16() if pair.float32 else contextlib.nullcontext():
            for steps in RECORDED:
                params, saved = run_there(pair, module, given, given.start, None, range(steps))
                stored |= {f"{name}/{steps}/{key}": np.asarray(value) for key, value in params.items()}
                stored |= {f"{name}/saved": flat_of(saved)} if steps == RECORDED[0] else {}
    np.savez_compressed(path, **stored)


def flat_of(saved: Any) -> str:
    """A state dict as JSON, whose numbers keep all digits of float32."""
    return json.dumps(saved, default=lambda value: np.asarray(value).tolist())


def arrays_of(text: str) -> Any:
    """The inverse of :func:`flat_of`; what was a tensor is an array."""
    saved = json.loads(text)
    array = lambda value: np.asarray(value, np.float32) if isinstance(value, list | float) else value
    several = lambda key, value: [np.asarray(one, np.float32) for one in value] if key in ("GG", "Q") else array(value)
    entries = {int(i): {k: several(k, v) for k, v in entry.items()} for i, entry in saved["state"].items()}
    return {**saved, "state": entries}


def run(arguments: list[str]) -> int:
    """Measures every pair and writes the results."""
    parser = Parser(prog="python -m benchmarks.torch_states", description=__doc__)
    parser.add_argument("--peers", type=Path, metavar="DIR", help="folder with soap.py and schedulefree")
    parser.add_argument("--record", type=Path, metavar="FILE", help="write states for the tests instead")
    given = parser.parse_args(arguments)
    if given.record is not None:
        record(given.record, given.peers)
        return 0
    folder, found = given.peers, {}
    for name, pair in PAIRS.items():
        module = module_of(pair.module, folder)
        if module is None:
            print(f"{name:30} left out: {pair.module} is not installed")
            continue
        with wide_bfloat16() if pair.float32 else contextlib.nullcontext():
            found[name] = deviations(pair, module)
        print(f"{name:30}" + "".join(f"   {way} {value:.1e}" for way, value in found[name].items()), flush=True)
    save(RESULTS, "states", {**environment(), "steps": STEPS, "deviations": found})
    print(f"wrote {RESULTS}")
    return 0


def main(arguments: list[str] | None = None) -> int:
    """The command; returns the exit status."""
    return guarded("benchmarks.torch_states", lambda: run(sys.argv[1:] if arguments is None else arguments))


if __name__ == "__main__":
    sys.exit(main())
