"""Writes the pages of this folder that are read off the code: ``python -m docs.generate [--measure]``.

The deviations on them are those of ``python -m tests.deviations``, kept in ``deviations.json``; ``--measure``
measures them again. A test compares the committed pages with what this would write.
"""

from __future__ import annotations

import importlib
import inspect
import json
import pkgutil
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from types import ModuleType

import jaxopt_mini.optimizers
from benchmarks.defaults import is_present
from benchmarks.results import RESULTS
from docs import catalog, command_line, conformance_page, fast
from docs.catalog import DEVIATIONS, HEAD, table
from docs.examples import pages as examples
from jaxopt_mini import OPTIMIZERS
from minigpt_flax.runs.schema import METRICS
from tests.deviations import measured

HERE = Path(__file__).parent
TRANSFORMATIONS = """\
{head}# `scale_by_*` transformations

The parts that optimizers are chained from: each computes a direction, without the learning rate. The optimizers
themselves have one page each in [the catalog](../optimizers/index.md).

```{{eval-rst}}
.. automodule:: jaxopt_mini.optimizers
   :members: {names}
   :imported-members:

.. py:function:: jaxopt_mini.my_adamw

   :func:`jaxopt_mini.optimizers.adamw` under another name.
```
"""
BLOCK = "<!-- generated: {} -->"
MACHINE = "amd-epyc-2-cores.json"


def filled(name: str, blocks: dict[str, Callable[[], str]]) -> str:
    """A page with its generated blocks replaced."""
    page, end = (HERE / name).read_text(encoding="utf-8"), BLOCK.format("end")
    for block, text in blocks.items():
        before, rest = page.split(begin := BLOCK.format(block), 1)
        page = f"{before}{begin}\n{text()}{end}{rest.split(end, 1)[1]}"
    return page


def untuned() -> str:
    """What every optimizer came to as the command takes it now, by machine."""
    parts = []
    for path in sorted(RESULTS.glob("*.json")):
        measurement = json.loads(path.read_text()).get("defaults")
        if measurement:
            present = [item for item in measurement["optimizers"].items() if is_present(*item)]
            ranked = sorted(present, key=lambda item: item[1]["val_loss"])
            rows = [f"`{found.get('opt', name)}` | {found['lr']:g} | {found['val_loss']:.3f}" for name, found in ranked]
            title = f"On {measurement['machine']}, {measurement['date']}, {measurement['steps']} steps:"
            parts.append(f"\n{title}\n\n{table(('optimizer', 'peak learning rate', 'validation loss'), rows)}\n")
    return "".join(parts)


def speeds() -> str:
    """What was measured against peers on the machine of the tables."""
    measured = json.loads((RESULTS / MACHINE).read_text())
    return table(("what", "here", "its peer", "`python -m ...`"), fast.rows(measured))


def memory() -> str:
    """What a step of GPT-2 needs."""
    measured = json.loads((RESULTS / MACHINE).read_text())
    return table(("a step of `gpt2`, 8 x 1024 tokens", "peak by XLA's analysis"), fast.memory(measured))


def accelerators() -> str:
    """What was measured on GPUs."""
    parts = []
    for path in sorted(RESULTS.glob("[0-9]*-x-*.json")):
        measured = json.loads(path.read_text())
        first = next(iter(measured.values()))
        title = f"{path.stem}, JAX {first['versions']['jax']}, {first['date']}"
        parts.append(f"\n{title}\n\n{table(('section', 'what', 'measured'), fast.accelerator(measured))}\n")
    return "".join(parts)


def surfaces(package: str) -> list[str]:
    """Modules that offer a package's names: itself if it re-exports any, else each module and package in it."""
    root = importlib.import_module(package)
    inner = [] if any(public(root)) else pkgutil.iter_modules(getattr(root, "__path__", ()), f"{package}.")
    below = [name for info in inner if not info.name.endswith("__main__") for name in surfaces(info.name)]
    return [package, *below]


