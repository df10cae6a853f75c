"""Terminal output: reporters of a run, its progress and live plot, the summary before a run."""
