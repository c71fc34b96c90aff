"""``medfm data slices``: volumes as a table of slices, for pictures' methods."""

from __future__ import annotations

from pathlib import Path

import typer

from medfm.types import RESEARCH_USE


def slices(
    source: str = typer.Argument(
        metavar="PATH|TABLE", help="a folder of volumes, a table with a 'path' column, or DATASET=PATH"
    ),
    output: Path = typer.Option(Path("slices.csv"), "--output", help="the table of slices"),
    plane: str = typer.Option("axial", "--plane", help="axial, coronal or sagittal"),
    every: float = typer.Option(0.0, "--every", min=0, help="mm between slices, at least; 0: all of them"),
    mask: str | None = typer.Option(
        None, "--mask", help="column of mask files: adds has_CLASS, what each slice shows"
    ),
    patient: str = typer.Option("patient_id", "--patient", help="patient column; 'none': no such"),
    overwrite: bool = typer.Option(False, "--overwrite", help="replace an output that exists"),
    as_json: bool = typer.Option(False, "--json", help="for scripts"),
) -> None:
    """Cut volumes into slices for --modality ct_slice: a table of names, nothing is copied.

    All slices of a patient share its patient_id, so that splits and folds keep them together.
    """
    from medfm.cli.output import course, say_json
    from medfm.workflows.slices import slices as workflow

    with course(quiet=True):
        made = workflow(
            source,
            output,
            plane=plane,
            every=every,
            mask=mask,
            patient=None if patient.lower() == "none" else patient,
            overwrite=overwrite,
        )
    if as_json:
        say_json({**made, "table": str(made["table"])})
        return
    for path, why in made["failed"]:
        typer.echo(f"set aside: {path}: {why}", err=True)
    typer.echo(
        f"{made['table']}: {made['slices']} slices of {made['volumes']} volumes, {made['patients']} patients"
    )
    if not made["patients_known"]:
        typer.echo("no patient column: a volume whose file states no patient counts as one.")
    if made["classes"]:
        typer.echo("shown     " + ", ".join(f"{name} ({n})" for name, n in made["classes"].items()))
    typer.echo(f"next: medfm data dedup {made['table']} --modality ct_slice")
    typer.echo(RESEARCH_USE)
