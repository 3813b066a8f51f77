"""Make pandas DataFrames, for those who have pandas: fcil itself does not need it."""

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["frame"]


def frame(columns: Mapping[str, Sequence[Any]] | Sequence[Mapping[str, Any]]) -> Any:
    """Make a DataFrame of columns by name, or of rows.

    Raises:
        ImportError: pandas is not installed.
    """
    try:
        import pandas
    except ImportError:
        raise ImportError("to_pandas needs pandas, which fcil does not install: pip install pandas") from None
    return pandas.DataFrame(columns)
