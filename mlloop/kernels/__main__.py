"""`python -m mlloop.kernels status|stop`: the process that kernels are forked from."""

import sys

from mlloop.kernels.execute import main

raise SystemExit(main(sys.argv[1:]))
