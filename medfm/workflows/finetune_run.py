"""The pieces of a fine-tuning run: backbone, records, task, patient folds, and the problem that each arm
poses."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from medfm.backbones.base import Backbone, build
from medfm.config.run import FinetuneConfig
from medfm.config.strategies import STRATEGIES, TrainedSettings
from medfm.data.codes import site_codes
from medfm.data.splits import group_folds, patient_folds, repeats_auto
from medfm.finetuning.fit import Problem
from medfm.finetuning.objective import Objective
from medfm.finetuning.records import embeddings
from medfm.finetuning.strategies.base import Strategy
from medfm.finetuning.survival import Survival
from medfm.hub.bundle import Bundle, load_bundle
from medfm.hub.resolve import resolve
from medfm.types import ConfigError, MedfmError
from medfm.workflows.cohort import Cohort, Labels, open_cohort, read_labels
from medfm.workflows.kinds import kind_of
from medfm.workflows.label_kinds import check_training
from medfm.workflows.patterns import KeptRecords, check_patterns, has_sequences
from medfm.workflows.progress import progress as progress_bar
from medfm.workflows.run_folder import RunFolder

PRETRAINED, RANDOM = "pretrained", "random"


@dataclass(frozen=True)
class Fold:
    """``test`` rows of the cohort; ``number`` counts within the repeat, from 0."""

    repeat: int
    number: int
    name: str
    test: np.ndarray

    def seed(self, base: int) -> int:
        return base * 10_000 + self.repeat * 100 + self.number


@dataclass
class FineTuning:
    """One run's pieces, made in order."""

    config: FinetuneConfig
    folder: RunFolder
    log: logging.Logger
    show: bool
    bundle: Bundle
    modality: Any
    cohort: Cohort
    records: Any
    folds: list[Fold]
    repeats: int
    device: torch.device
    seconds: dict[str, float] = field(default_factory=dict)
    predicted: dict[str, np.ndarray] = field(default_factory=dict)
    patterned: dict[str, np.ndarray] = field(default_factory=dict)
    fits: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    trainable: int = 0
    parameters: int = 0

    @property
    def arms(self) -> list[str]:
        return [PRETRAINED, RANDOM] if self.config.finetune.baseline else [PRETRAINED]

    @property
    def fold_of(self) -> np.ndarray:
        """``[R, n]``: the test fold of each record in each repeat."""
        table = np.full((self.repeats, len(self.cohort.y)), -1)
        for fold in self.folds:
            table[fold.repeat, fold.test] = fold.number
        return table

    def strategy(self) -> Strategy:
        settings = self.config.finetune.strategy
        return STRATEGIES[settings.name].load()(settings)

    def inner(self, rows: np.ndarray, seed: int) -> list[np.ndarray]:
        """Inner patient folds of training ``rows``, as positions in them."""
        patients, wanted = self.cohort.patients[rows], self.config.finetune.inner_folds
        count = min(wanted, len(set(patients.tolist())))
        if count < 2:
            raise MedfmError("a training fold has one patient only; bring more patients, or use fewer folds.")
        y, kind = self.cohort.task.strata(self.cohort.y[rows])
        return patient_folds(y, patients, count, seed, kind, strict=False)


@dataclass(frozen=True)
class Plan:
    """What can be checked before a folder is touched or a record is read."""

    labels: Labels
    bundle: Bundle
    modality: Any
    window: int
    device: torch.device


