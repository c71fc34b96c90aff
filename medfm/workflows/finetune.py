"""Fine-tuning, composed: a table and a backbone in; out-of-fold results, report and a deployable bundle out.

Two arms run on the same patient folds: the backbone, and the same architecture at random initialisation. A
finished fold is one file in ``checkpoints/``; an interrupted run takes up with the next one.
"""

from __future__ import annotations

from medfm.config.load import dump_yaml, resolve_saved
from medfm.config.run import FinetuneConfig
from medfm.data.codes import site_codes
from medfm.workflows.finetune_folds import cross_validate
from medfm.workflows.finetune_report import finish
from medfm.workflows.finetune_run import default_name, fingerprint, open_run, plan_run
from medfm.workflows.run_folder import MARK, Run, RunFolder
from medfm.workflows.segment import segment
from medfm.workflows.segment_run import is_segmentation, refuse_mask_settings


def finetune(
    config: FinetuneConfig, *, resume: bool = False, overwrite: bool = False, progress: bool = True
) -> Run:
    """Run a resolved configuration.

    Raises :class:`ConfigError` for an existing folder or a wrong setting, :class:`MedfmError` for a table
    from which no honest result can come. Ctrl-C keeps the finished folds for ``resume=True``.
    """
    if is_segmentation(config):
        return segment(config, resume=resume, overwrite=overwrite, progress=progress)
    refuse_mask_settings(config.finetune)
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
        fingerprint(run, folder.resumed)
        for arm in run.arms:
            cross_validate(run, arm)
        return finish(run)
