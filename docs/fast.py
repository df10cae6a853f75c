"""The table "How fast": what the committed measurements of a machine say, a row a claim, each with its command."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from benchmarks.gpu import FORMS

Row = tuple[str, str, str, str]  # what, ours, the peer's, command


def ms(times: dict[str, float], scale: float = 1.0) -> str:
    """A median, in milliseconds.

    >>> ms({"median": 43.21})
    '43.2 ms'
    """
    value = times["median"] * scale
    return f"{value:.3g} ms" if value < 1000 else f"{value / 1000:.3g} s"


def seconds(times: dict[str, float]) -> str:
    """A median, in seconds."""
    return f"{times['median']:.3g} s"


def part(ratio: dict[str, float]) -> str:
    """Our time as a part of theirs.

    >>> part({"median": 0.4567})
    '**0.46** of it'
    """
    return f"**{ratio['median']:.2f}** of it"


def step(preset: str) -> Callable[[dict[str, Any]], Iterator[Row]]:
    """A training step."""
    command = f"benchmarks.step --preset {preset} --peers DIR"

    def rows(found: dict[str, Any]) -> Iterator[Row]:
        times = found["ms_per_step"]
        for peer, ratio in found["ours_over"]["ours"].items():
            flags = " --compile" if "compiled" in peer else ""
            theirs = f"{peer} {ms(times[peer])}: {part(ratio)}"
            yield f"training step of `{preset}`", ms(times["ours"]), theirs, command + flags

    return rows


def to_loss(found: dict[str, Any]) -> Iterator[Row]:
    """Whole runs."""
    losses = {name: sum(values) / len(values) for name, values in found["val_loss"].items()}
    mine, theirs = (f"{seconds(found['seconds'][name])} to {losses[name]:.3f} nats" for name in ("ours", "nanoGPT"))
    ratio = part(found["ours_over_nanoGPT"])
    command = "benchmarks.to_loss --data tinyshakespeare.txt --peers DIR"
    yield "from nothing to a trained model, `sprint`, compiling included", mine, f"nanoGPT {theirs}: {ratio}", command


def generation(found: dict[str, Any]) -> Iterator[Row]:
    """Writing text."""
    speeds = {name: f"{speed['median']:,.0f} tokens/s" for name, speed in found["tokens_per_second"].items()}
    for peer, ratio in found["times_as_fast"].items():
        theirs = f"{peer} {speeds[peer]}: **{ratio['median']:.1f}** times as fast"
        yield "writing 256 characters, `char`", speeds["cached"], theirs, "benchmarks.generation --peers DIR"


def update(section: str, tree: str) -> Callable[[dict[str, Any]], Iterator[Row]]:
    """One optimizer's update."""
    command = f"benchmarks.update --only {section} --tree {tree} --peers DIR"

    def rows(found: dict[str, Any]) -> Iterator[Row]:
        times = found["seconds"]
        for peer, ratio in found["ratios"].items():
            theirs = f"{peer} {ms(times[peer], 1e3)}: {part(ratio)}"
            yield f"{section} on the parameters of `{tree}`", ms(times["jaxopt_mini"], 1e3), theirs, command

    return rows


def startup(found: dict[str, Any]) -> Iterator[Row]:
    """From the start of the process."""
    for name, what in (("help", "`--help`"), ("cold", "first step of `nano`"), ("warm", "the same, compiled before")):
        yield what, seconds(found["seconds"][name]), "", "benchmarks.startup"


def loop(found: dict[str, Any]) -> Iterator[Row]:
    """What the loop adds."""
    for name, ratio in found["ratios"].items():
        yield f"what the {name} adds to a step of `nano`", f"{ratio['median'] - 1:.1%}", "", "benchmarks.loop"


SECTIONS: dict[str, Callable[[dict[str, Any]], Iterator[Row]]] = {
    "step nanogpt": step("nanogpt"),
    "step char": step("char"),
    "to_loss": to_loss,
    "generation": generation,
    "adamw gpt2": update("adamw", "gpt2"),
    "adamw gpt2_layers": update("adamw", "gpt2_layers"),
    "muon nano": update("muon", "nano"),
    "muon gpt2": update("muon", "gpt2"),
    "soap nano": update("soap", "nano"),
    "startup": startup,
    "loop": loop,
}


def rows(results: dict[str, Any]) -> list[str]:
    """The lines of the table, of those sections that a machine has."""
    found = [row for name, read in SECTIONS.items() if name in results for row in read(results[name])]
    return [f"{what} | {ours} | {theirs} | `{command}`" for what, ours, theirs, command in found]


def memory(results: dict[str, Any]) -> list[str]:
    """The lines of the table of a step's memory."""
    sizes = results["compiling"]["memory"]["bytes"]
    return [f"{way} | {size / 2**20:,.0f} MiB" for way, size in sizes.items()]


def accelerator(results: dict[str, Any]) -> list[str]:
    """The lines of the table of an accelerator: everything that was measured, without what it lacks."""
    shown = ("ms", "tokens_per_second", "mfu", "update_ms", "over_nanogpt", "share", "times_distinct")
    lines = []
    for section, found in results.items():
        for name, values in found["rows"].items():
            figures = [FORMS[key](values[key]) for key in shown if key in values]
            lines += [f"{section.removeprefix('gpu ')} | {name} | {', '.join(figures)}"] * bool(figures)
    return lines
