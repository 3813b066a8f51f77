"""Keeps what runs of one process have in common: data, the backbone, Ray workers, and updates that were computed."""

import json
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fcil.config import Config
from fcil.data.dataset import Dataset
from fcil.exchange.described import Undescribed
from fcil.exchange.memo import Memo
from fcil.exchange.update_key import features_part
from fcil.method import Method
from fcil.model.feature_cache import FeatureCache

__all__ = ["FEATURES", "Features", "Shared"]

FEATURES = "features"
"""Name of the folder, in that of a comparison, where features are kept."""


@dataclass(frozen=True)
class Features:
    """A folder in which features of frozen backbones are kept."""

    folder: Path
    share: float = 0.02
    """Share of the batches found that are computed all the same."""
    tested: dict[str, int] = field(default_factory=dict, compare=False, repr=False)
    """What this process has found out about networks; see `FeatureCache.tested`."""
    compared: set[int] = field(default_factory=set, compare=False, repr=False)
    """Batches that this process has compared; see `FeatureCache.compared`."""

    def cache(self, config: Config, method: Method, data: Dataset) -> FeatureCache | None:
        """Make the cache of a run; None where its adapter cannot be described."""
        try:
            key = features_part(config, method, data.sha256())
        except Undescribed:
            return None
        rows = {"train": len(data.train), "test": len(data.test)}
        return FeatureCache(self.folder, key, rows, self.share, tested=self.tested, compared=self.compared)


@dataclass
class Shared:
    """One data set, one backbone and one set of workers at a time: those that the last run needed."""

    memo: Memo | None = None
    """Updates that runs of a comparison have computed; None where none are remembered."""
    features: Features | None = None
    """Where features of the frozen backbone are kept; None where they are not."""
    beside_others: bool = False
    """Whether other processes work on the same machine, so that times are not those of a run alone."""
    _kept: dict[str, tuple[Hashable, Any, Callable[[Any], None]]] = field(default_factory=dict, repr=False)

    def written(self) -> str:
        """Write where updates and features are kept, as JSON, for another process of ours that sees the folders."""
        memo, features = self.memo, self.features
        phases = sorted(memo.phases) if memo and memo.phases is not None else None
        return json.dumps({
            **({"memo": [str(memo.folder.resolve()), memo.share, memo.limit, phases]} if memo else {}),
            **({"features": [str(features.folder.resolve()), features.share]} if features else {}),
        })  # fmt: skip

    def read(self, text: str) -> "Shared":
        """Keep updates and features where `written` says; nowhere if the text is empty."""
        table = json.loads(text or "{}")
        self.memo = None
        if "memo" in table:
            folder, share, limit, phases = table["memo"]
            self.memo = Memo(Path(folder), share, limit, None if phases is None else frozenset(phases))
        self.features = Features(Path(table["features"][0]), *table["features"][1:]) if "features" in table else None
        return self

    def keep(
        self, kind: str, key: Hashable, make: Callable[[], Any], end: Callable[[Any], None] = lambda thing: None
    ) -> Any:
        """Return what is kept of a kind if it has this key; else let it go and make another.

        Args:
            end: called with what is let go.
        """
        if kind not in self._kept or self._kept[kind][0] != key:
            self.drop(kind)
            self._kept[kind] = key, make(), end
        return self._kept[kind][1]

    def drop(self, kind: str) -> None:
        """Let go what is kept of a kind, if anything is."""
        if kind in self._kept:
            _, thing, end = self._kept.pop(kind)
            end(thing)

    def close(self) -> None:
        """Let everything go that is kept."""
        for kind in list(self._kept):
            self.drop(kind)
