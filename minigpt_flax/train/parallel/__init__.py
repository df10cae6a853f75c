"""Several devices and processes: sharding, launching, consistency checks between processes."""
