"""Tuning: search the hyperparameters of one optimizer. Calling it is :func:`minigpt_flax._api.tune`."""

from minigpt_flax._callable import make_callable

make_callable(__name__)
