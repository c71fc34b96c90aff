"""What a store of flat records says of itself, whatever shape they have: pictures and volumes are kept as signals are."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from medfm.data.store import SignalStore


@dataclass
class FlatStore:
    """A published store whose records lie flat in ``flat``, read-only. Cheap to pickle: workers map the file themselves."""

    flat: SignalStore

    def __len__(self) -> int:
        return len(self.flat)

    @property
    def path(self) -> Path:
        return self.flat.path

    @property
    def channels(self) -> tuple[str, ...]:
        return self.flat.channels

    @property
    def kept(self) -> np.ndarray:
        """Manifest rows in store order."""
        return self.flat.kept

    @property
    def failed(self) -> list[tuple[int, str, str]]:
        return self.flat.failed

    @property
    def labels(self) -> pd.DataFrame:
        """Labels of a generated corpus, in store order."""
        return self.flat.labels

    @property
    def nbytes(self) -> int:
        return self.flat.nbytes
