"""Published methods: `strategies/x.py` defines the one that is called `x`. See docs/adding-a-method.md.

Elsewhere they are imported from `fcil.strategies`, in a checkout as in a wheel: `from fcil.strategies.fedavg import
FedAvg`; or for the base of a family, `from fcil.strategies import LoraMethod`, `MergeMethod`, `ClosedForm`.
"""

from typing import Any

FCIL = True
BASES = {
    "ClosedForm": "_closed_form",
    "LoraMethod": "_lora",
    "MergeMethod": "_merging",
    "Rank": "_lora",
    "feature_width": "_closed_form",
}


def __getattr__(name: str) -> Any:
    """The bases for methods elsewhere, imported when they are asked for: they bring torch."""
    from importlib import import_module

    if name not in BASES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{BASES[name]}"), name)