def plan_run(config: FinetuneConfig) -> Plan:
    """Table, targets, backbone and device; a wrong one ends here, with nothing written and nothing
    overwritten."""
    settings = config.finetune
    assert settings.table and settings.backbone
    device = choose_device(config.trainer.accelerator)
    labels = read_labels(
        settings.table,
        settings.target,
        kind=settings.task,
        patient=settings.patient,
        folds=2 if settings.group else settings.folds,
    )
    if settings.group and settings.group not in labels.manifest.frame:
        raise MedfmError(f"{settings.table}: no column {settings.group!r} for finetune.group.")
    bundle = load_bundle(resolve(settings.backbone))
    modality = bundle.modality()
    window = kind_of(modality).reading.window(modality, settings.crop_seconds)
    refuse_survival_settings(settings, labels.task.kind)
    check_patterns(settings, modality)
    labels.notes += check_training(settings, modality, labels.task)
    strategy = STRATEGIES[settings.strategy.name].load()(settings.strategy)
    strategy.check(build(bundle.config["backbone"]))
    return Plan(labels, bundle, modality, window, device)


def refuse_survival_settings(settings: Any, kind: str) -> None:
    """Raise :class:`ConfigError` where a task of another kind was given settings for survival."""
    plain = type(settings).model_fields
    given = [n for n in ("horizon", "intervals") if getattr(settings, n) != plain[n].default]
    if given and kind != "survival":
        raise ConfigError(
            f"{', '.join(f'finetune.{n}' for n in given)}: only for --task survival, this is {kind}; leave it out."
        )


def open_run(
    config: FinetuneConfig, plan: Plan, folder: RunFolder, log: logging.Logger, show: bool
) -> FineTuning:
    """Read the records and make the folds."""
    settings = config.finetune
    if config.trainer.threads:
        torch.set_num_threads(config.trainer.threads)
    cohort = open_cohort(
        plan.labels,
        plan.modality,
        store=Path(config.data.store) if config.data.store else None,
        jobs=config.data.ingest_workers,
        log=log,
        show=show,
    )
    folds, repeats = make_folds(config, cohort)
    state_task(cohort, [f.test for f in folds], settings.horizon, settings.intervals)
    log.info(
        "%s task, %d outputs; %d records of %d patients; %s on %s; %d repeat(s) of %d folds",
        cohort.task.kind,
        cohort.task.outputs,
        len(cohort.y),
        len(set(cohort.patients.tolist())),
        settings.strategy.name,
        settings.backbone,
        repeats,
        len(folds) // repeats,
    )
    return FineTuning(
        config=config,
        folder=folder,
        log=log,
        show=show,
        bundle=plan.bundle,
        modality=plan.modality,
        cohort=cohort,
        records=kind_of(plan.modality).reading.records(
            cohort.store, plan.modality, plan.window, settings.augment
        ),
        folds=folds,
        repeats=repeats,
        device=plan.device,
    )


def choose_device(accelerator: str) -> torch.device:
    if accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available():
        return torch.device("cuda")
    if accelerator in ("gpu", "cuda"):
        raise ConfigError(
            f"trainer.accelerator={accelerator}, but torch finds no GPU; use trainer.accelerator=cpu."
        )
    return torch.device("cpu")


def make_folds(config: FinetuneConfig, cohort: Cohort) -> tuple[list[Fold], int]:
    """Patient folds for each repeat, or one fold a value of ``finetune.group``."""
    settings = config.finetune
    if settings.group:
        groups = group_folds(cohort.frame[settings.group].tolist(), cohort.patients)
        codes = cohort.codes_for(settings.group)  # one patient left out is not named by a fold
        names = list(groups) if codes is None else [codes[rows[0]] for rows in groups.values()]
        return [Fold(0, i, *named) for i, named in enumerate(zip(names, groups.values()))], 1
    repeats = settings.repeats
    if repeats == "auto":
        # A probe costs milliseconds a fold; training costs minutes, so that more repeats must be asked for.
        trains = STRATEGIES[settings.strategy.name].load()(settings.strategy).epochs > 0
        repeats = 1 if trains else repeats_auto(len(set(cohort.patients.tolist())))
    folds = []
    for repeat in range(int(repeats)):
        parts = outer_folds(cohort, settings.folds, config.seed + repeat, strict=repeat == 0)
        folds += [Fold(repeat, i, str(i + 1), rows) for i, rows in enumerate(parts)]
    return folds, int(repeats)


