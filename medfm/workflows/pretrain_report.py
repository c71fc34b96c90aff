"""What a finished pretraining run leaves: bundle, card, figures, report.html, results.json, and the hub's new entry."""

from __future__ import annotations

import datetime
import json
import platform
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from medfm import paths
from medfm.evaluation import training_figures as figures
from medfm.evaluation.collapse import collapse_verdict
from medfm.evaluation.report import Section, write_report
from medfm.hub.bundle import save_bundle
from medfm.hub.card import Card, Dataset, Parent, Result, simulated_sentence
from medfm.hub.folder import FolderStore
from medfm.types import MedfmError
from medfm.workflows import held_out, reconstruction, task_figures
from medfm.workflows.embedding import embed_store
from medfm.workflows.kinds import kind_of
from medfm.workflows.pretrain_run import Pretraining
from medfm.workflows.progress import duration
from medfm.workflows.run_folder import CITATIONS, Run
from medfm.workflows.sources import composition

MAP_RECORDS = 1000
TAUGHT = (
    " Beside the method's own objective it learned from the simulator what can be measured on each simulated record "
    "and which findings it has: labels of simulated patients, none of a real one."
)


def finish(run: Pretraining) -> Run:
    held_out.measure(run, "end")
    results = _results(run)
    run.log.info("%s", results["collapse_sentence"])
    if results["verdict"]:
        run.log.warning("%s", results["verdict"])
    if "gap_closed" in results.get("probe", {}):
        measured = results["probe"]
        run.log.info(
            "frozen probe on %d other patients (half fit it, half score it): macro-AUROC %.3f, untrained %.3f, %.0f %% of the gap closed",
            measured["patients"],
            measured["pretrained"],
            measured["random_initialisation"],
            100 * measured["gap_closed"],
        )
    for sentence in held_out.sentences(results["held_out"]):
        run.log.info("%s", sentence)
    if measured := reconstruction.measure(run):
        results["reconstruction"] = measured
        run.log.info("%s", reconstruction.sentence(measured))
    card = _card(run, results)
    bundle = run.folder.path / "bundle"
    save_bundle(
        bundle,
        run.method.encoder,
        run.modality.settings(),
        card,
        {
            "method": run.config.method.model_dump(mode="json"),
            "training": {
                "optim": run.config.optim.model_dump(mode="json"),
                "steps": run.config.trainer.steps,
                "batch_size": run.config.trainer.batch_size,
                "seed": run.config.seed,
                "data": composition(run.sources),
            },
        },
        dtype=run.config.output.dtype,
        overwrite=True,
    )
    published = ""
    if run.config.output.publish:
        try:
            revision = FolderStore(paths.hub()).publish(bundle, card.id)
            published = f"{card.id}@{revision.number}"
            run.log.info("published %s in the local hub", published)
        except MedfmError as error:  # a full hub must not cost the report of hours of training
            run.log.warning("%s The model is in %s; later: medfm hub pull %s", error, bundle, bundle)
    command = next_command(run, card, published)
    (run.folder.path / "results.json").write_text(json.dumps(results, indent=1), encoding="utf-8")
    report = run.folder.path / "report.html"
    _report(run, card, results, report, published, command)
    return Run(run.folder.path, results, bundle, report, command)


def next_command(run: Pretraining, card: Card, published: str) -> str:
    reference = card.id if published else str(run.folder.path)
    modality = run.config.modality.name
    if modality == "ct_slice":
        return (
            "medfm data synthesize ct --patients 40 --output ct-site\n"
            "medfm data slices ct-site/table.csv --mask label --every 15 --output ct-site/slices.csv\n"
            f"medfm finetune ct-site/slices.csv --backbone {reference} --target {kind_of(run.modality).target} "
            "--strategy linear-probe"
        )
    return (
        f"medfm data synthesize {modality} --patients {60 if run.modality.rank == 3 else 300} --output {modality}-site\n"
        f"medfm finetune {modality}-site/table.csv --backbone {reference} --target {kind_of(run.modality).target}"
    )


