"""Optimizers of other frameworks in the form that a recording is replayed on; each framework is imported when used."""
