"""What ``medfm.load`` returns: a backbone, what its input means, and where it comes from.

n records, C channels, T samples, N tokens, D width, F features, K outputs.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from medfm.hub.bundle import Bundle, load_bundle
from medfm.hub.resolve import resolve
from medfm.types import RESEARCH_USE, Features, MedfmError, Sample
from medfm.workflows.gather import Item, gather, set_aside
from medfm.workflows.kinds import kind_of
from medfm.workflows.predict import load_finetuned
from medfm.workflows.segment_bundle import is_mask_bundle

if TYPE_CHECKING:
    import pandas as pd

    from medfm.backbones.base import Backbone
    from medfm.finetuning.heads import LinearHead
    from medfm.finetuning.task import Task

LOG = logging.getLogger("medfm")
Pool = Literal["mean", "mean-std", "tokens"]


@dataclass
class Embedded:
    """Row i of ``z`` belongs to ``records[i]`` and ``paths[i]``; ``failed`` holds (path, reason)."""

    z: np.ndarray
    records: list[str]
    paths: list[str]
    kept: list[int]
    failed: list[tuple[str, str]] = field(default_factory=list)

    def frame(self) -> pd.DataFrame:
        """``record, path, z0000, z0001, ...``."""
        import pandas as pd

        columns = pd.DataFrame(self.z, columns=[f"z{i:04d}" for i in range(self.z.shape[1])])
        return pd.concat([pd.DataFrame({"record": self.records, "path": self.paths}), columns], axis=1)


class Model:
    """A loaded bundle: ``backbone`` (a plain ``torch.nn.Module`` in evaluation mode), ``modality``, ``card``,
    ``bundle``, and ``task`` and ``head`` where it was fine-tuned. Research use only: not a medical device.
    """

    def __init__(self, bundle: Bundle, device: str = "auto") -> None:
        self.bundle, self.card = bundle, bundle.card
        self.modality = bundle.modality()
        self.task: Task | None = None
        self.head: LinearHead | None = None
        if bundle.head is None or is_mask_bundle(bundle):
            self.backbone: Backbone = bundle.build()
        else:
            network, self.task, self.window = load_finetuned(bundle)
            self.backbone, self.head = network.backbone, network.head
        if (have := len(self.modality.channels)) != self.backbone.in_channels:
            raise MedfmError(
                f"{bundle.path}: the network takes {self.backbone.in_channels} channels, its "
                f"preprocessing gives {have}; the bundle is inconsistent, get the model again or ask "
                "who made it."
            )
        self.device = torch.device("cpu")
        self.to(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)

    def __repr__(self) -> str:
        what = f"{self.task.kind} on {', '.join(self.task.classes)}" if self.task else "backbone"
        return (
            f"<medfm.Model {self.card.id}: {self.card.modality} {what}, {self.card.architecture}. "
            f"{RESEARCH_USE}>"
        )

    def to(self, device: str | torch.device) -> Model:
        self.device = torch.device(device)
        self.backbone.to(self.device)
        if self.head is not None:
            self.head.to(self.device)
        return self

    def embed(
        self,
        x: Any,
        fs: float | None = None,
        channels: Sequence[str] | None = None,
        batch_size: int = 32,
        pool: Pool = "mean",
    ) -> np.ndarray:
        """Features of every record, in the order given: ``[n, D]``, ``[n, 2 D]`` (``mean-std``) or ``[n, N,
        D]`` (``tokens``, for records of one window).

        ``x``: a file, a folder, a table (path or data frame with a ``path`` column), a sequence of files, or
        an array. Of signals it is ``[C, T]`` or ``[n, C, T]`` in the modality's unit (ECG: mV) with its sampling
        rate ``fs`` in Hz and, unless it has the model's channels in the model's order, their names; a file that
        states no rate takes ``fs`` too. Of pictures it is ``[H, W]``, ``[n, H, W]`` or ``[n, C, H, W]``, bone
        bright. A record longer than the model's window is covered by windows whose features
        are averaged. A record that cannot be read becomes a row of NaN and a warning (:meth:`embed_records`
        gives the reasons); when none can, :class:`MedfmError`.
        """
        items = gather(x, self.modality, fs, channels)
        found = self._embed(items, batch_size, pool)
        z = np.full((len(items), *found.z.shape[1:]), np.nan, np.float32)
        z[found.kept] = found.z
        for name, reason in found.failed:
            LOG.warning("set aside: %s", set_aside(name, reason))
        return z

    def embed_records(
        self,
        x: Any,
        fs: float | None = None,
        channels: Sequence[str] | None = None,
        batch_size: int = 32,
        pool: Pool = "mean",
    ) -> Embedded:
        """As :meth:`embed`, with names, paths and the records set aside; only good records have a row."""
        return self._embed(gather(x, self.modality, fs, channels), batch_size, pool)

    def predict(
        self, x: Any, fs: float | None = None, channels: Sequence[str] | None = None, batch_size: int = 32
    ) -> pd.DataFrame:
        """One row a record: ``record``, ``path``, ``p_CLASS`` for every class (multiclass: also
        ``predicted``; a value: ``predicted_TARGET``; survival: ``risk_EVENT`` and ``survival_EVENT_at_HORIZON``), and
        ``error`` where it could not be read.

        Windows of a long record, of the length that the head was trained on, are averaged as logits. Raises
        :class:`MedfmError` for a backbone without a head.
        """
        import pandas as pd

        if is_mask_bundle(self.bundle):
            raise MedfmError(
                f"{self.card.id} draws masks, one a volume, and writes them: medfm.predict(FILE, model=..., output=FOLDER)."
            )
        if self.task is None or self.head is None:
            raise MedfmError(
                f"{self.card.id} is a backbone without a head: fine-tune it with medfm finetune first."
            )
        items = gather(x, self.modality, fs, channels)
        values, failed = self._run(items, batch_size, self._logits, self.window)
        kept = list(values)
        told = self.task.predictions(np.stack([values[i] for i in kept]))
        p = np.full((len(items), told.shape[1]), np.nan)
        p[kept] = told
        frame = pd.DataFrame({"record": [i.record for i in items], "path": [i.path for i in items]})
        for name, column in self.task.columns_of(p).items():
            frame[name] = column
        if self.task.kind == "multiclass":
            frame["predicted"] = pd.NA
            frame.loc[kept, "predicted"] = [self.task.classes[k] for k in p[kept].argmax(axis=1)]
        frame["error"] = [failed.get(i, "") for i in range(len(items))]
        return frame

    def _logits(self, features: Features) -> Tensor:
        from medfm.finetuning.heads import pool

        assert self.head is not None
        return self.head(pool(features, self.head.pool))

    def _embed(self, items: list[Item], batch_size: int, how: Pool) -> Embedded:
        from medfm.finetuning.heads import pool

        if how not in ("mean", "mean-std", "tokens"):
            raise MedfmError(f"pool {how!r} is unknown; use mean, mean-std or tokens.")
        call = _tokens if how == "tokens" else partial(pool, how=how)
        values, failed = self._run(items, batch_size, call, single=how == "tokens")
        kept = list(values)
        return Embedded(
            z=np.stack([values[i] for i in kept]).astype(np.float32),
            records=[items[i].record for i in kept],
            paths=[items[i].path for i in kept],
            kept=kept,
            failed=[(items[i].path or items[i].record, reason) for i, reason in failed.items()],
        )

    @torch.inference_mode()
    def _run(
        self,
        items: list[Item],
        batch_size: int,
        call: Callable[[Features], Tensor],
        window: int = 0,
        *,
        single: bool = False,
    ) -> tuple[dict[int, np.ndarray], dict[int, str]]:
        """``call`` on windows of ``window`` samples (0: the modality's), averaged over a record, by position in
        ``items``; what failed.

        One batch of windows is in memory at a time. A bad record is set aside and the rest goes on.
        """
        sums: dict[int, np.ndarray] = {}
        counts: dict[int, int] = {}
        failed: dict[int, str] = {}
        pending: list[tuple[int, Sample]] = []

        def flush() -> None:
            x = torch.from_numpy(np.stack([s.x for _, s in pending])).to(self.device)
            present = torch.from_numpy(np.stack([s.present for _, s in pending])).to(self.device)
            for (i, _), value in zip(pending, call(self.backbone(x, present)).double().cpu().numpy()):
                sums[i] = sums[i] + value if i in sums else value
                counts[i] = counts.get(i, 0) + 1
            pending.clear()

        for i, item in enumerate(items):
            try:
                cuts = self._cuts(item.read(), window, single)
            except Exception as error:  # one bad file never ends a run: it is set aside with its reason
                failed[i] = (
                    str(error) if isinstance(error, MedfmError) else f"{type(error).__name__}: {error}"
                )
                continue
            for cut in cuts:
                pending.append((i, cut))
                if len(pending) >= batch_size:
                    flush()
        if pending:
            flush()
        if not sums:
            reason = next(iter(failed.values()), "there are none")
            raise MedfmError(f"none of the {len(items)} record(s) could be read. First reason: {reason}")
        return {i: sums[i] / counts[i] for i in sorted(sums)}, failed

    def _cuts(self, sample: Sample, window: int, single: bool) -> list[Sample]:
        """What of ``sample`` the network takes, normalised: the windows that cover it, or a picture whole."""
        if single and sample.x.shape[-1] > self.modality.size[-1]:
            seconds = self.modality.size[0] * self.modality.spacing[0]
            name = sample.record or "the record"
            raise MedfmError(f"{name} is longer than {seconds:g} s: for pool='tokens', cut it to that.")
        return list(kind_of(self.modality).reading.cuts(sample, self.modality, window))


def load(ref: str | Path, device: str = "auto") -> Model:
    """Load a model by catalogue id, name in the local hub, run folder, bundle folder,
    ``folder:PATH/name@revision`` or ``hf://org/name@revision``. Every file is checked against the bundle's
    sha256 manifest first.

    >>> model = medfm.load("ecg-jepa-xs-sim")  # doctest: +SKIP
    """
    return Model(load_bundle(resolve(ref)), device)


def _tokens(features: Features) -> Tensor:
    """``[B, N, D]``."""
    return features.maps[-1].flatten(2).transpose(1, 2)
