"""Registries of optimizers, schedules, clips and other parts, and the construction of objects from specs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from optax import set_to_zero

from jaxopt_mini import CLIPS, OPTIMIZERS, SCHEDULES, WRAPPERS, GradientTransformation, chain
from minigpt_flax.data import CORPORA, TOKENIZERS
from minigpt_flax.runs.loggers import LOGGERS
from minigpt_flax.spec import Spec, bind, look_up, partial_bind
from minigpt_flax.train.external import load_factory
from minigpt_flax.train.nonfinite import POLICIES
from minigpt_flax.train.parametrization import PARAMETRIZATIONS
from minigpt_flax.train.precision import DTYPES
from minigpt_flax.train.probes import PROBES


@dataclass(frozen=True)
class Registry:
    """The registry of one kind of spec.

    Attributes:
      kind: name of the kind in error messages ("optimizer").
      table: functions by name.
      flag: flag of the command line.
      leading: number of positional arguments that the run passes: learning rate (optimizer); peak and total steps
        (schedule); optimizer (wrapper); text (tokenizer); view (probe); folder, configuration and steps done (logger).
      external: ``spec -> function`` for specs that name code outside the table; None if the kind has none.
    """

    kind: str
    table: dict[str, Callable]
    flag: str
    leading: int
    external: Callable[[Spec], Callable] | None = None

    def row(self, spec: Spec) -> Callable:
        """The function that a spec names.

        Raises:
          UserError: no function has this name.
        """
        if spec.is_external and self.external is not None:
            return self.external(spec)
        return look_up(spec, self.table, self.kind)

    def bind(self, spec: Spec, *leading: Any, offered: Mapping[str, Any] | None = None) -> Any:
        """Construct the object that a spec describes; see :func:`minigpt_flax.spec.bind`."""
        return bind(spec, self.row(spec), self.kind, *leading, offered=offered)

    def partial(self, spec: Spec, offered: Mapping[str, Any] | None = None) -> Callable:
        """The function that a spec names with the spec's arguments bound; it takes the leading arguments."""
        return partial_bind(spec, self.row(spec), self.kind, self.leading, offered)


def none() -> GradientTransformation:
    """No clipping."""
    return chain()


def frozen(learning_rate: Any) -> GradientTransformation:
    """No training: the parameters of a group stay as they are, and take no memory in the optimizer's state."""
    del learning_rate
    return set_to_zero()


def is_frozen(spec: Spec) -> bool:
    """Whether an optimizer's spec is :func:`frozen`, which has no learning rate and no steps to scale."""
    return spec.name == frozen.__name__


REGISTRIES = {
    registry.kind: registry
    for registry in (
        Registry("optimizer", {**OPTIMIZERS, frozen.__name__: frozen}, "--opt", 1, external=load_factory),
        Registry("schedule", SCHEDULES, "--schedule", 2),
        Registry("clip", {**CLIPS, none.__name__: none}, "--clip", 0),
        Registry("wrapper", WRAPPERS, "--wrap", 1),
        Registry("probe", PROBES, "--probe", 1),
        Registry("policy", POLICIES, "--on-nan", 0),
        Registry("logger", LOGGERS, "--log", 3),
        Registry("tokenizer", TOKENIZERS, "--tokenizer", 1),
        Registry("corpus", CORPORA, "--data", 0),
        Registry("dtype", DTYPES, "--dtype", 0),
        Registry("parametrization", PARAMETRIZATIONS, "--parametrization", 0),
    )
}


class RunInfo(NamedTuple):
    """Values that a run passes by keyword to functions with a parameter of that name."""

    layout: Any  # tree of ``ParamLayout``
    mask: Any  # tree of booleans: parameters with weight decay
    weight_decay_mask: Any  # the same, under another name that Optax uses
    learning_rate: Any  # number or schedule of the run's main optimizer
