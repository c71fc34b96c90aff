"""Pretraining, composed: configuration in; run folder, bundle, card and report out.

Resuming is exact on one device: batch k, masks, learning rate and momentum are pure functions of the seed and the
step, so the checkpoint needs weights and optimiser state only.
"""

from __future__ import annotations

import logging
import math
import signal
import threading
import time
import warnings
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytorch_lightning as pl
import torch

from medfm.backbones.base import Backbone, build
from medfm.config.backbones import BACKBONES
from medfm.config.load import dump_yaml, resolve_saved
from medfm.config.methods import METHODS
from medfm.config.modalities import MODALITIES
from medfm.config.run import RunConfig
from medfm.data.loader import Mixture, SignalBatches, loader
from medfm.hub.card import check_id
from medfm.types import ConfigError, Truths
from medfm.workflows import callbacks, held_out, ranks, sources
from medfm.workflows import pretrain_cost as cost
from medfm.workflows.kinds import kind_of
from medfm.workflows.pretrain_report import finish
from medfm.workflows.pretrain_run import Pretraining, default_name
from medfm.workflows.progress import progress
from medfm.workflows.run_folder import MARK, Run, RunFolder

STATISTICS_RECORDS = 2000
STATISTICS_VALUES = 1 << 28  # fewer records where they are large: a GiB in memory


def pretrain(
    config: RunConfig, *, resume: bool = False, overwrite: bool = False, progress: bool = True
) -> Run:
    """Run a resolved configuration.

    Raises :class:`ConfigError` for an existing folder or a wrong setting, :class:`MedfmError` when nothing could be
    read or the loss diverged. Ctrl-C leaves the last checkpoint for ``resume=True``. On several devices, the processes
    that are not the first end here when training does.
    """
    ranks.check_launch(config, overwrite)
    if not ranks.is_first():
        _follow(config, resume)
    folder = RunFolder.create(
        config.output.dir or f"medfm-{default_name(config)}", overwrite=overwrite, resume=resume
    )
    with folder.logging() as log:
        if folder.resumed:
            saved = resolve_saved(folder.path / MARK, RunConfig)
            folder.same_settings(saved, config, _found(config))
            config = saved
        run = Pretraining(config, folder, log, progress)
        _prepare(run, folder.resumed)
        _fit(run, folder.resumed)
        return finish(run)


def _found(config: RunConfig) -> list[str]:
    """Settings that a run finds out (statistics, threads, steps that fit into its time) or takes over from its parent."""
    found = ["modality.mean", "modality.std", "trainer.threads", "trainer.max_seconds", "method.truths"]
    if config.trainer.max_seconds:
        found.append("trainer.steps")
    if config.init or config.trainer.branch_from:
        found += ["modality", "backbone", "optim.cooldown_from"]
    return found


def _follow(config: RunConfig, resume: bool) -> NoReturn:
    """Any process of a distributed run but the first: the same training, nothing written, nothing said."""
    path = Path(config.output.dir or f"medfm-{default_name(config)}").expanduser().absolute()
    log = ranks.await_first(path)
    run = Pretraining(resolve_saved(path / MARK, RunConfig), RunFolder(path), log, show=False)
    _prepare(run, resume=True)
    _fit(run, resume)
    raise SystemExit(0)


