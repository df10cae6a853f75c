"""What a run folder is: how its files are written, read and checked. Imports no JAX."""
