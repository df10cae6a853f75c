"""What commands print: reporters of a run, the progress bar, the live plot, the summary before a run."""
