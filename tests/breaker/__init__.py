"""A fuzzer of the command line: odd arguments, damaged folders, odd outputs; ``python -m tests.breaker --help``.

The cases come from the project's own tables: the flags of every command, the keywords of every spec, the files of every
folder that a command writes. So a new one is tried without being named here.
"""
