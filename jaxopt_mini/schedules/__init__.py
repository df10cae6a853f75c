"""Learning-rate schedules by family, and the table of their names."""

from jaxopt_mini.schedules._constant import constant as constant
from jaxopt_mini.schedules._cosine import cosine as cosine, cosine_restarts as cosine_restarts
from jaxopt_mini.schedules._exponential import exponential as exponential
from jaxopt_mini.schedules._fast_slow import fast_slow as fast_slow
from jaxopt_mini.schedules._inverse_sqrt import inverse_sqrt as inverse_sqrt, noam as noam
from jaxopt_mini.schedules._join import join as join
from jaxopt_mini.schedules._one_cycle import one_cycle as one_cycle
from jaxopt_mini.schedules._polynomial import linear as linear, polynomial as polynomial
from jaxopt_mini.schedules._step import multistep as multistep, step as step
from jaxopt_mini.schedules._warmup import (
    warmup as warmup,
    warmup_constant as warmup_constant,
    warmup_cosine as warmup_cosine,
    warmup_linear as warmup_linear,
)
from jaxopt_mini.schedules._wsd import wsd as wsd

SCHEDULES = {
    f.__name__: f
    for f in (
        constant,
        linear,
        polynomial,
        step,
        multistep,
        exponential,
        cosine,
        cosine_restarts,
        one_cycle,
        inverse_sqrt,
        noam,
        wsd,
        fast_slow,
        warmup_constant,
        warmup_linear,
        warmup_cosine,
    )
}
