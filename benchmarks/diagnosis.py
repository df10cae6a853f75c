"""How often ``diagnose`` is right: ``python -m benchmarks.diagnosis [PART ...]``.

Small models train with several optimizers, batch sizes and learning rates. At a checkpoint of each, the studies give
their verdicts, and each one that a reader acts on is acted on: training continues with another learning rate, batch
size or ``eps``, in three orders of the data, and the loss on other batches of the same text shows whether the verdict
was right. *Progress* is the decrease of that loss since the checkpoint. A run is stable if its loss rises by at most a
tenth of what training had gained.

Intervals are Wilson's, at 95 %. Figures go to ``benchmarks/results/<machine>.json``.
"""

from __future__ import annotations

import dataclasses
import math
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.results import RESULTS, publish
from benchmarks.verdicts import table
from jaxopt_mini import tree
from minigpt_flax.cli import compiled
from minigpt_flax.cli.entry import guarded
from minigpt_flax.cli.parser import Parser
from minigpt_flax.compare.comparison import ALONE
from minigpt_flax.compare.traced_run import Knobs, TracedRun, trace_run
from minigpt_flax.diagnose import curvature, gradient_noise, landscape, optimizer_dynamics
from minigpt_flax.diagnose.checkpoint_view import CheckpointView, draw_batches
from minigpt_flax.errors import check_name
from minigpt_flax.train.build import loss_sum, make_run
from minigpt_flax.train.config.run_config import RunConfig, changed, resolve
from minigpt_flax.train.dataset import Dataset, load_dataset
from minigpt_flax.train.optimizer import schedules_of

DATA = "pydocs"
SMALL = {"layers": 1, "heads": 2, "width": 32, "context": 16, "schedule": "warmup_constant(warmup=10)", **ALONE}
OPTIMIZERS: list[dict[str, Any]] = [
    {"opt": "sgd"},
    {"opt": "momentum"},
    {"opt": "adamw"},
    {"opt": "adamw", "clip": "clip_by_norm(0.1)"},
    {"opt": "muon"},
]
LARGE_EPS = [{"opt": f"adamw(eps={eps})"} for eps in ("1e-3", "1e-4", "1e-5")]
BATCHES = (4, 32)  # sequences
FACTORS = (0.25, 1.0, 4.0)  # learning rates of the runs, relative to the optimizer's own
RATES = (0.5, 1.0, 2.0)  # learning rates to continue with, relative to the run's
TUNED = (0.5, 1.0, 2.0, 4.0)  # the same for another batch size
CHECKPOINT, STEPS, ORDERS = 100, 30, 3  # steps before and after the checkpoint; orders of the data
STABLE, UNSTABLE = 0.8, 2.2  # shares of the bound to continue at
LOST = 0.1  # of what training had gained
GAINED, KEPT = 4 / 3, 2 / 3  # of the progress per step, with twice and half a batch that equals the noise scale
FEW = 0.03  # "more than a few percent" of the entries
EVALUATED = 256  # sequences

Claim = tuple[str, bool]  # the verdict with what was done, and whether it was right


