"""Comparisons: candidates, learning rates and seeds; their runs; statistics, tables and figures."""
