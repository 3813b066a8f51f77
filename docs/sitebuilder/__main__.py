"""Build the site from the command line."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from . import Trouble, build


def main(words: Sequence[str] | None = None) -> int:
    """Build, and say where; 1 with the message where something is not right."""
    parser = argparse.ArgumentParser(prog="sitebuilder", description="Build the documentation as a site.")
    parser.add_argument("folder", type=Path, help="where to build; made anew")
    parser.add_argument(
        "--no-traffic", action="store_true", help="leave out what methods send, which takes the longest"
    )
    args = parser.parse_args(words)
    try:
        site = build(args.folder, traffic=not args.no_traffic)
    except Trouble as trouble:
        print(trouble, file=sys.stderr)
        return 1
    print(f"{site}/index.html; to search in it too: {Path(sys.executable).name} -m http.server -d {site}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
