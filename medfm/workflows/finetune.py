"""Fine-tuning, composed: a table and a backbone in; out-of-fold results, report and a deployable bundle out.

Two arms run on the same patient folds: the backbone, and the same architecture at random initialisation. A
finished fold is one file in ``checkpoints/``; an interrupted run takes up with the next one.
"""

from __future__ import annotations

import hashlib
import json

from medfm.config.load import dump_yaml, resolve_saved
from medfm.config.run import FinetuneConfig
from medfm.data.codes import site_codes
from medfm.types import ConfigError
from medfm.workflows.finetune_folds import cross_validate
from medfm.workflows.finetune_report import finish
from medfm.workflows.finetune_run import FineTuning, open_run, plan_run
from medfm.workflows.run_folder import MARK, Run, RunFolder


def finetune(
    config: FinetuneConfig, *, resume: bool = False, overwrite: bool = False, progress: bool = True
) -> Run:
    """Run a resolved configuration.

    Raises :class:`ConfigError` for an existing folder or a wrong setting, :class:`MedfmError` for a table
    from which no honest result can come. Ctrl-C keeps the finished folds for ``resume=True``.
    """
    plan = plan_run(config)
    site_codes()  # a key that cannot be read is no surprise for after the training
    folder = RunFolder.create(
        config.output.dir or f"medfm-{default_name(config)}", overwrite=overwrite, resume=resume
    )
    with folder.logging() as log:
        if folder.resumed:
            folder.same_settings(resolve_saved(folder.path / MARK, FinetuneConfig), config)
        run = open_run(config, plan, folder, log, progress)
        if not folder.resumed:
            folder.write_config(dump_yaml(config))
            folder.write_environment()
            folder.write_citations([config.finetune.strategy.name])
        _fingerprint(run, folder.resumed)
        for arm in run.arms:
            cross_validate(run, arm)
        return finish(run)


def default_name(config: FinetuneConfig) -> str:
    """``finetune-afib-lp-ft``: the targets and the strategy."""
    if config.name:
        return config.name
    targets = "-".join(config.finetune.target[:3]) or "target"
    plain = "".join(c if c.isalnum() or c in "._-" else "-" for c in targets.lower())
    return f"finetune-{plain}-{config.finetune.strategy.name}"


def _fingerprint(run: FineTuning, resume: bool) -> None:
    """Folds finished before belong to these labels, patients and weights, or they are of no use."""
    digest = hashlib.sha256()
    for part in (
        run.cohort.y.tobytes(),
        "\n".join(run.cohort.records).encode(),
        "\n".join(run.cohort.patients).encode(),
    ):
        digest.update(part)
    digest.update(run.bundle.weights_sha256.encode())
    now = {"hmac": site_codes().digest(digest.hexdigest())}
    path = run.folder.path / "checkpoints" / "inputs.json"
    if resume and path.is_file() and json.loads(path.read_text(encoding="utf-8")) != now:
        raise ConfigError(
            "--resume: the table, its files, the backbone or the site's key have changed since; start anew with --overwrite."
        )
    path.write_text(json.dumps(now) + "\n", encoding="utf-8")
