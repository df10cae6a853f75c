"""The table of benchmarks: the committed measurements of a machine, one row per claim, each with its command."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from benchmarks.gpu import FORMS

Row = tuple[str, str, str, str]  # what, ours, the peer's, command
SPREAD = 0.2  # interquartile range over median, at most: a noisier comparison isn't shown


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


def relative(ours: dict[str, float], theirs: dict[str, float]) -> str:
    """Our median over theirs, so that the two figures shown divide to it.

    >>> relative({"median": 2.0}, {"median": 4.0})
    '**0.50x**'
    """
    return f"**{ours['median'] / theirs['median']:.2f}x**"


def is_steady(*times: dict[str, float]) -> bool:
    """Whether the quartiles of each measurement lie within ``SPREAD`` of its median.

    >>> is_steady({"median": 10.0, "q1": 9.5, "q3": 10.5}), is_steady({"median": 10.0, "q1": 9.0, "q3": 12.0})
    (True, False)
    """
    return all(time["q3"] - time["q1"] <= SPREAD * time["median"] for time in times)


def step(preset: str) -> Callable[[dict[str, Any]], Iterator[Row]]:
    """A training step."""
    command = f"benchmarks.step --preset {preset} --peers DIR"

    def rows(found: dict[str, Any]) -> Iterator[Row]:
        times = found["ms_per_step"]
        for peer in found["ours_over"]["ours"]:
            if not is_steady(times["ours"], times[peer]):
                continue
            flags = " --compile" if "compiled" in peer else ""
            theirs = f"{peer} {ms(times[peer])}: {relative(times['ours'], times[peer])}"
            yield f"training step of `{preset}`", ms(times["ours"]), theirs, command + flags

    return rows


def to_loss(found: dict[str, Any]) -> Iterator[Row]:
    """Whole runs."""
    losses = {name: sum(values) / len(values) for name, values in found["val_loss"].items()}
    mine, theirs = (f"{seconds(found['seconds'][name])} to {losses[name]:.3f} nats" for name in ("ours", "nanoGPT"))
    ratio = relative(found["seconds"]["ours"], found["seconds"]["nanoGPT"])
    command = "benchmarks.to_loss --data tinyshakespeare.txt --peers DIR"
    yield "start to trained model, `sprint`, compilation included", mine, f"nanoGPT {theirs}: {ratio}", command


def generation(found: dict[str, Any]) -> Iterator[Row]:
    """Generating text."""
    measured = found["tokens_per_second"]
    speeds = {name: f"{speed['median']:.3g} tokens/s" for name, speed in measured.items()}
    for peer in found["times_as_fast"]:
        faster = measured["cached"]["median"] / measured[peer]["median"]
        theirs = f"{peer} {speeds[peer]}: **{faster:.1f}** times as fast"
        yield "generating 256 characters, `char`", speeds["cached"], theirs, "benchmarks.generation --peers DIR"


def update(section: str, tree: str) -> Callable[[dict[str, Any]], Iterator[Row]]:
    """One optimizer's update."""
    command = f"benchmarks.update --only {section} --tree {tree} --peers DIR"

    def rows(found: dict[str, Any]) -> Iterator[Row]:
        times = found["seconds"]
        for peer in found["ratios"]:
            if not is_steady(times["jaxopt_mini"], times[peer]):
                continue
            theirs = f"{peer} {ms(times[peer], 1e3)}: {relative(times['jaxopt_mini'], times[peer])}"
            yield f"{section} on the parameters of `{tree}`", ms(times["jaxopt_mini"], 1e3), theirs, command

    return rows


def startup(found: dict[str, Any]) -> Iterator[Row]:
    """From the start of the process."""
    for name, what in (
        ("help", "`--help`"),
        ("cold", "first step of `nano`"),
        ("warm", "first step of `nano`, from the compile cache"),
    ):
        yield what, seconds(found["seconds"][name]), "", "benchmarks.startup"


def loop(found: dict[str, Any]) -> Iterator[Row]:
    """The overhead of the loop."""
    for name, ratio in found["ratios"].items():
        yield f"overhead of the {name} per step of `nano`", f"{ratio['median'] - 1:.1%}", "", "benchmarks.loop"


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