class Runs:
    """Training runs of one optimizer in lanes, which differ in learning rate and order of the data.

    Args:
      config: of a run at the optimizer's own learning rate.
      data: the data.
      size: sequences per batch.
    """

    def __init__(self, config: RunConfig, data: Dataset, size: int):
        self.config, self.data, self.size = config, data, size
        self.programs: dict[int, TracedRun] = {}

    def program(self, size: int) -> TracedRun:
        """The program for batches of so many sequences."""
        if size not in self.programs:
            run = make_run(changed(self.config, batch_size=size, tokens_per_step=None), self.data)
            self.programs[size] = trace_run(run, self.config.steps)
        return self.programs[size]

    def knobs(self, size: int, factors: Sequence[float]) -> Knobs:
        """The knobs of lanes with multiples of the learning rate."""
        stacked = self.program(size).stacked([self.config] * len(factors))
        return stacked._replace(values=stacked.values * jnp.asarray(factors)[:, None, None])

    def train(self, states: Any, size: int, factors: Sequence[float], batches: Sequence[Any]) -> Any:
        """Takes a step on each of the batches, int32[lanes, size, T + 1]."""
        knobs, states = self.knobs(size, factors), jax.tree.map(jnp.copy, states)
        for batch in batches:
            states, _ = self.program(size).step_many(knobs, states, jnp.asarray(batch))
        return states

    def batches(self, size: int, steps: int, orders: Sequence[int]) -> list[np.ndarray]:
        """int32[lanes, size, T + 1] for each step; each lane has its order of the data."""
        each = {order: self.data.batches(size, self.config.context, order) for order in set(orders)}
        return [np.stack([np.asarray(each[order](t), np.int32) for order in orders]) for t in range(steps)]

    @cached_property
    def others(self) -> np.ndarray:
        """int32[EVALUATED, T + 1], sequences to evaluate on."""
        return np.asarray(self.data.batches(EVALUATED, self.config.context, 1000)(0), np.int32)

    @cached_property
    def _losses(self) -> Any:
        sums = loss_sum(self.program(self.size).run.model)

        def one(params: Any, sequences: Any) -> Any:
            total, count = sums(params, sequences[:, :-1], sequences[:, 1:], jax.random.key(0))
            return total / count

        return jax.jit(jax.vmap(one, in_axes=(0, None)))

    def losses(self, states: Any, sequences: np.ndarray | None = None) -> np.ndarray:
        """The loss of each lane on the other sequences, or on these; infinite if it isn't finite."""
        found = np.asarray(self._losses(states.params, self.others if sequences is None else sequences))
        return np.where(np.isfinite(found), found, np.inf)


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint of one lane.

    Attributes:
      runs: of its optimizer and batch size.
      factor: its learning rate relative to the optimizer's own.
      state: its state.
      gained: decrease of the loss on other sequences since the first step.
      here: that loss.
    """

    runs: Runs
    factor: float
    state: Any
    gained: float
    here: float

    @cached_property
    def view(self) -> CheckpointView:
        """What the studies get, with four batches as by default."""
        config = changed(self.runs.config, lr=self.runs.config.lr * self.factor)
        run = self.runs.program(self.runs.size).run
        run = dataclasses.replace(run, config=config, schedule=schedules_of(config)[0])
        return CheckpointView(run, self.state, draw_batches(run, 4), Path(), lambda *_: None)

    def losses(self, rates: Sequence[float], size: float = 1, steps: int = STEPS) -> list[float]:
        """Mean loss over the orders of the data after more steps, for each learning rate.

        Args:
          rates: relative to the run's.
          size: of the batches, relative to the run's.
          steps: number of steps.
        """
        count, lanes = round(size * self.runs.size), [rate for rate in rates for _ in range(ORDERS)]
        batches = self.runs.batches(count, steps, [*range(1, ORDERS + 1)] * len(rates))
        states = self.runs.train(copies(self.state, len(lanes)), count, self.factors(lanes), batches)
        return self.runs.losses(states).reshape(len(rates), ORDERS).mean(1).tolist()

    def losses_of_full(self, rates: Sequence[float]) -> list[float]:
        """Losses on the batches of the view after steps with their mean gradient."""
        whole = np.asarray(self.view.batches).reshape(-1, self.view.batches.shape[-1])
        batches = [np.stack([whole] * len(rates))] * STEPS
        states = self.runs.train(copies(self.state, len(rates)), len(whole), self.factors(rates), batches)
        return self.runs.losses(states, whole).tolist()

    def factors(self, rates: Sequence[float]) -> list[float]:
        """Learning rates relative to the optimizer's own."""
        return [self.factor * rate for rate in rates]

    def update(self) -> Any:
        """The change of the parameters in the next step."""
        size = self.runs.size
        states = self.runs.train(copies(self.state, 1), size, [self.factor], [np.asarray(self.view.batches)[:1]])
        return jax.tree.map(lambda new, old: new[0] - old, states.params, self.state.params)


def copies(state: Any, count: int) -> Any:
    """One state for several lanes."""
    return jax.tree.map(lambda leaf: jnp.stack([leaf] * count), state)


def checkpoints(fields: dict[str, Any], size: int, data: Dataset) -> Iterator[Checkpoint]:
    """A checkpoint for each of ``FACTORS``, without those of runs that gained nothing."""
    fields = {**SMALL, **fields, "steps": CHECKPOINT + 4 * STEPS, "batch_size": size, "data": DATA}
    runs = Runs(resolve(fields, "nano"), data, size)
    first = runs.program(size).init_many(runs.knobs(size, FACTORS))
    before = runs.losses(first)
    states = runs.train(first, size, FACTORS, runs.batches(size, CHECKPOINT, [0] * len(FACTORS)))
    for i, (loss, here) in enumerate(zip(before.tolist(), runs.losses(states).tolist(), strict=True)):
        if here < loss:
            yield Checkpoint(runs, FACTORS[i], jax.tree.map(lambda leaf, i=i: leaf[i], states), loss - here, here)


