"""medfm: foundation models for medical images and biosignals.

Nothing heavy is imported here; every public name loads its room on first use. Research use, not a medical device.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_PUBLIC = {
    "pretrain": "medfm.workflows.api",
    "finetune": "medfm.workflows.api",
    "probe": "medfm.workflows.api",
    "embed": "medfm.workflows.api",
    "predict": "medfm.workflows.api",
    "reconstruct": "medfm.workflows.api",
    "dedup": "medfm.workflows.api",
    "slices": "medfm.workflows.api",
    "load": "medfm.model",
    "Model": "medfm.model",
    "list_models": "medfm.hub.catalog",
}
__all__ = ["__version__", *sorted(_PUBLIC)]

if TYPE_CHECKING:
    from medfm.hub.catalog import list_models as list_models
    from medfm.model import Model as Model
    from medfm.model import load as load
    from medfm.workflows.api import dedup as dedup
    from medfm.workflows.api import embed as embed
    from medfm.workflows.api import finetune as finetune
    from medfm.workflows.api import predict as predict
    from medfm.workflows.api import pretrain as pretrain
    from medfm.workflows.api import probe as probe
    from medfm.workflows.api import reconstruct as reconstruct
    from medfm.workflows.api import slices as slices


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'medfm' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