def public(module: ModuleType) -> Iterator[str]:
    """Names of functions and classes that a module defines, or that a package's ``__init__`` takes from below it."""
    for name, value in vars(module).items():
        below = f"{getattr(value, '__module__', '')}.".startswith(f"{module.__name__}.")
        if not name.startswith("_") and (inspect.isroutine(value) or inspect.isclass(value)) and below:
            yield name


def entry(module: str) -> str:
    """A module's docstring and those of its public names; of a package, those that it takes from below it."""
    found = importlib.import_module(module)
    if not hasattr(found, "__path__"):
        return f".. automodule:: {module}\n   :members:\n"
    names = ", ".join(public(found))
    return f".. automodule:: {module}\n" + (f"   :members: {names}\n   :imported-members:\n" if names else "")


def reference(title: str, package: str) -> str:
    """The reference page of a package, module by module."""
    return "\n".join([f"{HEAD}# {title}\n\n```{{eval-rst}}", *map(entry, surfaces(package))]) + "```\n"


def metrics() -> str:
    """The keys of a run's records."""
    rows = (f"`{key}` | {metric.unit} | {metric.meaning}" for key, metric in METRICS.items())
    return table(("key", "unit", "meaning"), rows)


def transformations() -> str:
    """The reference page of what optimizers are made of; each optimizer has a page of its own."""
    names = ", ".join(name for name in public(jaxopt_mini.optimizers) if name not in OPTIMIZERS)
    return TRANSFORMATIONS.format(head=HEAD, names=names)


PAGES = {
    "optimizers/index.md": catalog.overview,
    **{f"optimizers/catalog/{name}.md": partial(catalog.page, name) for name in OPTIMIZERS},
    "optimizers/schedules.md": partial(filled, "optimizers/schedules.md", {"schedules": catalog.schedules}),
    "optimizers/clipping.md": partial(filled, "optimizers/clipping.md", {"clips": catalog.clips}),
    "optimizers/wrappers.md": partial(filled, "optimizers/wrappers.md", {"wrappers": catalog.wrappers}),
    "optimizers/choosing.md": partial(filled, "optimizers/choosing.md", {"defaults": untuned}),
    "guides/logging.md": partial(filled, "guides/logging.md", {"metrics": metrics}),
    "project/benchmarks.md": partial(filled, "project/benchmarks.md", {"speeds": speeds}),
    "guides/performance.md": partial(filled, "guides/performance.md", {"memory": memory, "accelerators": accelerators}),
    "reference/optimizers.md": transformations,
    "reference/command-line.md": command_line.page,
    "conformance.md": conformance_page.page,
    "reference/model.md": partial(reference, "The model", "minigpt_flax.model"),
    "reference/data.md": partial(reference, "Data", "minigpt_flax.data"),
    "reference/train.md": partial(reference, "Training", "minigpt_flax.train"),
    "reference/runs.md": partial(reference, "Run folders", "minigpt_flax.runs"),
    "reference/compare.md": partial(reference, "Comparisons", "minigpt_flax.compare"),
    "reference/tune.md": partial(reference, "Tuning", "minigpt_flax.tune"),
    "reference/diagnose.md": partial(reference, "Diagnosis", "minigpt_flax.diagnose"),
    "reference/report.md": partial(reference, "Reports", "minigpt_flax.report"),
    **{f"examples/{name}.md": partial(examples.page, name) for name in examples.SECONDS},
}


def main(arguments: list[str]) -> None:
    """Writes every page."""
    if "--measure" in arguments:
        DEVIATIONS.write_text(json.dumps({file: [by, size] for file, by, size in rounded()}, indent=1) + "\n")
    for name, page in PAGES.items():
        (HERE / name).write_text(page(), encoding="utf-8")
        print(f"wrote {(HERE / name).resolve().relative_to(HERE.parent)}")


def rounded() -> Iterable[tuple[str, str, float]]:
    """File, source and deviation in two digits of every trajectory."""
    for line in measured():
        yield line.file, line.source, float(f"{line.deviation:.1e}")


if __name__ == "__main__":
    main(sys.argv[1:])
