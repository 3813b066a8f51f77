"""Importing the room first: it keeps Flower's own warnings at import from becoming errors."""

import fcil.exchange.flower  # noqa: F401
