"""``medfm data dedup``: which pictures of a folder or table repeat others, and a list of those to keep."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer

from medfm.types import RESEARCH_USE


def dedup(
    source: str = typer.Argument(
        metavar="PATH|TABLE", help="a folder of pictures, a table with a 'path' column, or DATASET=PATH"
    ),
    modality: str = typer.Option("xray", "--modality", help="what the pictures are"),
    by: str = typer.Option(
        "hash", "--by", help="hash (difference hash), or embedding (of --backbone): what makes a look-alike"
    ),
    distance: float | None = typer.Option(
        None, "--distance", help="look-alikes differ by no more: bits of 64 (6), or cosine distance (0.1)"
    ),
    backbone: str | None = typer.Option(None, "--backbone", help="REF whose embeddings are compared"),
    patient: str = typer.Option(
        "patient_id",
        "--patient",
        help="patient column, within which look-alikes are dropped; 'none': no such",
    ),
    target: str | None = typer.Option(
        None, "--target", help="label columns, separated by commas; default: every column of zeros and ones"
    ),
    output: Path = typer.Option(
        Path("keep.csv"),
        "--output",
        help="the keep list; what is left out stands beside it, in *.dropped.csv",
    ),
    jobs: int = typer.Option(1, "--jobs", help="parallel readers; -1 for all cores"),
    overwrite: bool = typer.Option(False, "--overwrite", help="replace an output that exists"),
    as_json: bool = typer.Option(False, "--json", help="for scripts"),
) -> None:
    """Find redundant pictures and write a list of those to keep; nothing is copied, moved or deleted.

    Dropped are copies of one film, and within one patient (or volume, series or study, where a column says so)
    look-alikes, unless their labels differ. The list is a table for --data, finetune and every other command.
    """
    from medfm.cli.output import course, say_json
    from medfm.workflows.dedup import dedup as workflow

    with course(quiet=True):
        results = workflow(
            source,
            output,
            modality=modality,
            by=by,
            distance=distance,
            backbone=backbone,
            patient=None if patient.lower() == "none" else patient,
            target=[c.strip() for c in target.split(",") if c.strip()] if target else (),
            jobs=jobs,
            overwrite=overwrite,
        )
    if as_json:
        say_json({**results, "note": RESEARCH_USE})
    else:
        _say(results, modality)


def _say(results: dict[str, Any], modality: str) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console(width=None if Console().is_terminal else 160)
    within, labels = results["within"], results["labels"]
    bits = results["by"] == "hash"
    limit = (
        f"{results['distance']} bits or less" if bits else f"cosine distance {results['distance']:g} or less"
    )
    alike = f"{limit}, within one {within}" if within else "not sought: no patient column (--patient COLUMN)"
    if within and results["without_patient"]:
        alike += f"; of {results['without_patient']:,} pictures no patient is known"
    table = Table(box=None, pad_edge=False, show_header=False)
    rows = [
        ("pictures", results["pictures"], ""),
        ("kept", results["kept"], ""),
        (
            "copies",
            results["copies"],
            "one film twice, whoever's: nearly one hash, one picture and the same edges",
        ),
        ("look-alikes", results["look_alikes"], alike),
    ]
    if results["kept_for_labels"]:
        why = f"look-alikes kept all the same, because they differ in {_some(labels)}"
        rows.append(("other labels", results["kept_for_labels"], why))
    if results["unreadable"]:
        rows.append(("unreadable", results["unreadable"], "reasons in the list of what was dropped"))
    for name, count, why in rows:
        table.add_row(name, f"{count:,}", escape(why))
    console.print(table)
    for finding in results["findings"]:
        console.print(f"finding: {finding['message']}", soft_wrap=True, markup=False)
    typer.echo(f"keep list: {results['keep']}; dropped: {results['dropped']}")
    typer.echo(f"next: medfm pretrain --modality {modality} --data {results['keep']}")
    typer.echo(RESEARCH_USE)


def _some(names: list[str]) -> str:
    return ", ".join(names) if len(names) <= 3 else f"one of {len(names)} label columns"
