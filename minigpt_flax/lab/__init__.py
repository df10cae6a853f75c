"""Look at runs: records, comparisons, landscapes, reports."""