def _prepare(run: Pretraining, resume: bool) -> None:
    config, log = run.config, run.log
    if config.trainer.threads:
        torch.set_num_threads(config.trainer.threads)
    if config.trainer.branch_from and not resume:
        _branch(run)
    initial = _initial(run) if config.init else None
    run.modality = MODALITIES[config.modality.name].load()(**config.modality.model_dump(exclude={"name"}))
    method_entry = METHODS[config.method.name]
    kind = method_entry.load()
    kind.check(initial or build(_backbone_config(config, run.modality)))
    run.sources = sources.open_sources(config, run.modality, log, run.show, kind.reduction)
    run.name = check_id(default_name(config, run.simulated_only), run.simulated_only)
    if getattr(config.modality, "normalise", "") == "dataset" and config.modality.mean is None:
        run.modality = _fit_statistics(run)
        run.config = config = config.model_copy(update={"modality": _settings(run.modality, config)})
    pl.seed_everything(config.seed, verbose=False)
    backbone = initial if initial is not None else build(_backbone_config(config, run.modality))
    truths = _truths(run)
    make = partial(method_entry.load(), seed=config.seed, truths=truths)
    run.method = make(backbone, config.method, config.optim, config.trainer.steps)
    if not resume:
        cost.settle(run, _batches(run, 0, 1))
    if config.trainer.max_seconds and not resume:
        config.trainer.steps = cost.affordable_steps(run, _batches(run, 0, 1 << 30))
        pl.seed_everything(config.seed, verbose=False)
        backbone = initial if initial is not None else build(_backbone_config(config, run.modality))
        run.method = make(backbone, config.method, config.optim, config.trainer.steps)
        config.trainer.max_seconds = None  # the number of steps now says it, so that resuming is exact
    if not resume:
        run.folder.write_config(dump_yaml(config))
        run.folder.write_environment()
        run.folder.write_citations(
            [
                config.method.name,
                *(kind_of(run.modality).citations if any(s.simulated for s in run.sources) else []),
            ]
        )


def _branch(run: Pretraining) -> None:
    """A cooldown branch: the trunk's step and preprocessing; its checkpoint is loaded when fitting starts."""
    config = run.config
    assert config.trainer.branch_from
    trunk = Path(config.trainer.branch_from).expanduser()
    if config.optim.schedule not in ("wsd", "infinite"):
        raise ConfigError(
            f"optim.schedule={config.optim.schedule} has no trunk to branch from; use wsd or infinite."
        )
    step = int(_checkpoint(trunk / "checkpoints" / "last.ckpt")["global_step"])
    config.optim.cooldown_from = config.optim.cooldown_from or step
    if not step <= config.optim.cooldown_from < config.trainer.steps:
        raise ConfigError(
            f"the trunk stands at step {step}: optim.cooldown_from={config.optim.cooldown_from} must not lie before it, "
            f"nor trainer.steps={config.trainer.steps} before the cooldown."
        )
    config.modality = resolve_saved(trunk / MARK, RunConfig).modality
    config.trainer.max_seconds = None
    run.log.info("branching from step %d of %s", step, trunk)


