"""Everything that trains: words, configuration, the step, the loop and what watches it."""
