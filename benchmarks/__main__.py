"""`python -m benchmarks` is `lifeline bench`."""

import sys

from lifeline.cli import main

sys.argv.insert(1, "bench")
main()
