"""PyTorch candidates of a benchmark: its AdamW, nanoGPT, and optimizers from their authors' files in a folder."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import numpy as np

from benchmarks.results import cores
from benchmarks.trees import layers
from minigpt_flax.model.config import ModelConfig

HOME = {
    "muon": "github.com/KellerJordan/Muon",
    "soap": "github.com/nikhilvyas/SOAP",
    "nanoGPT/model": "github.com/karpathy/nanoGPT",
}
"""Where the authors' files are from, by the files' names."""
NANOGPT_DECAY = 0.1


def why_no_torch(device: str = "cpu") -> str | None:
    """Why torch can't be measured on that kind of device, None if it can."""
    if jax.default_backend() != device:
        return f"torch is compared on a {device} here"
    return None if importlib.util.find_spec("torch") else "torch is not installed"


def why_not(name: str, folder: Path | None, device: str = "cpu") -> str | None:
    """Why the authors' code can't take part, None if it can."""
    if folder is None or not (folder / f"{name}.py").is_file():
        return f"the authors' {name}.py ({HOME[name]}) is not in a folder given by --peers"
    return why_no_torch(device)


def load(name: str, folder: Path) -> ModuleType:
    """Runs the authors' file."""
    spec = importlib.util.spec_from_file_location(f"peer_{Path(name).name}", folder / f"{name}.py")
    assert spec is not None and spec.loader is not None, "the path ends in .py"
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def parameters(params: Any, grads: Any, layout: Any) -> list[tuple[Any, str]]:
    """Torch's parameters, a layer each, with their gradients and roles; matrices are (outputs, inputs) there."""
    import torch

    torch.set_num_threads(cores())

    def those(leaf, entry):
        found = layers(np.asarray(leaf), entry)
        return [torch.from_numpy(np.array(a.T if entry.role == "matrix" else a, order="C")) for a in found]

    made = []
    for leaf, grad, entry in zip(*map(jax.tree.leaves, (params, grads, layout)), strict=True):
        for value, gradient in zip(those(leaf, entry), those(grad, entry), strict=True):
            parameter = torch.nn.Parameter(value)
            parameter.grad = gradient
            made.append((parameter, entry.role))
    return made


def adamw(params: Any, grads: Any, layout: Any, *, clip: float, rate: float, steps: int, **keywords: Any) -> Callable:
    """Clip, fused AdamW and a cosine schedule."""
    import torch

    made = [parameter for parameter, _ in parameters(params, grads, layout)]
    optimizer = torch.optim.AdamW(made, lr=rate, fused=True, **keywords)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)

    def step():
        torch.nn.utils.clip_grad_norm_(made, clip)
        optimizer.step()
        schedule.step()

    return step


def muon(folder: Path, params: Any, grads: Any, layout: Any, rate: float) -> Callable:
    """The author's Muon, which multiplies in bfloat16, and his Adam for what isn't a matrix."""
    made = parameters(params, grads, layout)
    groups = [
        {"params": [p for p, role in made if (role == "matrix") == matrix], "use_muon": matrix}
        for matrix in (True, False)
    ]
    return load("muon", folder).SingleDeviceMuonWithAuxAdam([{**group, "lr": rate} for group in groups]).step


def soap(folder: Path, params: Any, grads: Any, layout: Any, rate: float) -> Callable:
    """The authors' SOAP."""
    return load("soap", folder).SOAP([p for p, _ in parameters(params, grads, layout)], lr=rate).step


def nanogpt(folder: Path, config: ModelConfig) -> Any:
    """NanoGPT's model of the same sizes."""
    import torch

    torch.set_num_threads(cores())
    module = load("nanoGPT/model", folder)
    sizes = {"n_layer": config.layers, "n_head": config.heads, "n_embd": config.width, "block_size": config.context}
    told = {"vocab_size": config.vocab_size, "dropout": config.dropout, "bias": config.bias}
    with contextlib.redirect_stdout(io.StringIO()):  # it tells its number of parameters
        return module.GPT(module.GPTConfig(**sizes, **told))


def nanogpt_training(
    model: Any, rate: float, betas: tuple[float, float], *, device: str, compiled: bool
) -> tuple[Any, Callable[[Any, Any], Any]]:
    """NanoGPT's optimizer of its model, and what its ``train.py`` does in a step: (inputs, targets) -> loss."""
    import torch

    with contextlib.redirect_stdout(io.StringIO()):  # it tells what it decays
        optimizer = model.configure_optimizers(NANOGPT_DECAY, rate, betas, device_type=device)
    forward = torch.compile(model) if compiled else model

    def step(inputs: Any, targets: Any) -> Any:
        with torch.autocast(device, torch.bfloat16, enabled=device != "cpu"):
            _, loss = forward(inputs, targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss

    return optimizer, step
