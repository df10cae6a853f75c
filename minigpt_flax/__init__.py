"""A GPT in Flax and what trains it. Imports nothing heavy: ``train.py --help`` answers at once."""
