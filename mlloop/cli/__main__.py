"""`python -m mlloop.cli`: the command line."""

from mlloop.cli.app import main

main()
