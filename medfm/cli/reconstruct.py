"""``medfm reconstruct``: sequences that a subject lacks, made by a model of its others."""

from __future__ import annotations

import typer

from medfm.types import RESEARCH_USE, ConfigError

app = typer.Typer(add_completion=False)


@app.command(rich_help_panel="Use")
def reconstruct(
    source: str = typer.Argument(
        ..., metavar="PATH|TABLE", help="A folder of subjects, or a table with a column a sequence."
    ),
    backbone: str = typer.Option(..., "--backbone", help="REF of a backbone that bm_mae pretrained."),
    output: str = typer.Option(
        ..., "--output", "-o", help="Folder for volumes, pictures and figures of merit."
    ),
    sequence: str = typer.Option(
        None,
        "--sequence",
        help="Make these from the others (commas), also where they were acquired. [default: what is missing]",
    ),
    allow_synthetic_contrast: bool = typer.Option(
        False, "--allow-synthetic-contrast", help="Make a post-contrast sequence too, for research."
    ),
    scale: str = typer.Option(
        None, "--scale", help="MEAN,DEVIATION of the sequence: its units in place of z-scores."
    ),
    patient: str = typer.Option(None, "--patient", help="Patient column (patient_id)."),
    codes: bool = typer.Option(False, "--codes", help="Codes in place of patient ids and names."),
    overwrite: bool = typer.Option(False, "--overwrite", help="Replace an existing result."),
    as_json: bool = typer.Option(False, "--json", help="Results as JSON on standard output."),
) -> None:
    """Synthesise missing MRI sequences: NIfTI on the subject's grid, marked SYNTHETIC, with a picture and, where the truth is
    known, the error beside simple baselines.

    medfm reconstruct site.csv --backbone bm-mae-xs-sim --output made
    """
    from medfm.cli.output import course, say_json

    with course():
        from medfm.workflows.reconstruct import reconstruct as workflow

        results = workflow(
            source,
            backbone,
            output,
            sequences=[s.strip() for s in (sequence or "").split(",") if s.strip()],
            allow_synthetic_contrast=allow_synthetic_contrast,
            scale=_scale(scale),
            patient=None if patient is None or patient.lower() == "none" else patient,
            codes=codes,
            overwrite=overwrite,
        )
    if as_json:
        say_json(results)
        return
    for line in results["compared"]:
        figures = ", ".join(
            f"{k} {v:.3f}"
            for k, v in line.items()
            if k not in ("sequence", "arm", "subjects") and v is not None
        )
        typer.echo(f"{line['sequence']} by {line['arm']:<20} {figures}")
    for sentence in results["verdicts"]:
        typer.echo(sentence)
    typer.echo(f"{results['files']} synthetic volumes in {results['output']}\n{RESEARCH_USE}")


def _scale(text: str | None) -> tuple[float, float] | None:
    if text is None:
        return None
    try:
        mean, deviation = (float(v) for v in text.split(","))
    except ValueError:
        mean, deviation = 0.0, 0.0
    if not deviation > 0:
        raise ConfigError(f"--scale {text}: give mean and deviation with a comma, for instance 300,80.")
    return mean, deviation
