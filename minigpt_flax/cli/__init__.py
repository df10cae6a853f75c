"""The command line: commands, arguments and exit statuses. Imports no JAX."""
