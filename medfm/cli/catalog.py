"""``medfm data datasets`` and ``medfm data table``: public data sets by name, and their rows and labels as a table."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from medfm.types import RESEARCH_USE, ConfigError

if TYPE_CHECKING:
    import pandas as pd

    from medfm.data.dataset import Dataset

AS_JSON = typer.Option(False, "--json", help="for scripts")
SHOWN = 12  # labels of a set that are named in one line


def datasets(
    name: str | None = typer.Argument(None, help="one data set, with its labels and citation"),
    as_json: bool = AS_JSON,
) -> None:
    """Public data sets that --data NAME=/path understands: licence, access, labels. Nothing is downloaded."""
    from medfm.cli.output import say_json
    from medfm.data import catalog

    if name:
        dataset = catalog.load(name)
        shared = catalog.overlaps(name)
        if as_json:
            facts = dataset.model_dump(mode="json", exclude={"labels", "overlaps"})
            notes = {key: dataset.labels.note(key) for key in dataset.label_sets()} if dataset.labels else {}
            sets = {"label_sets": dataset.label_sets(), "classes": getattr(dataset.labels, "classes", {})}
            say_json({**facts, **sets, "label_rules": notes, "overlaps": shared})
        else:
            _describe(dataset, shared)
        return
    rows = [catalog.load(ident) for ident in catalog.names()]
    if as_json:
        keys = ("id", "title", "modality", "licence", "access", "doi", "url")
        say_json([{key: getattr(d, key) for key in keys} for d in rows])
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("id", "modality", "records", "licence", "access", "label sets", box=None, pad_edge=False)
    for d in sorted(rows, key=lambda d: d.modality):
        table.add_row(
            d.id,
            d.modality,
            str(d.expected.records or ""),
            d.licence.split(" (")[0].split(";")[0],
            d.access.split(",")[0].split(";")[0],
            ", ".join(d.label_sets()) or "none",
        )
    Console(width=None if Console().is_terminal else 160).print(table)


def _describe(dataset: Dataset, shared: dict[str, str]) -> None:
    parts = getattr(dataset.rows, "parts", []) if dataset.rows.kind == "union" else []
    for key in ("title", "licence", "access", "doi", "url", "files", "seconds", "units"):
        if value := getattr(dataset, key):
            typer.echo(f"{key:9} {value}")
    if dataset.fs:
        typer.echo(f"{'fs':9} {', '.join(f'{f:g}' for f in dataset.fs)} Hz")
    if dataset.expected.records:
        patients = f", {dataset.expected.patients} patients" if dataset.expected.patients else ""
        typer.echo(f"{'size':9} {dataset.expected.records} records{patients}")
    if layout := getattr(dataset.rows, "layout", None):
        typer.echo(f"layout    {layout}")
    for part in parts:
        size = f": {part.records:,} volumes" if part.records else ""
        typer.echo(f"part      {part.name}{size}{f' ({part.dataset})' if part.dataset else ''}")
    if getattr(dataset.rows, "views", None):
        typer.echo("views     frontal; `medfm data table --views lateral` or all for others")
    for key, labels in dataset.label_sets().items():
        assert dataset.labels, "label sets come from a rule"
        listed = ", ".join(labels) if len(labels) <= SHOWN else f"{', '.join(labels[: SHOWN - 2])}, ..."
        default = " (default)" if key == dataset.labels.default else ""
        typer.echo(f"labels    {key} ({len(labels)}): {listed}{default}")
        if note := dataset.labels.note(key):
            typer.echo(f"          {note}")
    for other, says in shared.items():
        typer.echo(f"overlap   {other}: {says}")
    for note in dataset.notes:
        typer.echo(f"note      {note}")
    typer.echo(f"\n{dataset.citation.strip()}\n")
    words = " ".join(
        f"--data {name}=/path" for name in [p.dataset for p in parts if p.dataset] or [dataset.id]
    )
    typer.echo(f"medfm pretrain --modality {dataset.modality} {words}")
    if dataset.labels:
        typer.echo(f"medfm data table {dataset.id}=/path --labels {dataset.labels.default}")


def table(
    source: str = typer.Argument(
        metavar="DATASET=PATH", help="a public data set (`medfm data datasets`) and its folder"
    ),
    labels: str = typer.Option("default", "--labels", help="label set; 'none' for no label columns"),
    views: str | None = typer.Option(
        None, "--views", help="frontal, lateral or all, where views are stated; default frontal"
    ),
    output: Path = typer.Option(Path("table.csv"), "--output", help="the table"),
    overwrite: bool = typer.Option(False, "--overwrite", help="replace an output that exists"),
    as_json: bool = AS_JSON,
) -> None:
    """The rows of a public data set with patients, official split and labels, as a table for finetune and --data."""
    from medfm.cli.output import course, say_json
    from medfm.data import catalog
    from medfm.data.dataset import SubjectRows
    from medfm.data.label_rules import MaskRule
    from medfm.data.subject_table import in_columns
    from medfm.paths import seen_from, written_whole

    name, equals, place = source.partition("=")
    dataset = catalog.load(name)
    if not equals:
        raise ConfigError(
            f"say where {dataset.id} lies: medfm data table {dataset.id}=/path. {dataset.where()}"
        )
    if output.exists() and not overwrite:
        raise ConfigError(f"--output {output} exists already; choose another name, or use --overwrite.")
    with course(quiet=True):
        made = catalog.manifest(dataset.id, place, None if labels == "none" else labels, views=views)
        made.check()
    frame = made.frame.rename(columns={"patient": "patient_id"})
    if not made.patients_known:
        frame = frame.drop(columns="patient_id")
    if isinstance(dataset.rows, SubjectRows):
        frame = in_columns(frame, output.resolve().parent)
    else:
        frame["path"] = [seen_from(path, output.resolve().parent) for path in made.paths]
    masks = isinstance(dataset.labels, MaskRule) and "label" in frame
    if masks:
        frame["label"] = [seen_from(path, output.resolve().parent) for path in frame["label"]]
    frame["dataset"] = dataset.id
    files = list(getattr(dataset.rows, "sequences", {}).values())
    order = [
        c for c in dict.fromkeys((*files, "path", "record", "patient_id", "split", "dataset")) if c in frame
    ]
    with written_whole(output) as part:
        frame[order + [c for c in frame if c not in order]].to_csv(part, index=False)
    chosen = labels if labels != "default" or not dataset.labels else dataset.labels.default
    counts = _counts(frame, dataset.label_sets().get(chosen, []))
    summary: dict[str, Any] = {
        "table": output,
        "dataset": dataset.id,
        "records": len(made),
        "patients": len(set(made.patients)) if made.patients_known else None,
        "split": frame["split"].value_counts().to_dict() if "split" in frame else {},
        "labels": counts,
        "masks": len(frame) if masks else 0,
    }
    if as_json:
        say_json({**summary, "table": str(output), "note": RESEARCH_USE})
        return
    _say(summary, chosen)


def _counts(frame: pd.DataFrame, names: list[str]) -> dict[str, dict[str, int]]:
    """Label -> how many rows have it, have it not, and leave it unknown."""
    return {
        name: {
            "yes": int((frame[name] == 1).sum()),
            "no": int((frame[name] == 0).sum()),
            "unknown": int(frame[name].isna().sum()),
        }
        for name in names
        if name in frame
    }


def _say(summary: dict[str, Any], labels: str) -> None:
    from rich.console import Console
    from rich.table import Table

    people = f"{summary['patients']} patients" if summary["patients"] else "patients not known"
    parts = ", ".join(f"{part} {n}" for part, n in summary["split"].items())
    typer.echo(f"{summary['table']}: {summary['records']} records, {people}{f'; {parts}' if parts else ''}")
    patient = "" if summary["patients"] else " --patient none"
    if summary["masks"]:
        typer.echo(
            f"column label: the mask of each (`medfm data datasets {summary['dataset']}` names its classes)"
        )
        typer.echo(f"next: medfm finetune {summary['table']} --backbone REF --target label{patient}")
    if summary["labels"]:
        table = Table(f"labels: {labels}", "yes", "no", "unknown", box=None, pad_edge=False)
        for name, count in summary["labels"].items():
            table.add_row(name, *(f"{n:,}" for n in count.values()))
        Console(width=None if Console().is_terminal else 160).print(table)
        target = ",".join(list(summary["labels"])[:2])
        typer.echo(f'next: medfm finetune {summary["table"]} --backbone REF --target "{target}"{patient}')
    typer.echo(RESEARCH_USE)