def bound_claims(at: Checkpoint) -> Iterator[Claim]:
    """The share of the stability bound: continues at other shares, with minibatches and with the full gradient."""
    margin = curvature.margin_of(at.view, at.view.groups[0])
    if margin.curvature is None or margin.residual is None or margin.bound is None or margin.curvature <= 0:
        return
    share = margin.curvature / margin.bound
    said = curvature.verdict(share, (margin.curvature + margin.residual) / margin.bound)
    rates = (*RATES, STABLE / share, UNSTABLE / share)
    whole = np.asarray(at.view.batches).reshape(-1, at.view.batches.shape[-1])
    start = float(at.runs.losses(copies(at.state, 1), whole)[0])
    for how, losses, here in (
        ("minibatches", at.losses(rates), at.here),
        ("full gradient", at.losses_of_full(rates), start),
    ):
        half, same, twice, stable, unstable = losses
        is_stable = lambda loss, here=here: loss - here <= LOST * at.gained
        if 2 * share <= STABLE:
            yield f"below half of the bound: twice the rate is stable, {how}", is_stable(twice)
        if share < STABLE:
            yield f"below the bound: {STABLE} of it is stable, {how}", is_stable(stable)
        yield f"{UNSTABLE} of the bound is unstable, {how}", not is_stable(unstable)
        if said.startswith("beyond"):
            yield f"beyond the bound: half the rate is better, {how}", half < same
        if said.startswith("at the"):
            yield f"at the bound: half the rate is better, {how}", half < same


