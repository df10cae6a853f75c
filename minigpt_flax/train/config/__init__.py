"""Run configurations: fields, presets, parameter groups, the device mesh. Imports no JAX."""
