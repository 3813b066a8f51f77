"""The command line, as `python -m fcil.cli`."""

import sys

from fcil.cli.main import main

sys.exit(main())
