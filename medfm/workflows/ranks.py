"""The processes of a distributed run (``--devices``, ``--num-nodes``): the first one prepares, writes and reports, the
others take its settled configuration and follow it through training.

Lightning starts the other processes of a node itself, when training begins, by running the same command again; torchrun
and SLURM start all of them at once.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping
from pathlib import Path

from medfm.config.run import RunConfig
from medfm.types import ConfigError, MedfmError
from medfm.workflows.run_folder import MARK

POSITIONS = ("RANK", "SLURM_PROCID", "NODE_RANK", "LOCAL_RANK")  # set by torchrun, srun, and Lightning
PATIENCE = 24 * 3600.0  # s; ingesting a large archive comes before training


def is_first(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether this is the process that writes. Outside a distributed run it is."""
    return not any(int(environment.get(name) or 0) for name in POSITIONS)


def check_launch(config: RunConfig, overwrite: bool, environment: Mapping[str, str] = os.environ) -> None:
    """Refuse ``--overwrite`` where processes start on their own: one could read the old run before it is gone."""
    if overwrite and (config.trainer.num_nodes > 1 or "TORCHELASTIC_RUN_ID" in environment):
        raise ConfigError(
            "--overwrite is not for a run on several nodes or under torchrun: choose a new --output."
        )


def await_first(path: Path, patience: float = PATIENCE) -> logging.Logger:
    """Wait until the first process has settled the configuration of the run in ``path``; a logger for warnings only."""
    waited = time.monotonic()
    while not (path / MARK).is_file():
        if time.monotonic() - waited > patience:
            raise MedfmError(
                f"{path / MARK} did not appear: the first process of this run has not started, or stopped. See its log."
            )
        time.sleep(0.5)
    logger = logging.getLogger("medfm.follower")
    logger.setLevel(logging.WARNING)
    return logger
