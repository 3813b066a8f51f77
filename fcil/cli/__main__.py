"""The command line, as `python -m fcil.cli`."""

import sys

from fcil.cli import start

sys.exit(start())
