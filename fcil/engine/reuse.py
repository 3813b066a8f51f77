"""Says what the runs of a comparison take from each other instead of computing it again."""

import json
from dataclasses import asdict, dataclass
from typing import Self

__all__ = ["Reuse"]


@dataclass(frozen=True)
class Reuse:
    """A choice of what runs take from each other; none of it changes a bit of any result."""

    memo: bool = True
    """Updates that a client of another run has computed from the same input (`fcil.exchange.memo`)."""
    features: bool = True
    """Features of the frozen backbone (`fcil.model.feature_cache`)."""
    share: float = 0.02
    """Share of both that is computed all the same and compared."""

    def options(self) -> list[str]:
        """Write it as options of `fcil compare`."""
        return [
            *(["--check-memo", repr(self.share)] if self.memo else ["--no-memo"]),
            *([] if self.features else ["--no-feature-cache"]),
        ]

    def written(self) -> str:
        """Write it as JSON, for a process of ours elsewhere."""
        return json.dumps(asdict(self))

    @classmethod
    def read(cls, text: str) -> Self:
        """Read what `written` wrote."""
        return cls(**json.loads(text))
