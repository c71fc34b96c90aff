"""The typed run configurations. Order: code defaults < recipe < preset < ``--config`` < flags < ``key=value``."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from medfm.config.backbones import BACKBONES
from medfm.config.base import Entry, Settings
from medfm.config.methods import METHODS
from medfm.config.modalities import MODALITIES
from medfm.config.segmentation import SegmentationSettings, mask_defaults
from medfm.config.strategies import STRATEGIES


def _resolve(table: dict[str, Entry], value: Any, default: str, kind: str) -> Settings:
    """A mapping with a ``name`` (or a bare name) becomes the typed settings that the table holds for it."""
    if isinstance(value, Settings):
        return value
    data = {"name": value} if isinstance(value, str) else dict(value or {})
    name = data.setdefault("name", default)
    if name not in table:
        raise ValueError(f"unknown {kind} {name!r}; known: {', '.join(table)}")
    return table[name].settings(**data)


class SyntheticSettings(Settings):
    """The embedded corpus used without ``--data``."""

    patients: int = Field(2000, gt=0)
    records_per_patient: int = Field(1, gt=0)
    seed: int = 1


class StoreSettings(Settings):
    """Where decoded records are kept, and how many readers fill it."""

    store: str | None = Field(None, description="ingest store folder; default under the user's cache")
    ingest_workers: int = Field(1, description="parallel readers at ingest (joblib; -1 for all cores)")


class DataSettings(StoreSettings):
    sources: list[str] = Field(
        default_factory=list,
        description="PATH, TABLE, DATASET or DATASET=PATH, each with an optional @WEIGHT",
    )
    workers: int = Field(0, ge=0, description="loader processes; 0 loads in the training process")
    patient: str | None = Field(
        "patient_id", description="patient column; null is a loud choice: every record its own patient"
    )
    synthetic: SyntheticSettings = Field(default_factory=lambda: SyntheticSettings())
    reduce: Literal["auto", "none", "hash"] = Field(
        "auto",
        description="leave out pictures that repeat others (medfm data dedup); auto: for contrastive methods alone",
    )


class OptimSettings(Settings):
    """AdamW and its schedules (defaults: ECG-JEPA)."""

    lr: float = Field(1e-3, gt=0)
    lr_start: float = Field(1e-6, ge=0)
    lr_end: float = Field(1e-6, ge=0)
    betas: tuple[float, float] = (0.9, 0.99)
    eps: float = 1e-6
    weight_decay: float = Field(0.01, ge=0)
    weight_decay_end: float = Field(0.1, ge=0)
    schedule: Literal["cosine", "rex", "wsd", "infinite"] = "cosine"
    warmup: float = Field(0.1, ge=0, le=1, description="share of the steps spent warming up")
    cooldown: float = Field(
        0.2, ge=0, le=1, description="share of the steps of wsd's decay and infinite's anneal"
    )
    constant_lr: float | None = Field(
        None, gt=0, description="plateau of the infinite schedule; None: a third of lr"
    )
    cooldown_from: int | None = Field(
        None,
        gt=0,
        description="branch of a wsd or infinite trunk: first step of the decay, which ends with the run",
    )


class ComputeSettings(Settings):
    """What a run computes on."""

    precision: Literal["auto", "32", "bf16-mixed", "16-mixed"] = "auto"
    accelerator: str = "auto"
    threads: int | None = Field(
        None, description="torch CPU threads; None: measured, one unless more are clearly faster"
    )


class TrainerSettings(ComputeSettings):
    steps: int = Field(100_000, gt=0)
    max_seconds: float | None = Field(
        None,
        gt=0,
        description="on a CPU, no more steps than fit into this long; the steps are saved in its place",
    )
    batch_size: int = Field(64, gt=0)
    accumulate: int = Field(1, gt=0)
    compile: bool | Literal["auto"] = "auto"
    deterministic: bool = False
    devices: int | Literal["auto"] = "auto"
    num_nodes: int = Field(1, gt=0)
    log_every: int = Field(10, gt=0)
    checkpoint_every: int = Field(500, gt=0, description="steps between checkpoints for --resume")
    grad_clip: float = Field(0.0, ge=0)
    branch_from: str | None = Field(
        None,
        description="run folder of a wsd or infinite trunk, whose last checkpoint this run cools down from",
    )


class ProbeSettings(Settings):
    """The online probe: a fixed labelled set whose patients never overlap training."""

    data: str | None = Field(
        None, description="TABLE; null: a synthetic corpus of another seed when training on one"
    )
    target: str | None = None
    patients: int = Field(600, ge=0, description="synthetic probe patients; 0 is off")
    every: int | None = Field(None, description="steps between probes; None: start and end only")


class OutputSettings(Settings):
    dir: str | None = Field(None, description="run folder; default ./medfm-<name>")
    publish: bool = Field(True, description="put the bundle into the local hub")
    dtype: Literal["float32", "float16"] = Field(
        "float32",
        description="of the weights in the bundle; float16 halves the file, networks compute in float32",
    )


class RunConfig(Settings):
    """A pretraining run. Saved resolved as ``config.yaml`` and rerunnable with ``--config``."""

    version: Literal[1] = 1
    name: str | None = Field(
        None, description="catalogue id of the backbone; default from modality, method, size and data"
    )
    seed: int = 0
    modality: Any = Field(default_factory=dict)
    data: DataSettings = Field(default_factory=lambda: DataSettings())
    backbone: Any = Field(default_factory=dict)
    method: Any = Field(default_factory=dict)
    optim: OptimSettings = Field(default_factory=lambda: OptimSettings())
    trainer: TrainerSettings = Field(default_factory=lambda: TrainerSettings())
    probe: ProbeSettings = Field(default_factory=lambda: ProbeSettings())
    output: OutputSettings = Field(default_factory=lambda: OutputSettings())
    init: str | None = Field(None, description="REF to start from (continued pretraining)")

    @field_validator("modality", mode="before")
    @classmethod
    def _modality(cls, value: Any) -> Settings:
        return _resolve(MODALITIES, value, "ecg", "modality")

    @field_validator("backbone", mode="before")
    @classmethod
    def _backbone(cls, value: Any) -> Settings:
        return _resolve(BACKBONES, value, "vit", "backbone")

    @field_validator("method", mode="before")
    @classmethod
    def _method(cls, value: Any) -> Settings:
        return _resolve(METHODS, value, "ecg_jepa", "method")

    @model_validator(mode="after")
    def _batches(self) -> RunConfig:
        refuse = getattr(self.method, "refuse", None)
        if problem := refuse(self.trainer.batch_size) if refuse else "":
            raise ValueError(problem)
        return self

    @model_validator(mode="before")
    @classmethod
    def _defaults(cls, data: Any) -> Any:
        return {"modality": {}, "backbone": {}, "method": {}, **data} if isinstance(data, dict) else data


class FinetuneSettings(SegmentationSettings):
    """The question, and how it is answered honestly."""

    table: str | None = None
    backbone: str | None = Field(
        None, description="REF; the random-initialisation baseline uses the same architecture"
    )
    target: list[str] = Field(default_factory=list)
    task: Literal["auto", "binary", "multiclass", "multilabel", "regression", "survival", "segmentation"] = (
        "auto"
    )
    intervals: int = Field(
        10,
        ge=1,
        description="survival: intervals of follow-up with a hazard each; fewer where events are few",
    )
    horizon: float | None = Field(
        None,
        gt=0,
        description="survival: time at which chances are told and judged; null: the median event time in training",
    )
    strategy: Any = Field(default_factory=lambda: STRATEGIES["lp-ft"].settings())
    patient: str | None = Field(
        "patient_id", description="patient column; null is a loud choice that marks every result"
    )
    group: str | None = Field(None, description="column whose values are folds (leave-one-site-out)")
    folds: int = Field(5, ge=2)
    repeats: int | Literal["auto"] = "auto"
    inner_folds: int = Field(3, ge=2)
    batch_size: int = Field(32, gt=0)
    crop_seconds: float | None = Field(None, gt=0, description="random training crop; None: the whole window")
    augment: tuple[str, ...] = Field((), description="the modality's label-safe augmentations, by name")
    mix: Literal["none", "cutmix", "mixup"] = Field(
        "none", description="a box, or all, of another record in each, its target mixed likewise"
    )
    mix_probability: float = Field(0.5, gt=0, le=1, description="share of the batches that are mixed")
    mix_alpha: float = Field(1.0, gt=0, description="of the Beta distribution of the shares")
    label_kinds: dict[str, tuple[str, ...]] = Field(
        default_factory=dict,
        description="what a target says (presence, location, laterality, size, ...), where its name does not tell",
    )
    augment_anyway: bool = Field(
        False, description="use augmentations that may falsify a target, with a warning"
    )
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="share of a target that is spread evenly")
    balance: Literal["none", "sampling"] = Field(
        "none",
        description="draw all classes equally often; probabilities are brought back to the prevalence",
    )
    baseline: bool = Field(True, description="random initialisation on the same folds")
    patterns: Literal["none", "auto", "all"] = Field(
        "auto",
        description="MRI: test without some of the sequences too; auto: without each, and with each alone",
    )
    pattern_models: bool = Field(
        False, description="MRI: beside it, train a model for each of these patterns alone (slow)"
    )
    drop_sequence: float = Field(
        0.25,
        ge=0,
        le=1,
        description="MRI: share of the training examples that lose some of their sequences; linear-probe reads all once",
    )
    bootstrap: int = Field(1000, ge=0)
    worst: int = Field(
        6, ge=0, le=100, description="worst errors in the report, as pictures of the records; 0 is off"
    )

    @field_validator("strategy", mode="before")
    @classmethod
    def _strategy(cls, value: Any) -> Settings:
        return _resolve(STRATEGIES, value, "lp-ft", "strategy")

    @model_validator(mode="after")
    def _masks(self) -> FinetuneSettings:
        if self.task == "segmentation":
            mask_defaults(self)
        return self


class FinetuneConfig(Settings):
    """A fine-tuning run."""

    version: Literal[1] = 1
    name: str | None = None
    seed: int = 0
    finetune: FinetuneSettings = Field(default_factory=lambda: FinetuneSettings.model_validate({}))
    data: StoreSettings = Field(default_factory=lambda: StoreSettings())
    trainer: ComputeSettings = Field(default_factory=lambda: ComputeSettings())
    output: OutputSettings = Field(default_factory=lambda: OutputSettings())
