"""The pieces of a fine-tuning that draws masks: table and masks, classes, patient folds, and the problem that each arm poses."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from medfm.config.run import FinetuneConfig, FinetuneSettings
from medfm.config.segmentation import changed
from medfm.config.strategies import STRATEGIES, StrategySettings
from medfm.data.manifest import Manifest
from medfm.data.splits import patient_folds
from medfm.data.tables import read_table
from medfm.evaluation.segmentation import Measures
from medfm.finetuning.patches import Places
from medfm.finetuning.segmentation import dense_backbone
from medfm.finetuning.segmentation_fit import DenseProblem
from medfm.finetuning.task import Task
from medfm.hub.bundle import load_bundle
from medfm.hub.resolve import resolve
from medfm.types import ConfigError, MedfmError
from medfm.workflows.cohort import NO_PATIENTS, Cohort, patient_column
from medfm.workflows.finetune_run import FineTuning, Fold, backbone_of, choose_device, make_folds
from medfm.workflows.gather import tell_set_aside
from medfm.workflows.kinds import kind_of
from medfm.workflows.label_kinds import DEFAULT, check_training
from medfm.workflows.patterns import KeptVolumes, check_patterns, has_sequences
from medfm.workflows.progress import progress as progress_bar
from medfm.workflows.run_folder import RunFolder
from medfm.workflows.segment_volumes import Classes, StoreVolumes, find_classes, is_mask_column

SELECT_FROM = 10  # patients in a training fold, from which the number of steps is chosen on some of them


@dataclass
class Segmenting(FineTuning):
    """A run's pieces. ``records`` is a :class:`StoreVolumes`; measures of each arm ``[n, K]`` on the files' own grids, marks
    ``[marks, n, K]`` Dice on the model's grid; patterned ``[P, n, K]`` likewise, with fewer sequences."""

    masks: list[str] = field(default_factory=list)
    places: Places = field(default_factory=lambda: Places(0))
    tolerances: tuple[float, ...] = ()
    measures: dict[str, Measures] = field(default_factory=dict)
    marks: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def classes(self) -> Classes:
        return cast(StoreVolumes, self.records).classes

    @property
    def measured(self) -> tuple[str, ...]:
        """Names of what is measured: regions where there are any, else the classes."""
        return tuple(self.config.finetune.regions) or self.classes.names

    @property
    def members(self) -> list[tuple[int, ...]]:
        """Classes (1 to K) of each."""
        names, regions = self.classes.names, self.config.finetune.regions
        chosen = regions or {name: (name,) for name in names}
        return [tuple(names.index(one) + 1 for one in members) for members in chosen.values()]

    @property
    def patch(self) -> tuple[int, ...]:
        return tuple(self.config.finetune.patch or self.modality.size)

    @property
    def mark_steps(self) -> list[int]:
        """Listed ones and the last, where there are any."""
        settings = self.config.finetune
        return sorted({*settings.marks, settings.steps}) if settings.marks else []

    def inner(self, rows: np.ndarray, seed: int) -> list[np.ndarray]:
        """Inner patient folds of training ``rows``, as positions in them."""
        patients = self.cohort.patients[rows]
        count = min(self.config.finetune.inner_folds, len(set(patients.tolist())))
        if count < 2:
            raise MedfmError(
                "a training fold has one patient only; bring more patients, or set finetune.select=never."
            )
        return patient_folds(self.cohort.y[rows], patients, count, seed, "multilabel", strict=False)

    def selects(self, rows: np.ndarray) -> bool:
        """Whether the number of steps is chosen on inner patients of these training rows."""
        how = self.config.finetune.select
        if self.config.finetune.marks or how == "never":
            return False
        return how == "always" or len(set(self.cohort.patients[rows].tolist())) >= SELECT_FROM


@dataclass(frozen=True)
class MaskPlan:
    """What can be checked before a folder is touched or a volume is read."""

    manifest: Manifest
    masks: list[str]
    rows_in_table: int
    bundle: Any
    modality: Any
    device: torch.device
    notes: list[str]


def is_segmentation(config: FinetuneConfig) -> bool:
    """Asked for, or (task auto) one target whose cells are names of volume files."""
    settings = config.finetune
    if settings.task != "auto":
        return settings.task == "segmentation"
    if len(settings.target) != 1 or not settings.table or not Path(settings.table).is_file():
        return False
    frame = read_table(settings.table)
    return settings.target[0] in frame and is_mask_column(frame[settings.target[0]].tolist())


def for_masks(config: FinetuneConfig) -> FinetuneConfig:
    """The configuration with the task named, and with the defaults that it has for masks."""
    if config.finetune.task == "segmentation":
        return config
    given = config.finetune.model_dump(exclude_unset=True)
    settings = FinetuneSettings.model_validate({**given, "task": "segmentation"})
    return config.model_copy(update={"finetune": settings})


def refuse_mask_settings(settings: FinetuneSettings) -> None:
    """Raise :class:`ConfigError` where a task of another kind was given settings for masks."""
    if names := changed(settings):
        raise ConfigError(
            f"{', '.join(names)}: only for --task segmentation, whose target column names masks; leave it out."
        )


