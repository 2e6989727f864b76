"""`python -m mlloop`: the command line."""

from mlloop.cli.app import main

main()
