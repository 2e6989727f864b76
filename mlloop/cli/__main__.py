"""`python -m mlloop.cli`, and the command `mlloop`: the command line, and an end without a traceback while it is loaded."""

import sys


def main() -> None:
    """Load the command line and run it."""
    try:
        from mlloop.cli.app import main as run
    except KeyboardInterrupt:
        sys.exit(130)
    run()


if __name__ == "__main__":
    main()