def _results(run: Pretraining) -> dict[str, Any]:
    measures = {k: round(float(v), 6) for k, v in run.guard.last.items()}
    problem = run.guard.problem()
    steps = run.config.trainer.steps
    results: dict[str, Any] = {
        "steps": steps,
        "fit_seconds": round(run.seconds, 1),
        "samples_per_second": round(steps * run.config.trainer.batch_size / run.seconds, 1)
        if run.seconds
        else None,
        "collapse": measures,
        "collapsed": bool(problem),
        "collapse_sentence": problem or collapse_verdict(run.guard.first or {}, run.guard.last),
        "verdict": run.method.verdict(run.guard.first or {}, run.guard.last),
        "held_out": held_out.results(run),
        "composition": composition(run.sources),
    }
    if "end" in run.probe:
        facts = run.probe["facts"]
        results["probe"] = {
            "metric": "macro-AUROC",
            "random_initialisation": run.probe.get("start"),
            "pretrained": run.probe["end"],
            "targets": facts["targets"],
            "patients": facts["patients"],
        }
        start = run.probe.get("start")
        if start is not None and start < 1:
            results["probe"]["gap_closed"] = round((run.probe["end"] - start) / (1 - start), 4)
    return results


def _card(run: Pretraining, results: dict[str, Any]) -> Card:
    config, modality = run.config, run.modality
    sources = composition(run.sources)
    simulated = run.simulated_only
    encoder = run.method.encoder
    parameters = sum(p.numel() for p in encoder.parameters())
    device = f"{platform.machine()} CPU" if run.method.device.type == "cpu" else str(run.method.device)
    records, patients = sum(s["records"] for s in sources), sum(s["patients"] for s in sources)
    real = [s for s in sources if not s["simulated"]]
    if simulated:
        summary = simulated_sentence(modality.name, run.seconds, device, patients, records)
    else:
        names = ", ".join(f"{s['name']} ({s['share']:.0%})" for s in sources)
        summary = (
            f"Pretrained with {config.method.name} on {names}: {records:,} records of {patients:,} patients."
        )
    if "end" in run.probe and run.probe.get("start") is not None:
        probe = [
            Result(
                metric="macro-AUROC",
                value=round(run.probe["end"], 4),
                baseline=round(run.probe["start"], 4),
                dataset="online probe set"
                + (" (simulated; its kinds of labels were taught)" if _taught(run) else ""),
                strategy="frozen linear probe",
                patients=run.probe["facts"]["patients"],
                command="medfm pretrain --config RUN/config.yaml",
            )
        ]
    else:
        probe = []
    probe += [
        Result(
            metric=name.replace("_", " "),
            value=m["pretrained"],
            baseline=m["random_initialisation"],
            dataset="records not trained on" + (" (simulated)" if simulated else ""),
            task="pretraining",
            strategy="the method's own task",
            patients=m["records"],
            command="medfm pretrain --config RUN/config.yaml",
        )
        for name, m in results["held_out"].items()
    ]
    if _taught(run):
        summary += TAUGHT
    limitations = (
        "Synthetic data prove the pipeline and that the objective learns; they prove nothing about patients."
        if simulated
        else "Validated on no external site by this run."
    )
    parents = [Parent(ref=run.parents["init"], checkpoint=run.parents["sha256"])] if run.parents else []
    return Card(
        id=run.name,
        summary=summary,
        modality=modality.name,
        architecture=architecture_words(encoder),
        parameters=parameters,
        method=config.method.name,
        license="apache-2.0" if not real else "other",
        tags=["simulated"] if simulated else [],
        datasets=[Dataset(**{k: s[k] for k in Dataset.model_fields if k in s}) for s in sources],
        simulated_only=simulated,
        data=_data_words(sources),
        preprocessing=kind_of(modality).preprocessing(modality),
        results=probe,
        limitations=" ".join(
            [limitations, results["collapse_sentence"] if results["collapsed"] else "", results["verdict"]]
        ).strip(),
        citations=[
            CITATIONS[k]
            for k in ("medfm", config.method.name, *(kind_of(modality).citations if simulated else []))
            if k in CITATIONS
        ],
        created=datetime.date.today().isoformat(),
        parents=parents,
    )


