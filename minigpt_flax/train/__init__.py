"""Training: configuration, building, the step, the loop, checkpoints. Calling it is :func:`minigpt_flax._api.train`."""

from minigpt_flax._callable import make_callable

make_callable(__name__)
