"""Runs clients over Flower: messages, ClientApp, Strategy, Ray grid and exchange. Only here are flwr and ray used."""

import os
import warnings

# No telemetry and no look-ups over the network, unless the user asks for them.
os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
os.environ.setdefault("FLWR_DISABLE_UPDATE_CHECK", "1")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

with warnings.catch_warnings():  # flwr 1.42 imports typer, which uses names that click 8.5 calls deprecated
    warnings.filterwarnings("ignore", r"'click\..*' is deprecated", DeprecationWarning)
    import flwr.clientapp
    import flwr.serverapp  # noqa: F401
