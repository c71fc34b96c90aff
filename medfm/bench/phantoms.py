"""``medfm bench pretrain --modality ct``: phantoms as NIfTI files for the plain side, and ingested for ours."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from medfm.bench.ct import bench_ct
from medfm.data.loader import Mixture
from medfm.data.manifest import Manifest
from medfm.data.volume_batches import VolumeBatches
from medfm.data.volume_store import ingest_volumes
from medfm.modalities.ct import CT
from medfm.synthetic.corpus import write_corpus
from medfm.types import Batch, ViewSpec


def bench_phantoms(
    patients: int = 4, spacing: float = 1.5, threads: int = 1, rounds: int = 5, **shape: Any
) -> dict[str, Any]:
    """:func:`medfm.bench.ct.bench_ct` on ``patients`` phantoms of ``spacing`` mm, in a temporary folder (``TMPDIR`` chooses
    where) that is removed. ``shape``: as there."""
    with tempfile.TemporaryDirectory(prefix="medfm-bench-") as folder:
        table = write_corpus("ct", patients, Path(folder) / "site", spacing=spacing)
        modality = CT(spacing=(spacing,) * 3)
        store = ingest_volumes(Manifest.from_table(table), modality, Path(folder) / "store")

        def batches(spec: ViewSpec, batch: int) -> Iterator[Batch]:
            return iter(
                VolumeBatches(
                    Mixture([store]),
                    modality,
                    batch,
                    size=spec.size,
                    views=spec.views,
                    place=spec.place,
                    stop=1 << 30,
                )
            )

        found = bench_ct(
            batches,
            Path(folder) / "site" / "records",
            threads=threads,
            rounds=rounds,
            spacing=(spacing,) * 3,
            **shape,
        )
        voxels = [" x ".join(map(str, s)) for s in store.shapes.tolist()]
    return {**found, "volumes": patients, "voxels": voxels}