def _checkpoint(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ConfigError(
            f"{path} does not exist: trainer.branch_from must name a run folder with a checkpoint."
        )
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return state


def _initial(run: Pretraining) -> Backbone:
    """``init``: weights, architecture and preprocessing come from that bundle, as a whole."""
    from medfm.hub.bundle import load_bundle
    from medfm.hub.resolve import public_ref, resolve

    assert run.config.init
    bundle = load_bundle(resolve(run.config.init))
    settings = bundle.modality().settings()
    if settings["name"] != run.config.modality.name:
        raise ConfigError(
            f"init {run.config.init} is a backbone for {settings['name']}, not {run.config.modality.name}."
        )
    run.config.modality = MODALITIES[settings["name"]].settings(**settings)
    backbone = bundle.build()
    architecture = backbone.config()
    kind = BACKBONES[architecture["name"]].settings
    free = {"size": None} if "size" in kind.model_fields else {}
    run.config.backbone = kind(**{k: v for k, v in architecture.items() if k in kind.model_fields}, **free)
    run.parents = {
        "init": public_ref(run.config.init, bundle.card.id),
        "sha256": bundle.weights_sha256,
        "simulated_only": bool(bundle.card.simulated_only),
    }
    run.log.info(
        "starting from %s; its preprocessing is kept: %s",
        run.config.init,
        kind_of(bundle.modality()).preprocessing(bundle.modality()),
    )
    return backbone


def _settings(modality: Any, config: RunConfig) -> Any:
    return type(config.modality)(**modality.settings())


def _backbone_config(config: RunConfig, modality: Any) -> dict[str, Any]:
    plain = config.backbone.model_dump(exclude={"size"})
    return {
        **plain,
        "rank": modality.rank,
        "in_channels": len(modality.channels),
        "input_size": modality.size,
    }


def _mixture(run: Pretraining) -> Mixture:
    wanted = getattr(run.config.method, "truths", 0)
    targets = [s.truths.values if wanted and s.truths else None for s in run.sources]
    rows = [s.rows for s in run.sources]
    return Mixture([s.store for s in run.sources], [s.weight for s in run.sources], rows, targets)


def _truths(run: Pretraining) -> Truths | None:
    """What is known of simulated records, where the method asks for it. Without any, the method goes on as its paper
    has it, and says so: a recipe made for the simulated corpus must also take a folder of recordings."""
    if not getattr(run.config.method, "truths", 0):
        return None
    known = next((s.truths for s in run.sources if s.truths), None)
    if known is None:
        run.log.info("no simulated record among the data: method.truths is off")
        run.config.method = run.config.method.model_copy(update={"truths": 0.0})
    return known


def _fit_statistics(run: Pretraining) -> Any:
    """Mean and deviation of each channel over training records, each source by its share."""
    mixture, modality = _mixture(run), run.modality
    room = max(1, STATISTICS_VALUES // (len(modality.channels) * math.prod(modality.size)))
    count = min(STATISTICS_RECORDS, room, 4 * sum(len(s.store) for s in run.sources))
    which, rows = mixture.draw(run.config.seed, 0, count)
    records = kind_of(modality).reading.records
    parts = [records(run.sources[i].store, modality).physical(rows[which == i]) for i in np.unique(which)]
    return run.modality.fit(np.concatenate([x for x, _ in parts]), np.concatenate([p for _, p in parts]))


def _batches(run: Pretraining, start: int, stop: int, rank: int = 0, world: int = 1) -> SignalBatches:
    config, spec = run.config, run.method.view_spec
    # Only volumes are cut as the method wants; signals and pictures have the modality's size.
    cut: dict[str, Any] = {"size": spec.size, "place": spec.place} if run.modality.rank == 3 else {}
    return kind_of(run.modality).reading.batches(
        _mixture(run),
        run.modality,
        config.trainer.batch_size,
        seed=config.seed,
        start=start,
        stop=stop,
        augment=spec.augment,
        views=spec.views,
        rank=rank,
        world=world,
        **cut,
    )


class _Data(pl.LightningDataModule):
    def __init__(self, run: Pretraining, start: int) -> None:
        super().__init__()
        self.run, self.start = run, start

    def train_dataloader(self) -> Any:
        config = self.run.config.trainer
        trainer = self.trainer
        assert trainer is not None
        batches = _batches(
            self.run,
            self.start * config.accumulate,
            config.steps * config.accumulate,
            trainer.global_rank,
            trainer.world_size,
        )
        return loader(
            batches, self.run.config.data.workers, pin_memory=trainer.strategy.root_device.type == "cuda"
        )


def _watchers(
    run: Pretraining, metrics: callbacks.Metrics, start: int
) -> tuple[list[pl.Callback], callbacks.OnlineProbe | None]:
    """What looks at the training: a finite loss in every process, collapse and probe in the first one."""
    every = max(1, min(100, run.config.trainer.steps // 10))
    watching: list[pl.Callback] = [callbacks.FiniteLoss(every)]
    if not ranks.is_first():
        return watching, None
    batch, method = _batches(run, 0, 1).batch(1 << 20), run.method
    run.guard = callbacks.CollapseGuard(batch, every, metrics, method.remedy, method.verdict)
    watching.append(run.guard)
    if probe := _probe(run, metrics):
        watching.append(probe)
        random_state = build(run.method.encoder.config())
        random_state.load_state_dict(run.method.encoder.state_dict())
        run.probe["start"] = probe.score(probe.embed(random_state)) if not start else None
        if not start:
            held_out.measure(run, "start")
    cost.estimate(run, _batches(run, 0, 1 << 30))
    return watching, probe


def _fit(run: Pretraining, resume: bool) -> None:
    settings = run.config.trainer
    last = run.folder.path / "checkpoints" / "last.ckpt"
    start = 0
    if settings.branch_from and not (resume and last.is_file()):
        last = Path(settings.branch_from).expanduser() / "checkpoints" / "last.ckpt"
    if (resume or settings.branch_from) and last.is_file():
        state = _checkpoint(last)
        start = int(state["global_step"])
        run.log.info("going on at step %d of %d", start, settings.steps)
        if start >= settings.steps:
            run.method.load_state_dict(state["state_dict"])
    columns = run.method.losses, run.method.rates, run.method.measures
    metrics = callbacks.Metrics(run.folder.path / "metrics.csv", settings.log_every, start, *columns)
    watching, probe = _watchers(run, metrics, start)
    if start < settings.steps:
        cuda = torch.cuda.is_available()
        precision = ("bf16-mixed" if cuda else "32") if settings.precision == "auto" else settings.precision
        if settings.compile is True:
            run.method.compile_blocks()
        bar_of = partial(
            progress,
            run.show,
            "pretraining",
            settings.steps,
            "samples",
            settings.batch_size * settings.accumulate,
        )
        with bar_of(start) as bar, _quiet():
            trainer = pl.Trainer(
                max_steps=settings.steps,
                max_epochs=-1,
                accumulate_grad_batches=settings.accumulate,
                gradient_clip_val=settings.grad_clip or None,
                precision=precision,  # type: ignore[arg-type]
                devices=settings.devices if settings.devices != "auto" or cuda else 1,
                accelerator=settings.accelerator,
                num_nodes=settings.num_nodes,
                deterministic=settings.deterministic,
                logger=False,
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
                callbacks=[
                    *watching,
                    metrics,
                    callbacks.Bar(bar),
                    callbacks.Checkpoints(run.folder.path / "checkpoints", settings.checkpoint_every),
                ],
            )
            began = time.monotonic()
            handler = signal.getsignal(signal.SIGINT)
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    trainer.fit(
                        run.method,
                        _Data(run, start),
                        ckpt_path=str(last) if start else None,
                        weights_only=True,
                    )
            except SystemExit:
                # Lightning turns Ctrl-C into exit(1) and ignores the signal from then on; a caller may go on.
                if threading.current_thread() is threading.main_thread():
                    signal.signal(signal.SIGINT, handler)
                raise KeyboardInterrupt from None
            run.seconds = time.monotonic() - began
    run.method.to("cpu").eval()
    if not ranks.is_first():
        return
    if not run.guard.last:
        run.guard.last = run.guard.measure(run.method)
    if probe:
        run.probe["end"] = probe.score(probe.embed(run.method.encoder))
        run.probe["history"] = probe.history


class _quiet:
    """Lightning's hints on workers and tips say nothing to a clinician; they go to the log at warning level only."""

    def __enter__(self) -> None:
        self.loggers = [
            logging.getLogger(n)
            for n in ("pytorch_lightning", "lightning.pytorch", "pytorch_lightning.utilities.rank_zero")
        ]
        self.levels = [x.level for x in self.loggers]
        for x in self.loggers:
            x.setLevel(logging.ERROR)

    def __exit__(self, *_: object) -> None:
        for x, level in zip(self.loggers, self.levels):
            x.setLevel(level)


def _probe(run: Pretraining, metrics: callbacks.Metrics) -> callbacks.OnlineProbe | None:
    from medfm.workflows.probe_set import probe_set

    if (found := probe_set(run)) is None:
        return None
    score, embed, run.probe["facts"] = found
    return callbacks.OnlineProbe(score, embed, run.config.probe.every or run.config.trainer.steps, metrics)
