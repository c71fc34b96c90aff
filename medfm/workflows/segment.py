"""Fine-tuning with masks, composed: a table of volumes and masks and a backbone in; out-of-fold masks, measures, report and a
bundle out, by the same folds, arms and folder as every fine-tuning."""

from __future__ import annotations

from medfm.config.load import dump_yaml, resolve_saved
from medfm.config.run import FinetuneConfig
from medfm.data.codes import site_codes
from medfm.workflows.finetune_run import default_name, fingerprint
from medfm.workflows.run_folder import MARK, Run, RunFolder
from medfm.workflows.segment_folds import cross_validate
from medfm.workflows.segment_report import finish
from medfm.workflows.segment_run import for_masks, open_masks, plan_masks


def segment(
    config: FinetuneConfig, *, resume: bool = False, overwrite: bool = False, progress: bool = True
) -> Run:
    """Run a resolved configuration whose target column names masks.

    Raises :class:`ConfigError` for an existing folder or a wrong setting, :class:`MedfmError` for a table from which no
    honest result can come. Ctrl-C keeps the finished folds for ``resume=True``.
    """
    config = for_masks(config)
    plan = plan_masks(config)
    site_codes()  # a key that cannot be read is no surprise for after the training
    folder = RunFolder.create(
        config.output.dir or f"medfm-{default_name(config)}", overwrite=overwrite, resume=resume
    )
    with folder.logging() as log:
        if folder.resumed:
            folder.same_settings(resolve_saved(folder.path / MARK, FinetuneConfig), config)
        run = open_masks(config, plan, folder, log, progress)
        if not folder.resumed:
            folder.write_config(dump_yaml(config))
            folder.write_environment()
            folder.write_citations([config.finetune.strategy.name])
        fingerprint(run, folder.resumed, run.places.counts.tobytes())  # a mask drawn anew changes its counts
        for arm in run.arms:
            cross_validate(run, arm)
        return finish(run)
