"""``medfm data codes``: which code stands for which record and patient. For use at the site only."""

from __future__ import annotations

from pathlib import Path

import typer

from medfm.types import ConfigError


def codes(
    source: str = typer.Argument(metavar="PATH|TABLE", help="the table or folder that a run was given"),
    output: Path = typer.Option(..., "--output", help="FILE.csv; it undoes the codes"),
    patient: str = typer.Option("patient_id", "--patient", help="patient column; 'none': there is no such"),
    modality: str = typer.Option("ecg", "--modality", help="of a folder: what its records are"),
    overwrite: bool = typer.Option(False, "--overwrite", help="replace an output that exists"),
) -> None:
    """Row, record and patient of a table beside their codes, to look up a code of a log, report or predictions.csv.

    Keep the file at the site: it undoes the codes.
    """
    from medfm.config.modalities import MODALITIES
    from medfm.data.catalog import resolve_source
    from medfm.data.codes import site_codes
    from medfm.paths import written_whole

    if output.exists() and not overwrite:
        raise ConfigError(f"--output {output} exists already; choose another name, or use --overwrite.")
    if (output.resolve().parent / "train.log").is_file():
        raise ConfigError(
            f"--output {output} lies in a run folder, which names nobody; choose another place."
        )
    if modality not in MODALITIES:
        raise ConfigError(f"--modality {modality} is unknown; use {', '.join(MODALITIES)}.")
    column = None if patient.lower() == "none" else patient
    manifest, _, _ = resolve_source(source, modality=MODALITIES[modality].load()(), patient=column)
    coded = site_codes().table(manifest)
    table = manifest.frame[["record", "patient"]].assign(
        row=coded["row"], record_code=coded["record"], patient_code=coded["patient"]
    )
    with written_whole(output) as part:
        part.touch(mode=0o600)
        table[["row", "record", "patient", "record_code", "patient_code"]].to_csv(part, index=False)
    typer.echo(f"{output}: {len(table)} records. It undoes the codes: keep it at the site.")
