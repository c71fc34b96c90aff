"""A first answer in seconds: frozen embeddings, prototypes and a linear model on patient folds, no training."""

from __future__ import annotations

import itertools
import json
import logging
import time
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from medfm.backbones.base import Backbone, build
from medfm.config.strategies import LinearProbeSettings
from medfm.data.manifest import Manifest
from medfm.data.splits import patient_folds, repeats_auto
from medfm.evaluation.protocol import evaluate_folds, jsonable, paired_difference
from medfm.finetuning.linear import fit_linear
from medfm.finetuning.prototypes import Prototypes
from medfm.finetuning.records import embeddings
from medfm.finetuning.task import Task
from medfm.hub.bundle import Bundle, load_bundle
from medfm.hub.resolve import resolve
from medfm.paths import written_whole
from medfm.types import RESEARCH_USE, MedfmError
from medfm.workflows.cohort import Cohort, open_cohort, read_labels
from medfm.workflows.embed import check_output
from medfm.workflows.finetune_run import outer_folds, state_task
from medfm.workflows.kinds import kind_of
from medfm.workflows.probe_optimism import check_optimism, flattery, fold_table
from medfm.workflows.probe_values import value_row
from medfm.workflows.progress import progress as progress_bar
from medfm.workflows.run_folder import writing

LOG = logging.getLogger("medfm.run")
PRETRAINED, RANDOM = "pretrained", "random"
PROBES = ("prototypes", "logistic regression")
VALUE_PROBES = {"regression": ("ridge regression",), "survival": ("discrete hazards",)}
TRIED = 20  # records that tell which modality a table is of


def probe(
    table: str | Path,
    backbone: str,
    target: Sequence[str],
    *,
    task: str = "auto",
    patient: str | None = "patient_id",
    folds: int = 5,
    repeats: int | Literal["auto"] = "auto",
    inner_folds: int = 3,
    pool: str = "mean-std",
    bootstrap: int = 1000,
    batch_size: int = 64,
    horizon: float | None = None,
    intervals: int = 10,
    optimism: bool = False,
    seed: int = 0,
    store: str | Path | None = None,
    jobs: int = 1,
    output: str | Path | None = None,
    overwrite: bool = False,
    progress: bool = True,
) -> dict[str, Any]:
    """Score ``backbone`` (a REF, or ``all``: every model of the catalogue and the local hub that has its
    weights).

    ``repeats``: of the folds; ``auto`` is 10 below 200 patients, 5 below 1,000, else 1.
    The last rows are logistic regressions without any network (:mod:`medfm.workflows.floors`): for ECG on mean,
    variance and heart rate, and on intervals and spectra; for pictures on their grey, and on them much reduced. Each repeat draws other folds and another random
    initialisation, so that one lucky or unlucky draw of untrained weights does not decide the comparison.

    ``task, targets, records, patients, patients_known, notes`` and ``rows``, one a backbone and probe: AUROC
    within folds (macro over targets) with its patient-bootstrap interval, that of the network at random
    initialisation, the paired difference, the share of the gap to 1.0 that it closes, AUPRC, and the seconds spent; ``by_target`` the same for each of
    several targets; ``verdicts`` in words. A value has ``mae`` in place of AUROC, with ``rmse, r2, pearson`` and
    ``training_median``, the error of predicting it; survival has ``harrell_c``, with ``uno_c, auroc_at_horizon,
    integrated_brier`` and ``kaplan_meier``, the Brier score of one curve for everybody (``horizon`` and ``intervals`` as in
    fine-tuning); ``measure`` names it. ``optimism``: also what folds by record would have flattered, of the first backbone's
    logistic regression (:func:`medfm.evaluation.optimism.split_optimism`). Also written to ``output`` (JSON) when given.
    """
    written = check_output(output, (".json",), overwrite) if output else None
    labels = read_labels(table, target, kind=task, patient=patient, folds=folds)
    refs = [backbone] if backbone != "all" else _all_models(labels.manifest)
    rows: list[tuple[dict[str, Any], list[dict[str, Any]]]] = []
    facts: dict[str, Any] = {}
    told: dict[str, Any] = {}
    for ref in refs:
        bundle = load_bundle(resolve(ref))
        modality = bundle.modality()
        cohort = open_cohort(
            labels, modality, store=Path(store) if store else None, jobs=jobs, log=LOG, show=progress
        )
        facts = _facts(cohort)
        count = repeats_auto(facts["patients"]) if repeats == "auto" else repeats
        facts |= {"folds": folds, "repeats": count}
        tests = [outer_folds(cohort, folds, seed + r, strict=not r) for r in range(count)]
        state_task(cohort, [rows for parts in tests for rows in parts], horizon, intervals)
        kinds = _kinds(cohort.task)
        if optimism:
            check_optimism(cohort)
        scores, z, seconds = _scores(
            ref, bundle, cohort, modality, tests, pool, batch_size, inner_folds, seed, progress
        )
        if optimism and ref == refs[0]:
            honest = scores[PRETRAINED][PROBES[1]]
            refit = partial(_out_of_fold, z, inner_folds=inner_folds, seed=seed)
            told["optimism"] = flattery(cohort, tests, honest, refit, folds, bootstrap, seed)
        rows += [_row(ref, kind, scores, cohort, tests, bootstrap, seed, seconds) for kind in kinds]
        if ref == refs[0]:
            without = _without_network(scores, cohort, modality, tests, inner_folds, bootstrap, seed)
    rows += without
    results: dict[str, Any] = {**facts, **told, "rows": [flat for flat, _ in rows]}
    results["measure"] = {"regression": "mae", "survival": "harrell_c"}.get(facts["task"], "auroc")
    if len(facts["targets"]) > 1:
        results["by_target"] = [row for _, each in rows for row in each]
    results["verdicts"] = [flat.pop("verdict") for flat in results["rows"]]
    if written:
        text = json.dumps(jsonable({"research_use": RESEARCH_USE, **results}), indent=1)
        with writing(written), written_whole(written) as part:
            part.write_text(text + "\n", encoding="utf-8")
    return results


