"""The command line: `fcil`, or `python -m fcil.cli`."""

import sys

__all__ = ["start"]


def start() -> int:
    """Import the commands and carry one out; Ctrl-C, and a system without locks, are told in a line meanwhile too."""
    from fcil.errors import FcilError

    try:
        from fcil.cli.main import main

        return main()
    except KeyboardInterrupt:
        print("fcil: interrupted", file=sys.stderr)
        return 130
    except FcilError as error:
        print(f"fcil: {error}", file=sys.stderr)
        return error.exit_code
