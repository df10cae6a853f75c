"""Several devices and processes: sharding, launching, agreement between processes."""