def _scores(
    ref: str,
    bundle: Bundle,
    cohort: Cohort,
    modality: Any,
    tests: list[list[np.ndarray]],
    pool: str,
    batch_size: int,
    inner_folds: int,
    seed: int,
    show: bool,
) -> tuple[dict[str, dict[str, np.ndarray]], np.ndarray, float]:
    """Out-of-fold scores by probe of the pretrained network and, each repeat another draw, of untrained ones; the
    embeddings of the first, and the seconds that it took."""
    began = time.monotonic()
    z = _embed(bundle.build(), cohort, modality, pool, batch_size, f"{ref} ({PRETRAINED})", show)
    pretrained = _out_of_fold(z, cohort, tests, inner_folds, seed)
    seconds, embedded = round(time.monotonic() - began, 2), z
    each = []
    for repeat, parts in enumerate(tests):
        torch.manual_seed(seed + repeat)
        network = build(bundle.config["backbone"]).eval()
        z = _embed(network, cohort, modality, pool, batch_size, f"{ref} ({RANDOM})", show)
        each.append(_out_of_fold(z, cohort, [parts], inner_folds, seed + repeat))
    untrained = {kind: np.concatenate([part[kind] for part in each]) for kind in _kinds(cohort.task)}
    return {PRETRAINED: pretrained, RANDOM: untrained}, embedded, seconds