def refuse_other_settings(settings: FinetuneSettings) -> None:
    """Raise :class:`ConfigError` for settings that say nothing about masks."""
    plain, strategy = FinetuneSettings(), settings.strategy
    wrong = [
        f"finetune.{n}"
        for n in ("crop_seconds", "mix", "label_smoothing", "balance")
        if getattr(settings, n) != getattr(plain, n)
    ]
    wrong += [
        f"finetune.strategy.{n}"
        for n in ("pool", "strengths")
        if getattr(strategy, n) != StrategySettings.model_fields[n].default
    ]
    if wrong:
        raise ConfigError(f"{', '.join(wrong)}: not for --task segmentation; leave it out.")
    if settings.repeats not in ("auto", 1):
        raise ConfigError("finetune.repeats: masks are cross-validated once; set finetune.repeats=1.")
    if late := [m for m in settings.marks if not 0 < m <= settings.steps]:
        raise ConfigError(
            f"finetune.marks: {late[0]} is not among the steps 1 to {settings.steps} (finetune.steps)."
        )
    if settings.marks and settings.select == "always":
        raise ConfigError(
            "finetune.marks needs all the steps, and finetune.select=always may stop before; choose one."
        )


def plan_masks(config: FinetuneConfig) -> MaskPlan:
    """Table, target, backbone and device; a wrong one ends here, with nothing written and nothing overwritten."""
    settings = config.finetune
    assert settings.table and settings.backbone
    refuse_other_settings(settings)
    device = choose_device(config.trainer.accelerator)
    manifest = Manifest.from_table(settings.table, patient=patient_column(settings.patient))
    total, notes = len(manifest), []
    if len(settings.target) != 1 or settings.target[0] not in manifest.frame:
        columns = ", ".join(map(str, manifest.frame.columns))
        raise ConfigError(
            f"{settings.table}: --target names the one column with the path of each mask; {','.join(settings.target)} is none "
            f"of the columns {columns}."
        )
    cells = manifest.frame[settings.target[0]]
    known = cells.notna() & (cells.astype(str).str.strip() != "")
    if not known.all():
        notes.append(f"{int((~known).sum())} of {total} records have no mask; they are left out.")
        manifest = manifest.take(np.flatnonzero(known))
    if not len(manifest):
        raise MedfmError(f"{settings.table}: no row of {settings.target[0]!r} names a mask.")
    root = Path(settings.table).expanduser().parent.resolve()
    masks = [str(root / str(cell).strip()) for cell in manifest.frame[settings.target[0]]]
    manifest.check()
    if not manifest.patients_known:
        notes.append(NO_PATIENTS)
    if (count := len(set(manifest.patients))) < 2 or (not settings.group and count < settings.folds):
        raise MedfmError(
            f"{count} patients with masks cannot be split into {settings.folds} folds; set finetune.folds={max(2, count)} "
            "or bring more patients."
        )
    if settings.group and settings.group not in manifest.frame:
        raise MedfmError(f"{settings.table}: no column {settings.group!r} for finetune.group.")
    bundle = load_bundle(resolve(settings.backbone))
    modality = bundle.modality()
    if modality.rank != 3:
        raise ConfigError(
            f"{bundle.card.id} reads {kind_of(modality).plural}; masks are drawn in volumes: use a backbone for CT."
        )
    check_patterns(settings, modality)
    notes += check_training(with_kinds(settings), modality, mask_task(settings, ()))
    backbone, fresh = dense_backbone(bundle.build())
    if check := getattr(backbone, "check_size", None):
        check(tuple(settings.patch or modality.size))
    STRATEGIES[settings.strategy.name].load()(settings.strategy).check(backbone)
    if fresh:
        notes.append(
            f"{bundle.card.id} was pretrained without a decoder: one was drawn at random, and learns with the head and at its "
            "rate from the first step."
        )
    return MaskPlan(manifest, masks, total, bundle, modality, device, notes)


def mask_task(settings: FinetuneSettings, classes: tuple[str, ...]) -> Task:
    """What reports, cards and heads say of the task; encoding and loss of a ``Task`` are those of other kinds."""
    return Task("segmentation", tuple(settings.target), classes)  # type: ignore[arg-type]


def with_kinds(settings: FinetuneSettings) -> FinetuneSettings:
    """A mask moves with its volume, so that only what exchanges sides can falsify it; and classes such as left and right
    kidney are the rule, so that it is taken to say sides unless ``label_kinds`` says otherwise."""
    kinds = {settings.target[0]: (DEFAULT, "laterality"), **settings.label_kinds}
    return settings.model_copy(update={"label_kinds": kinds})


