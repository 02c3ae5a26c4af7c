"""``python -m benchmarks NAME`` is ``lifeline bench NAME``."""

import sys

from lifeline.cli import main

main(["bench", *sys.argv[1:]])
