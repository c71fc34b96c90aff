"""Converters of official checkpoints, one module each: ``convert(checkpoint) -> ConvertedBackbone``."""

from __future__ import annotations

CONVERTERS: dict[str, str] = {
    "bm-mae": "medfm.hub.convert.bm_mae:convert",
    "ecg-jepa": "medfm.hub.convert.ecg_jepa:convert",
    "medical-mae": "medfm.hub.convert.medical_mae:convert",
    "pct-net": "medfm.hub.convert.pct_net:convert",
    "torchxrayvision": "medfm.hub.convert.torchxrayvision:convert",
    "voco": "medfm.hub.convert.voco:convert",
}