def open_masks(
    config: FinetuneConfig, plan: MaskPlan, folder: RunFolder, log: logging.Logger, show: bool
) -> Segmenting:
    """Read the volumes and their masks, find the classes, make the folds."""
    settings = config.finetune
    if config.trainer.threads:
        torch.set_num_threads(config.trainer.threads)
    count = len(plan.manifest)
    with progress_bar(show, "ingesting volumes", count, "volumes") as bar:
        store = kind_of(plan.modality).reading.ingest(
            plan.manifest,
            plan.modality,
            Path(config.data.store) if config.data.store else None,
            config.data.ingest_workers,
            lambda done, _: bar.update(min(done, count)),
            labels=plan.masks,
        )
    kept, notes = np.asarray(store.kept), list(plan.notes)
    aside = tell_set_aside(log, plan.manifest, store.failed)
    if aside:
        rows = ", ".join(str(one["row"]) for one in aside[:5]) + (", ..." if len(aside) > 5 else "")
        notes.append(
            f"{len(aside)} of {count} volumes were set aside: row(s) {rows} of the table, whose header is row 1."
        )
    frame = plan.manifest.frame.iloc[kept].reset_index(drop=True)
    patients, masks = frame["patient"].to_numpy(str), [plan.masks[r] for r in kept]
    with progress_bar(show, "looking at masks", len(store), "volumes") as bar:
        classes, present = find_classes(
            store, settings.classes, settings.other_values, masks, patients.tolist(), bar.update
        )
    check_regions(settings, classes.names)
    for note in notes:
        log.warning("%s", note)
    cohort = Cohort(
        frame=frame,
        rows=plan.manifest.rows[kept],
        task=mask_task(settings, classes.names),
        y=present.astype(float),
        patients=patients,
        store=store,
        source=str(settings.table),
        digest=plan.manifest.digest,
        patients_known=plan.manifest.patients_known,
        rows_in_table=plan.rows_in_table,
        unlabelled=plan.rows_in_table - count,
        set_aside=aside,
        notes=notes,
    )
    volumes = StoreVolumes(store, plan.modality, classes, settings.augment)
    run = Segmenting(
        config=config,
        folder=folder,
        log=log,
        show=show,
        bundle=plan.bundle,
        modality=plan.modality,
        cohort=cohort,
        records=volumes,
        folds=mask_folds(config, cohort),
        repeats=1,
        device=plan.device,
        masks=masks,
        places=Places.find(volumes, len(classes.names), config.seed),
        tolerances=tolerances(settings, tuple(settings.regions) or classes.names),
    )
    log.info(
        "segmentation of %d classes (%s); %d volumes of %d patients; %s on %s, %d steps; %d folds",
        len(classes.names), ", ".join(classes.names[:12]), len(frame), len(set(patients.tolist())),
        settings.strategy.name, settings.backbone, settings.steps, len(run.folds),
    )  # fmt: skip
    return run


def mask_folds(config: FinetuneConfig, cohort: Cohort) -> list[Fold]:
    """Patient folds in which every class is as evenly spread as it can be; or one a value of ``finetune.group``."""
    settings = config.finetune
    if settings.group:
        return make_folds(config, cohort)[0]
    if (count := len(set(cohort.patients.tolist()))) < settings.folds:
        raise MedfmError(
            f"{count} patients could be read, too few for {settings.folds} folds; set finetune.folds={max(2, count)} or bring "
            "more patients."
        )
    parts = patient_folds(cohort.y, cohort.patients, settings.folds, config.seed, "multilabel", strict=False)
    return [Fold(0, i, str(i + 1), rows) for i, rows in enumerate(parts)]


def check_regions(settings: FinetuneSettings, classes: tuple[str, ...]) -> None:
    """Raise :class:`ConfigError` for a region of a class that there is not."""
    for region, members in settings.regions.items():
        if wrong := [m for m in members if m not in classes]:
            raise ConfigError(
                f"finetune.regions: {region} holds {wrong[0]!r}, which is no class; classes: {', '.join(classes)}."
            )


def tolerances(settings: FinetuneSettings, classes: tuple[str, ...]) -> tuple[float, ...]:
    """mm of each class. Raises :class:`ConfigError` for a name that is no class, or a class without a number."""
    given = settings.tolerance
    if not isinstance(given, dict):
        return (float(given),) * len(classes)
    if wrong := sorted(set(given) ^ set(classes)):
        what = "is no class" if wrong[0] in given else "has no tolerance"
        raise ConfigError(f"finetune.tolerance: {wrong[0]!r} {what}; classes: {', '.join(classes)}.")
    return tuple(float(given[name]) for name in classes)


def mask_problem(run: Segmenting, arm: str) -> DenseProblem:
    """The pretrained network, or the same architecture with freshly drawn weights; each with its decoder."""
    settings = run.config.finetune
    torch.manual_seed(run.config.seed)
    backbone, fresh = dense_backbone(backbone_of(run, arm))
    return DenseProblem(
        volumes=KeptVolumes(run.records, drop=settings.drop_sequence)
        if has_sequences(run.modality)
        else run.records,
        places=run.places,
        classes=len(run.classes.names),
        backbone=backbone,
        strategy=run.strategy,
        size=run.patch,
        steps=settings.steps,
        batch_size=settings.batch_size,
        foreground=settings.foreground,
        supervise=settings.supervise,
        background=settings.dice_background,
        head_share=settings.head_share,
        overlap=settings.overlap,
        autocast=run.device.type == "cuda" and run.config.trainer.precision in ("auto", "bf16-mixed"),
        fresh=fresh,
    )
