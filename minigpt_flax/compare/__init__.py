"""Comparisons: candidates, their runs, statistics, tables, figures. Calling it is :func:`minigpt_flax._api.compare`."""

from minigpt_flax._callable import make_callable

make_callable(__name__)
