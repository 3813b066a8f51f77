"""The command line: `fcil`, or `python -m fcil.cli`."""

import sys

__all__ = ["start"]


def start() -> int:
    """Import the commands and carry one out; Ctrl-C is answered in a line also while they are imported."""
    try:
        from fcil.cli.main import main

        return main()
    except KeyboardInterrupt:
        print("fcil: interrupted", file=sys.stderr)
        return 130