def _taught(run: Pretraining) -> bool:
    return bool(getattr(run.config.method, "truths", 0))


def _data_words(sources: list[dict[str, Any]]) -> str:
    parts = []
    for s in sources:
        kind = "simulated" if s["simulated"] else "real"
        aside = f", {s['set_aside']} unreadable set aside" if s["set_aside"] else ""
        notes = "".join(f"; {n}" for n in s["notes"])
        parts.append(
            f"{s['name']}: {s['records']:,} {kind} records of {s['patients']:,} patients, {s['share']:.0%} of the samples{aside}{notes}."
        )
    return " ".join(parts)


def _report(
    run: Pretraining, card: Card, results: dict[str, Any], path: Path, published: str, command: str
) -> None:
    frame = pd.read_csv(run.folder.path / "metrics.csv")
    training = figures.training_curves(frame)
    sections = [_summary(run, results, published, command), _training(run, results, training)]
    training.savefig(run.folder.path / "figures" / "training.png", dpi=110)
    name, task, caption = task_figures.draw(run.modality, run.method, run.guard.batch)
    task.savefig(run.folder.path / "figures" / f"{name}.png", dpi=110)
    sections.append(
        Section(
            title=run.method.title,
            text=run.method.guess,
            figures=[(task, caption, "")],
        )
    )
    if "reconstruction" in results:
        sections.append(reconstruction.section(results["reconstruction"]))
    embedding = _embedding_figure(run)
    embedding[0].savefig(run.folder.path / "figures" / "embedding.png", dpi=110)
    sections.append(
        Section(title="Embedding map", text=embedding[1], figures=[(embedding[0], "Map of embeddings", "")])
    )
    sections.append(_data_section(results))
    sections.append(
        Section(
            title="Settings",
            text="The complete configuration is in config.yaml; this run is repeated by:",
            code=f"medfm pretrain --config {run.folder.path.name}/config.yaml",
        )
    )
    write_report(path, f"Pretraining: {card.id}", card.summary, sections)


def _summary(run: Pretraining, results: dict[str, Any], published: str, command: str) -> Section:
    rows = [
        ["Backbone", f"{card_line(run)}"],
        ["Fitting time", duration(run.seconds)],
        ["Steps", f"{results['steps']:,}"],
    ]
    if results["samples_per_second"]:
        rows.append(["Speed", f"{results['samples_per_second']:,.0f} samples/s"])
    if published:
        rows.append(["In the local hub as", published])
    for name, m in results["held_out"].items():
        before = f" (same network before training: {_number(m['random_initialisation'])})"
        rows.append(
            [f"{held_out.NAMES.get(name, name)}, {m['records']} others", f"{m['pretrained']:.3f}{before}"]
        )
    text = " ".join(filter(None, [results["collapse_sentence"], results["verdict"]]))
    if "probe" in results:
        p = results["probe"]
        rows.append(
            [
                "Frozen probe, macro-AUROC",
                f"{p['pretrained']:.3f} (same network before training: {_number(p['random_initialisation'])})",
            ]
        )
        if "gap_closed" in p:
            text += (
                f" A frozen linear probe on {p['patients']} other patients (half fit it, half score it) closes {p['gap_closed'] * 100:.0f} % of the "
                "gap between the untrained network and 1.0 (one seed, no interval)."
            )
            if _taught(run):
                text += " Findings of these kinds were taught on other simulated patients: for the probe that is supervised training."
    return Section(title="Summary", text=text, table=(["", ""], rows), code=command, code_title="Next, try")