def outer_folds(cohort: Cohort, folds: int, seed: int, strict: bool) -> list[np.ndarray]:
    """Test rows of patient folds with as many of each class (of a value: each quarter; of survival: events) as can be.

    ``strict`` is about classes: what a fold lacks of the others is said with the results.
    """
    task = cohort.task
    y, kind = task.strata(cohort.y)
    strict = strict and task.kind not in ("regression", "survival")
    return patient_folds(y, cohort.patients, folds, seed, kind, targets=task.classes, strict=strict)


def state_task(cohort: Cohort, tests: Sequence[np.ndarray], horizon: float | None, intervals: int) -> None:
    """Survival alone: the horizon and the limit that all folds share, from the training rows of each."""
    if isinstance(cohort.task, Survival):
        trains = [np.setdiff1d(np.arange(len(cohort.y)), rows) for rows in tests]
        cohort.task = cohort.task.stated(cohort.y, trains, horizon, intervals)
        how = "as asked" if horizon else "the median over the training folds of their median event time"
        cohort.notes.append(
            f"Horizon {cohort.task.horizon:g} ({how}); follow-up is looked at until {cohort.task.limit:g}. Both are in the unit "
            f"of {cohort.task.columns[0]!r}."
        )


def backbone_of(run: FineTuning, arm: str) -> Backbone:
    """The pretrained network, or the same architecture with freshly drawn weights."""
    if arm == PRETRAINED:
        return run.bundle.build().to(run.device)
    torch.manual_seed(run.config.seed)
    return build(run.bundle.config["backbone"]).eval().to(run.device)


def step_settings(config: FinetuneConfig) -> dict[str, Any]:
    """What a training step did to records and labels: nothing for a strategy that takes none."""
    settings = config.finetune
    if not isinstance(settings.strategy, TrainedSettings):
        return {}
    names = ["augment", "mix", *(("mix_probability", "mix_alpha") if settings.mix != "none" else ())]
    return {k: getattr(settings, k) for k in (*names, "label_smoothing", "balance", "batch_size")}


def make_problem(run: FineTuning, backbone: Backbone, label: str) -> Problem:
    """Embeds every record once (frozen, without labels: nothing of a test fold leaks) for all folds."""
    rows, batch = np.arange(len(run.cohort.y)), run.config.finetune.batch_size
    pooling = run.config.finetune.strategy.pool
    with progress_bar(run.show, f"embedding ({label})", len(rows), "records") as bar:
        z = embeddings(
            backbone, run.records, rows, pooling=pooling, batch_size=2 * batch, progress=bar.update
        )
    autocast = run.device.type == "cuda" and run.config.trainer.precision in ("auto", "bf16-mixed")
    s = run.config.finetune
    objective = Objective(s.mix, s.mix_probability, s.mix_alpha, s.label_smoothing, s.balance)
    records = run.records
    if has_sequences(run.modality) and s.drop_sequence:
        records = KeptRecords(records, drop=s.drop_sequence)
    data = (run.cohort.task, records, run.cohort.y, z)
    return Problem(*data, backbone, run.strategy, batch, autocast, objective)


def default_name(config: FinetuneConfig) -> str:
    """``finetune-afib-lp-ft``: the targets and the strategy."""
    if config.name:
        return config.name
    targets = "-".join(config.finetune.target[:3]) or "target"
    plain = "".join(c if c.isalnum() or c in "._-" else "-" for c in targets.lower())
    return f"finetune-{plain}-{config.finetune.strategy.name}"


def fingerprint(run: FineTuning, resume: bool, more: bytes = b"") -> None:
    """Folds finished before belong to these labels, patients and weights, or they are of no use."""
    digest = hashlib.sha256()
    for part in (
        run.cohort.y.tobytes(),
        "\n".join(run.cohort.records).encode(),
        "\n".join(run.cohort.patients).encode(),
        more,
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