def _without_network(
    scores: dict[str, dict[str, np.ndarray]],
    cohort: Cohort,
    modality: Any,
    tests: list[list[np.ndarray]],
    inner_folds: int,
    bootstrap: int,
    seed: int,
) -> list[tuple[dict[str, Any], list[dict[str, Any]]]]:
    """Features that need no network, on the same folds: what any backbone must beat to be worth its trouble."""
    kind = _kinds(cohort.task)[-1]
    records = kind_of(modality).reading.records(cohort.store, modality)
    rows = []
    # Of a volume a part is read at a time: a floor looks at the whole of it, made small.
    overview = getattr(records, "overview", records.physical)
    for name, features in kind_of(modality).floors.items():
        began = time.monotonic()
        parts = [
            features(overview(part)[0], modality)
            for part in np.array_split(np.arange(len(records)), -(-len(records) // 256))
        ]
        out = _out_of_fold(np.concatenate(parts), cohort, tests, inner_folds, seed)
        arms = {PRETRAINED: out, RANDOM: scores[RANDOM]}
        seconds = round(time.monotonic() - began, 2)
        rows.append(_row(name, kind, arms, cohort, tests, bootstrap, seed, seconds))
    return rows


def _all_models(manifest: Manifest) -> list[str]:
    """Models with weights whose modality reads these records."""
    from medfm.hub.catalog import list_models

    refs: list[str] = []
    reads: dict[str, bool] = {}
    for row in list_models():
        try:
            bundle = load_bundle(resolve(row.id))
        except MedfmError as error:
            LOG.warning("%s is left out: %s", row.id, error)
            continue
        if not bundle.has_weights:
            continue
        name = bundle.card.modality
        if name not in reads:
            reads[name] = _reads(bundle.modality(), manifest)
        if reads[name]:
            refs.append(row.id)
        else:
            LOG.info("%s is left out: it is for %s, and the first records are none", row.id, name)
    if not refs:
        raise MedfmError(
            f"{manifest.source}: no model with weights in the catalogue or the local hub reads its records. Pretrain one "
            "(medfm pretrain --modality ecg, xray); medfm data scan says what the files are."
        )
    return refs


def _reads(modality: Any, manifest: Manifest) -> bool:
    """Whether one of the first records can be read so."""
    for path, rate in itertools.islice(zip(manifest.paths, manifest.rates), TRIED):
        with suppress(
            Exception
        ):  # many kinds; what is wrong is said when a model of the right modality reads it
            modality.read(path, quality=False, **({} if rate is None else {"fs": rate}))
            return True
    return False


def _facts(cohort: Cohort) -> dict[str, Any]:
    return {
        "table": cohort.source,
        "task": cohort.task.kind,
        "targets": list(cohort.task.classes),
        "records": len(cohort.y),
        "patients": len(set(cohort.patients.tolist())),
        "patients_known": cohort.patients_known,
        "notes": cohort.notes,
    }


def _embed(
    network: Backbone, cohort: Cohort, modality: Any, pool: str, batch_size: int, label: str, show: bool
) -> np.ndarray:
    records = kind_of(modality).reading.records(cohort.store, modality)
    with progress_bar(show, f"embedding {label}", len(records), "records") as bar:
        return embeddings(
            network,
            records,
            np.arange(len(records)),
            pooling=pool,
            batch_size=batch_size,
            progress=bar.update,
        )


def _out_of_fold(
    z: np.ndarray, cohort: Cohort, tests: list[list[np.ndarray]], inner_folds: int, seed: int
) -> dict[str, np.ndarray]:
    """Scores ``[R, n, K]`` of each probe, every record scored by a fit that did not see its patient."""
    task, y, patients = cohort.task, cohort.y, cohort.patients
    out: dict[str, np.ndarray] = {}
    strengths = LinearProbeSettings.model_validate({}).strengths
    for repeat, parts in enumerate(tests):
        for test in parts:
            train = np.setdiff1d(np.arange(len(y)), test)
            count = min(inner_folds, len(set(patients[train].tolist())))
            balanced, how = task.strata(y[train])
            inner = patient_folds(balanced, patients[train], count, seed, how, strict=False)
            fitted = task.fitted(y[train])
            solution = fit_linear(z[train], fitted.encode(y[train]), fitted, inner, strengths)
            found = {_kinds(task)[-1]: fitted.predictions(solution.logits(z[test]))}
            if task.kind not in VALUE_PROBES:
                found["prototypes"] = Prototypes.fit(z[train], y[train], task).scores(z[test])
            for kind, p in found.items():
                out.setdefault(kind, np.full((len(tests), len(y), p.shape[1]), np.nan))[repeat, test] = p
    return out


def _kinds(task: Task) -> tuple[str, ...]:
    """Probes of a kind of task, the linear one last."""
    return VALUE_PROBES.get(task.kind, PROBES)


def _row(
    ref: str,
    kind: str,
    scores: dict[str, dict[str, np.ndarray]],
    cohort: Cohort,
    tests: list[list[np.ndarray]],
    bootstrap: int,
    seed: int,
    seconds: float,
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """One line over all targets, and one a target."""
    fold = fold_table(tests, len(cohort.y))
    if cohort.task.kind in VALUE_PROBES:
        pair_of = {arm: of[kind] for arm, of in scores.items()}
        made = value_row(pair_of, cohort, fold, bootstrap, seed, (ref, "random initialisation"))
        verdict = f"{kind}: {made.pop('verdict')}"
        return {"backbone": ref, "probe": kind, **made, "seconds": seconds, "verdict": verdict}, []
    task: Any = cohort.task
    shared = (fold, cohort.patients, task.classes)
    result = evaluate_folds(cohort.y, scores[PRETRAINED][kind], *shared, task.kind, bootstrap, seed)
    pair = paired_difference(
        cohort.y,
        scores[PRETRAINED][kind],
        scores[RANDOM][kind],
        *shared,
        bootstrap,
        seed,
        names=(ref, "random initialisation"),
    )

    def row(values: dict[str, Any], compared: dict[str, Any]) -> dict[str, Any]:
        change = compared["auroc"]["difference"]
        return {
            "auroc": values["auroc"]["value"],
            "interval": [values["auroc"]["low"], values["auroc"]["high"]],
            "random_initialisation": compared["auroc"]["b"],
            "difference": change["value"],
            "difference_interval": [change["low"], change["high"]],
        }

    name = {"backbone": ref, "probe": kind}
    closed = pair["gap_closed"] or {}  # none where the untrained network is perfect already
    overall = {
        **name,
        **row(result["within_fold"], pair),
        "gap_closed": closed.get("value"),
        "gap_interval": [closed.get("low"), closed.get("high")],
        "auprc": result["within_fold"]["auprc"]["value"],
        "seconds": seconds,
        "verdict": f"{kind}: {pair['verdict']}",
    }
    return overall, [
        {**name, "target": t, **row(result["targets"][t], pair["targets"][t])} for t in task.classes
    ]