def card_line(run: Pretraining) -> str:
    encoder = run.method.encoder
    shape = encoder.config()
    what = f"{shape['name']} of width {encoder.dim}"
    if shape["name"] == "vit":
        what = f"ViT of width {encoder.dim}, {shape['depth']} blocks"
    return f"{what}, {sum(p.numel() for p in encoder.parameters()) / 1e6:.2f} M parameters"


def architecture_words(encoder: Any) -> str:
    shape = encoder.config()
    if shape["name"] != "vit":
        return f"{shape['name']}, rank {encoder.rank}, width {encoder.dim}"
    return f"ViT, rank {encoder.rank}, width {encoder.dim}, {shape['depth']} blocks, {shape['heads']} heads"


def _number(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.3f}"


def _training(run: Pretraining, results: dict[str, Any], figure: Any) -> Section:
    names = {
        "target_std": "Deviation of targets over records",
        "context_std": "Deviation of embeddings over records",
        "effective_rank": "Effective rank of embeddings",
        "position_correlation": "Correlation of guessed with true overlap",
        "similarity_positive": "Guess where crops overlap",
        "similarity_negative": "Guess where they do not",
        "base_cosine": "Cosine of a volume's base crops",
        "fusion_dice": "Dice of fused volumes",
        "fusion_dice_chance": "Dice of guessing",
        "masked_error": "Squared error of masked values",
        "mean_error": "The same of each sequence's mean",
    }
    first = run.guard.first or {}
    rows = [[names.get(k, k), _number(first.get(k)), _number(v)] for k, v in results["collapse"].items()]
    return Section(
        title="Training",
        text="Loss, learning rate and collapse measures. A collapsed network gives every record the same embedding: its deviation goes to zero and its rank to one.",
        table=(["Measure", "before", "after"], rows),
        figures=[(figure, "Loss, learning rate and collapse measures over the steps", "")],
    )


def _embedding_figure(run: Pretraining) -> tuple[Any, str]:
    """The probe set coloured by its commonest label; without one, training records coloured by source."""
    encoder = run.method.encoder
    if facts := run.probe.get("facts"):
        store, y = facts["store"], facts["y"]
        rows = np.arange(min(MAP_RECORDS, len(store)))
        name = facts["targets"][int(np.nanargmin(np.abs(np.nanmean(y, 0) - 0.5)))] if facts["targets"] else ""
        column = facts["targets"].index(name) if name else 0
        labels = np.where(
            np.isnan(y[rows, column]), "unknown", np.where(y[rows, column] == 1, name, f"not {name}")
        )
        z = embed_store(encoder, run.modality, store, rows)
        return figures.embedding_map(
            z, labels
        ), f"Held-out records of the probe set, first two principal components, coloured by {name}."
    parts, labels_list = [], []
    for source in run.sources:
        rows = np.random.default_rng(0).permutation(len(source.store))[: MAP_RECORDS // len(run.sources)]
        parts.append(embed_store(encoder, run.modality, source.store, rows))
        labels_list += [source.name] * len(rows)
    return figures.embedding_map(
        np.concatenate(parts), np.array(labels_list)
    ), "Training records, first two principal components, coloured by source."


def _data_section(results: dict[str, Any]) -> Section:
    columns = ["Source", "Kind", "Share", "Records", "Patients", "Set aside", "Notes"]
    rows = [
        [
            s["name"],
            "simulated" if s["simulated"] else "real",
            f"{s['share']:.0%}",
            f"{s['records']:,}",
            f"{s['patients']:,}",
            str(s["set_aside"]),
            "; ".join(s["notes"]),
        ]
        for s in results["composition"]
    ]
    return Section(
        title="Data",
        text="What the samples were drawn from. Files set aside stand in train.log by their row and code; medfm data scan "
        "names each with its reason.",
        table=(columns, rows),
    )
