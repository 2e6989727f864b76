"""`python -m mlloop`: the command line."""

from mlloop.cli.__main__ import main

if __name__ == "__main__":
    main()
