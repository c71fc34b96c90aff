"""CT slices through the workflows on tiny networks: each recipe from phantoms to bundle and report, and a site's volumes."""

from __future__ import annotations

import os

import numpy as np
import pandas as pd
import pytest

from medfm.config.load import resolve_finetune, resolve_pretrain
from medfm.data.manifest import Manifest
from medfm.evaluation.probe import fit_probe
from medfm.hub.bundle import load_bundle
from medfm.modalities.ct import CT
from medfm.modalities.ct_slice import CTSlice
from medfm.synthetic.corpus import write_corpus
from medfm.workflows import callbacks, sources
from medfm.workflows.corpora import ct_slice_store
from medfm.workflows.finetune import finetune
from medfm.workflows.pretrain import pretrain
from medfm.workflows.probe import probe
from medfm.workflows.slices import slices

TINY = [
    "data.synthetic.patients=6",
    "modality.size=[32,32]",
    "modality.spacing=12",
    "modality.every=16",
    "trainer.batch_size=4",
    "trainer.max_seconds=null",
    "trainer.steps=3",
    "trainer.log_every=1",
    "probe.patients=0",
    "output.publish=false",
]
OWN = {
    "spark": ["modality.size=[64,64]", "modality.spacing=6", "method.decoder_dim=16"],
    "moco": ["method.projector=[8,4]", "method.predictor=[8,4]"],
}
