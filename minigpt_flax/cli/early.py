"""Start of a command, before its imports: a Ctrl-C during those ends it without a traceback."""

import signal


def start(main):
    """Runs ``main`` as the whole process; see :func:`minigpt_flax.cli.entry.start`."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from minigpt_flax.cli import entry

    entry.start(main)
