"""The command line: every command, its arguments, and how its endings become an exit status. Imports no JAX."""