def noise_claims(at: Checkpoint) -> Iterator[Claim]:
    """The advice on the batch size: continues with twice and with half the batch, at the same or at the best rate."""
    numbers = gradient_noise.study(at.view).numbers
    low, high = numbers["interval"]
    said = gradient_noise.advice(low, high, numbers["batch_tokens"])
    if not math.isfinite(numbers["noise_scale_tokens"]) or "cannot tell" in said:
        return
    sizes: dict[str, tuple[float, int]] = {"same": (1, STEPS), "twice": (2, STEPS), "half": (0.5, STEPS)}
    sizes |= {"twice, fewer": (2, STEPS // 2), "half, more": (0.5, 2 * STEPS)}
    found = {name: at.losses(TUNED, size, steps) for name, (size, steps) in sizes.items()}
    for how, pick in (("the same rate", lambda losses: losses[1]), ("the best of four rates", min)):
        progress = {name: at.here - pick(losses) for name, losses in found.items()}
        if progress["same"] > 0:
            yield from ((f"{text}, {how}", bool(right)) for text, right in size_claims(said, progress))


def size_claims(said: str, progress: dict[str, float]) -> list[Claim]:
    """What the advice claims about the progress with other batch sizes."""
    same, twice, half, fewer, more = progress.values()
    if "larger" in said:
        return [
            ("a larger batch would help: twice the batch makes 4/3 of the progress", twice >= GAINED * same),
            (
                "a larger batch would help: half the steps make 2/3 of the progress",
                fewer >= KEPT * same,
            ),
        ]
    if "smaller" in said:
        return [
            ("a smaller batch would suffice: half the batch makes 2/3 of the progress", half >= KEPT * same),
            ("a smaller batch would suffice: more progress with equal tokens", more > same),
        ]
    return [
        ("the batch fits: twice the batch makes less than 5/3 of the progress", twice < 5 / 3 * same),
        ("the batch fits: half the batch makes less than 5/6 of the progress", half < 5 / 6 * same),
    ]


def line_claims(at: Checkpoint) -> Iterator[Claim]:
    """The minimum along the gradient and along the update, beside the length of a step: continues at other rates."""
    view, update = at.view, at.update()
    half, same, twice = at.losses(RATES)
    loss = jax.jit(view.mean_loss)
    for name, direction in (("gradient", landscape.scaled(view.mean_gradient, view.params)), ("update", update)):
        span = 4 * float(tree.norm(update) / tree.norm(direction))
        line = landscape.scan_line(loss, view.params, direction, span, 33)
        sign = -1 if name == "gradient" else 1
        steps = sign * line["distance"][int(np.argmin(line["loss"]))] / span * 4
        if steps >= 2:
            yield f"minimum along the {name} beyond two steps: twice the rate is better", twice < same
        if 0 <= steps < 1:
            yield f"minimum along the {name} within one step: half the rate is better", half < same


def eps_claims(at: Checkpoint) -> Iterator[Claim]:
    """Entries below ``eps``: continues with a hundredth of it."""
    share = (optimizer_dynamics.eps_share(at.view) or {}).get("matrix", 0.0)
    if share > FEW:
        opt = at.runs.config.opt
        smaller = dataclasses.replace(opt, keywords={**opt.keywords, "eps": opt.keywords["eps"] / 100})
        other = dataclasses.replace(
            at, runs=Runs(changed(at.runs.config, opt=str(smaller)), at.runs.data, at.runs.size)
        )
        better = min(other.losses(TUNED)) < min(at.losses(TUNED))
        yield "matrices with entries below eps: a hundredth of eps is better, the best of four rates", better


def checkpoint_part(data: Dataset) -> Iterator[tuple[str, Claim]]:
    """The studies of checkpoints."""
    for fields in OPTIMIZERS:
        for size in BATCHES:
            for at in checkpoints(fields, size, data):
                for study in (bound_claims, noise_claims, line_claims):
                    yield from ((named(fields, size, at.factor), claim) for claim in study(at))


def eps_part(data: Dataset) -> Iterator[tuple[str, Claim]]:
    """AdamW with a large ``eps``."""
    for fields in LARGE_EPS:
        for at in checkpoints(fields, BATCHES[-1], data):
            yield from ((named(fields, BATCHES[-1], at.factor), claim) for claim in eps_claims(at))


PARTS = {"checkpoints": checkpoint_part, "eps": eps_part}


def named(fields: dict[str, Any], size: int, factor: float) -> str:
    """The run of a checkpoint."""
    return f"{' '.join(fields.values())}, batch {size}, rate x{factor:g}"


def wilson(right: int, total: int) -> tuple[float, float]:
    """95 % interval of a probability (Wilson, 1927).

    >>> [round(end, 3) for end in wilson(9, 10)]
    [0.596, 0.982]
    """
    z, share = 1.96, right / total
    middle = (share + z**2 / (2 * total)) / (1 + z**2 / total)
    half = z / (1 + z**2 / total) * math.sqrt(share * (1 - share) / total + z**2 / (4 * total**2))
    return max(0.0, middle - half), min(1.0, middle + half)


def rows(found: Sequence[tuple[str, Claim]]) -> list[dict[str, Any]]:
    """How often each claim was right."""
    lines = []
    for name in sorted({claim for _, (claim, _) in found}):
        outcomes = [right for _, (claim, right) in found if claim == name]
        low, high = wilson(sum(outcomes), len(outcomes))
        share = f"{sum(outcomes) / len(outcomes):.0%} ({low:.0%} to {high:.0%})"
        lines.append({"verdict, and what was done": name, "right": sum(outcomes), "of": len(outcomes), "share": share})
    return lines


def measure(part: str, data: Dataset) -> tuple[list[tuple[str, Claim]], int]:
    """The claims of a part, and its CPU time in seconds."""
    found, before = [], time.process_time()
    for where, claim in PARTS[part](data):
        found.append((where, claim))
        print(f"{where}: {claim[0]}: {'right' if claim[1] else 'wrong'}", flush=True)
    return found, round(time.process_time() - before)


def run(arguments: list[str]) -> int:
    """Measures, prints and keeps."""
    parser = Parser(prog="python -m benchmarks.diagnosis", description=__doc__)
    parser.add_argument("part", nargs="*", metavar="PART", help=f"some of: {', '.join(PARTS)} [all]")
    parser.add_argument("--out", type=Path, default=RESULTS, metavar="DIR", help="folder of the results")
    given = parser.parse(arguments)
    for part in given["part"]:
        check_name(part, PARTS, "part")
    with TemporaryDirectory() as cache:
        compiled.use(cache)
        data = load_dataset(resolve({**SMALL, "data": DATA}, "nano"))
        for part in given["part"] or PARTS:
            found, seconds = measure(part, data)
            counts = rows(found)
            cases = [{"run": where, "verdict": claim, "right": bool(right)} for where, (claim, right) in found]
            values = {"cpu_seconds": seconds, "counts": counts, "cases": cases}
            publish(given["out"], f"diagnosis, {part}", f"Verdicts of diagnose, {part}", table(counts), values)
    return 0


def main(arguments: list[str] | None = None) -> int:
    """The command; returns the exit status."""
    return guarded("benchmarks.diagnosis", lambda: run(sys.argv[1:] if arguments is None else arguments))


if __name__ == "__main__":
    sys.exit(main())
