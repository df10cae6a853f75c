"""``python -m benchmarks``: the figures of speed."""

import sys

from benchmarks.update import main

if __name__ == "__main__":
    sys.exit(main())
