"""``medfm data``: look at, check and make data. Heavy libraries load inside the commands."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from medfm.cli.catalog import datasets, table
from medfm.cli.codes import codes
from medfm.cli.dedup import dedup
from medfm.cli.slices import slices
from medfm.cli.subjects import print_said, print_subjects
from medfm.types import RESEARCH_USE, ConfigError, MedfmError

if TYPE_CHECKING:
    from medfm.data.scan import ScanResult

app = typer.Typer(help="Look at, check and make data.", no_args_is_help=True, add_completion=False)

SOURCE = typer.Argument(help="a folder, a record, or a table with a 'path' column")
MODALITY = typer.Option("ecg", "--modality", help="what the records are")
JOBS = typer.Option(1, "--jobs", help="parallel readers; -1 for all cores")
AS_JSON = typer.Option(False, "--json", help="for scripts")
OVERWRITE = typer.Option(False, "--overwrite", help="replace an output that exists")
ALIAS = typer.Option(
    None, "--alias", help="CHANNEL=LEAD for channel names that say nothing, for instance ECG=II"
)


@app.command()
def scan(
    source: Path = SOURCE,
    modality: str = MODALITY,
    output: Path | None = typer.Option(None, "--output", help="the manifest; default ./manifest.csv"),
    jobs: int = JOBS,
    alias: list[str] | None = ALIAS,
    most: int = typer.Option(20, "--show", help="how many set-aside files to name"),
    overwrite: bool = OVERWRITE,
    as_json: bool = AS_JSON,
) -> None:
    """Read every record, say what was found and what was wrong with which file, and write the manifest.

    A manifest that exists may hold patients and labels by hand, and is kept without --overwrite.
    """
    target = output or Path("manifest.csv")
    if output:
        _new(output, overwrite)
    keep = target.exists() and not overwrite
    result = _scan(source, modality, jobs, alias)
    written = result.write_manifest(target) if result.records and not keep else None
    if as_json:
        _say_json(
            {
                **result.describe(),
                "failed_files": dict(result.failed),
                "said": result.said,
                "manifest": str(written) if written else None,
            }
        )
    else:
        _print_scan(result, most)
        if written:
            typer.echo(f"manifest: {written} ({len(result.records)} records)")
            _next_step(result, written, modality)
        elif keep and result.records:
            typer.echo(
                f"{target} exists already and was kept; --overwrite or --output FILE writes a new one."
            )
    if not result.records:
        raise MedfmError(
            f"{source}: none of its {result.total} records could be read; the reasons are above."
        )


@app.command()
def describe(
    source: Path = SOURCE,
    modality: str = MODALITY,
    jobs: int = JOBS,
    alias: list[str] | None = ALIAS,
    as_json: bool = AS_JSON,
) -> None:
    """Lengths, sampling rates, leads, amplitudes, patients and findings in numbers."""
    result = _scan(source, modality, jobs, alias)
    summary = result.describe()
    if as_json:
        _say_json(summary)
        return
    _print_summary(summary)
    if result.failed:
        typer.echo(f"{len(result.failed)} files could not be read; `medfm data scan {source}` names them.")
    typer.echo(RESEARCH_USE)


@app.command()
def show(
    source: Path = typer.Argument(help="a record or a folder"),
    output: Path | None = typer.Option(
        None, "--output", help="FILE.png or FILE.html; default: the modality's name and .html"
    ),
    modality: str = MODALITY,
    most: int = typer.Option(8, "--records", help="of a folder, draw this many"),
    fs: float | None = typer.Option(None, "--fs", help="sampling rate of the prepared record, Hz"),
    highpass: float | None = typer.Option(None, "--highpass", help="high-pass of the prepared record, Hz"),
    alias: list[str] | None = ALIAS,
) -> None:
    """Records as recorded and as prepared: ECGs on paper (25 mm/s, 10 mm/mV), radiographs side by side, volumes in three
    planes, MRI a row a sequence."""
    from medfm.data.catalog import tolerant
    from medfm.data.rooms import room_of
    from medfm.data.scan import find_records
    from medfm.data.tables import is_table
    from medfm.paths import written_whole

    settings = {k: v for k, v in {"fs": fs, "highpass": highpass}.items() if v is not None}
    meaning = _modality(modality, alias, **settings)
    output = output or Path(f"{modality}.html")
    if output.suffix.lower() not in (".png", ".html"):
        raise ConfigError(f"--output {output}: give a file that ends in .png or .html.")
    room = room_of(meaning)
    if is_table(source):
        frame = tolerant(source, None).frame
        addresses = frame["path"].tolist()
        if modality == "mri":
            room.know(frame)
    else:
        addresses = find_records(source, room)[0] if source.is_dir() else room.records(source)
    records, failed = [], []
    for address in addresses[:most]:
        try:
            records.append(room.read(address))
        except MedfmError as error:
            failed.append(str(error))
    if not records:
        raise MedfmError(failed[0] if failed else f"{source}: no record to draw.")
    from medfm.modalities import ecg_paper, subject_sheet, volume_sheet, xray_sheet

    sheets = {"ecg": ecg_paper, "xray": xray_sheet, "mri": subject_sheet}
    write: Any = sheets.get(modality, volume_sheet).write
    with written_whole(output) as part:
        failed += [f"{record}: {reason}" for record, reason in write(records, meaning, part)]
    for reason in failed:
        typer.echo(f"not drawn: {reason}", err=True)
    more = f" of {len(addresses)}" if len(addresses) > most else ""
    typer.echo(f"{output}: {min(len(addresses), most) - len(failed)}{more} record(s)")
    typer.echo(RESEARCH_USE)


app.command()(datasets)
app.command()(table)


@app.command()
def synthesize(
    modality: str = typer.Argument(help="ecg, xray, ct or mri"),
    patients: int = typer.Option(200, "--patients", min=1),
    output: Path = typer.Option(..., "--output", help="folder for the records and table.csv"),
    seed: int = typer.Option(0, "--seed"),
    fmt: str | None = typer.Option(
        None,
        "--format",
        help="wfdb (default), edf, csv, dicom; radiographs: dicom; CT: nifti (default), dicom; MRI: nifti",
    ),
    size: int | None = typer.Option(
        None, "--size", help="height and width of radiographs, pixels; default 256"
    ),
    spacing: float | None = typer.Option(None, "--spacing", help="mm between voxels; CT: 3, MRI: 2"),
    faults: float | None = typer.Option(
        None, "--faults", help="share of CT series (--format dicom) with a planted fault"
    ),
    missing: float | None = typer.Option(None, "--missing", help="share of MRI subjects that lack sequences"),
    overwrite: bool = OVERWRITE,
) -> None:
    """Simulated records as real files, with a table of labels: a site to try everything on."""
    from medfm.config.modalities import MODALITIES

    if modality not in MODALITIES:
        raise ConfigError(
            f"medfm data synthesize {modality}: unknown modality; known: {', '.join(MODALITIES)}."
        )
    from medfm.synthetic.corpus import write_corpus

    given = {"size": size, "spacing": spacing, "faults": faults, "missing": missing}
    options: dict[str, Any] = {k: v for k, v in given.items() if v is not None}
    table = write_corpus(modality, patients, output, seed=seed, format=fmt, overwrite=overwrite, **options)
    typer.echo(f"{table}: {patients} simulated patients")
    typer.echo(f"next: medfm data scan {table}")
    typer.echo(RESEARCH_USE)


@app.command()
def split(
    table: Path = typer.Argument(help="a table with path and patient columns"),
    output: Path = typer.Option(Path("split.csv"), "--output", help="the table with a split column"),
    fractions: str = typer.Option("0.7,0.15,0.15", "--fractions", help="train,val,test (or train,test)"),
    patient: str = typer.Option("patient_id", "--patient", help="patient column"),
    target: str | None = typer.Option(
        None, "--target", help="0/1 columns to stratify by, separated by commas"
    ),
    seed: int = typer.Option(0, "--seed"),
    overwrite: bool = OVERWRITE,
) -> None:
    """Assign patients, never records, to train, val and test."""
    from medfm.data.manifest import Manifest
    from medfm.data.splits import split_patients
    from medfm.data.tables import read_table
    from medfm.paths import seen_from, written_whole

    try:
        shares = [float(part) for part in fractions.split(",")]
    except ValueError as error:
        raise ConfigError(
            f"--fractions {fractions}: give two or three numbers, for instance 0.8,0.2."
        ) from error
    if len(shares) not in (2, 3) or min(shares) <= 0:
        raise ConfigError(
            f"--fractions {fractions}: give two or three positive numbers, for instance 0.8,0.2."
        )
    _new(output, overwrite)
    frame = read_table(table)
    column = None if patient.lower() == "none" else patient
    manifest = Manifest.from_frame(frame, root=table.parent.resolve(), patient=column, source=str(table))
    y = None
    if target:
        columns = [c.strip() for c in target.split(",")]
        if missing := [c for c in columns if c not in frame]:
            raise ConfigError(f"--target: {table} has no column {', '.join(missing)}.")
        import pandas as pd

        y = frame[columns].apply(pd.to_numeric, errors="coerce").to_numpy(float)
    parts = split_patients(manifest.patients, shares, seed, y)
    for name, rows in zip(("train", "test") if len(shares) == 2 else ("train", "val", "test"), parts):
        frame.loc[rows, "split"] = name
        people = len({manifest.patients[r] for r in rows})
        typer.echo(f"{name:6} {len(rows)} records, {people} patients")
    frame["path"] = [seen_from(p, output.resolve().parent) for p in manifest.paths]
    with written_whole(output) as part:
        frame.to_csv(part, index=False)
    typer.echo(f"{output}")


app.command()(dedup)
app.command()(slices)
app.command()(codes)


def _new(output: Path, overwrite: bool) -> None:
    if output.exists() and not overwrite:
        raise ConfigError(f"--output {output} exists already; choose another name, or use --overwrite.")


def _modality(name: str, alias: list[str] | None, **settings: Any) -> Any:
    from medfm.config.modalities import MODALITIES

    if name not in MODALITIES:
        raise ConfigError(f"--modality {name} is unknown; use {', '.join(MODALITIES)}.")
    pairs = {}
    for word in alias or []:
        channel, equals, lead = word.rpartition("=")
        if not equals or not channel:
            raise ConfigError(f"--alias {word}: write CHANNEL=LEAD, for instance ECG=II.")
        pairs[channel] = lead
    given = {**({"alias": pairs} if pairs else {}), **settings}
    if foreign := [key for key in given if key not in MODALITIES[name].settings.model_fields]:
        raise ConfigError(f"--{foreign[0]} is not for --modality {name}; leave it out.")
    return MODALITIES[name].load()(**given)


def _scan(source: Path, modality: str, jobs: int, alias: list[str] | None) -> ScanResult:
    from rich.console import Console
    from rich.progress import Progress

    from medfm.data.scan import scan as scan_records

    meaning = _modality(modality, alias)
    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("reading", total=None)
        return scan_records(
            source, meaning, jobs, lambda done, total: bar.update(task, completed=done, total=total)
        )


def _print_scan(result: ScanResult, most: int) -> None:
    _print_summary(result.describe())
    print_said(result.said, most)
    noted = [(r, f) for r in result.records for f in r.warnings]
    for record, finding in noted[:most]:
        typer.echo(f"  {record.record}: {finding.code}: {finding.message}")
    if len(noted) > most:
        typer.echo(f"  and {len(noted) - most} more findings, all in the manifest")
    if result.failed:
        typer.echo(f"set aside: {len(result.failed)} of {result.total}")
        for path, reason in result.failed[:most]:
            typer.echo(f"  {path}: {reason}")
        if len(result.failed) > most:
            typer.echo(
                f"  and {len(result.failed) - most} more (--show {len(result.failed)}); all by reason:"
            )
            for reason, count in Counter(reason for _, reason in result.failed).most_common(10):
                typer.echo(f"  {count} x {reason}")


def _print_summary(summary: dict[str, Any]) -> None:
    def listed(counts: dict[str, Any]) -> str:
        return ", ".join(f"{k} ({v})" for k, v in counts.items())

    known = summary["patients_known"]
    people = f"{known['patients']} patients" if known["patients"] else "patients not stated"
    if known["patients"] and known["records"] < summary["records"]:
        people += f" in the {known['records']} that state one"
    if known["most"] > 1:
        people += f" (up to {known['most']} records each)"
    typer.echo(
        f"{summary['source']}: {summary['records']} records, {people}, {summary['failed']} could not be read"
    )
    if summary["others"]:
        typer.echo(f"no record {listed(summary['others'])}")
    if not summary["records"]:
        return
    typer.echo(f"formats   {listed(summary['formats'])}")
    if "pixels" in summary:
        _print_pictures(summary, listed)
    elif "patterns" in summary:
        print_subjects(summary, listed)
    elif "voxels" in summary:
        _print_volumes(summary, listed)
    else:
        _print_signals(summary, listed)
    if "age" in summary:
        age = summary["age"]
        typer.echo(
            f"age       {age['range'][0]:g} to {age['range'][1]:g}, median {age['median']:g} "
            f"({age['known']} known)"
        )
    if "sex" in summary:
        typer.echo(f"sex       {listed(summary['sex'])}")
    typer.echo(f"findings  {listed(summary['findings']) or 'none'}")


def _print_pictures(summary: dict[str, Any], listed: Any) -> None:
    pixels = summary["pixels"]
    typer.echo(f"pixels    {pixels['smallest']} to {pixels['largest']}, median {pixels['median']}")
    typer.echo(f"bits      {listed(summary['bits'])}")
    typer.echo(
        f"shown as  {listed(summary['photometric'])}; {summary['windowed_before']} were windowed before export"
    )
    if list(summary["body_parts"]) != ["not stated"]:
        typer.echo(f"body part {listed(summary['body_parts'])}")
    typer.echo(f"views     {listed(summary['views'])}")
    typer.echo(f"spacing   {listed(summary['spacing'])}")
    pairs, across = summary["duplicates"], summary["duplicates_across"]
    apart = [f"{count} across {kind}" for kind, count in across.items() if count]
    typer.echo(f"same film {', '.join([f'{len(pairs)} pair' + 's' * (len(pairs) != 1), *apart])}")
    for first, second in pairs[:5]:
        typer.echo(f"  {first} and {second}")


def _print_volumes(summary: dict[str, Any], listed: Any) -> None:
    for name, key, unit in (("voxels", "voxels", ""), ("spacing", "spacing_mm", " mm")):
        low, middle, high = summary[key].values()
        typer.echo(f"{name:9} {low} to {high}{unit}, median {middle}")
    typer.echo(f"axes      {listed(summary['orientation'])}")
    typer.echo(f"unit      {listed(summary['units'])}")
    low, middle, high = summary["values"]
    typer.echo(f"values    {low:g}, {middle:g}, {high:g} (0.5 %, 50 %, 99.5 %, median over volumes)")
    typer.echo(f"store     {summary['store_mib']:g} MiB on the model's grid")


def _print_signals(summary: dict[str, Any], listed: Any) -> None:
    typer.echo(f"fs        {listed(summary['fs'])} Hz")
    s = summary["seconds"]
    typer.echo(
        f"length    {s['shortest']:.4g} to {s['longest']:.4g} s, median {s['median']:.4g}; "
        f"{s['total'] / 3600:.3g} h in all"
    )
    typer.echo(f"leads     {listed(summary['leads'])}")
    typer.echo("amplitude mV (0.5 %, 50 %, 99.5 %, median over records)")
    for lead, values in summary["amplitude_mv"].items():
        typer.echo(f"  {lead:4} " + " ".join(f"{v:7.3f}" for v in values))


def _next_step(result: ScanResult, written: Path, modality: str) -> None:
    frame = result.frame()
    column = frame["patient_id"].fillna("").astype(str) if "patient_id" in frame else None
    if column is None or (column == "").any():
        typer.echo(
            "patient_id is blank where no file states it: fill it in before you train "
            "(splits are made by patient)."
        )
    typer.echo(f"next: medfm pretrain --modality {modality} --data {written}")
    typer.echo(RESEARCH_USE)


def _say_json(value: Any) -> None:
    from medfm.cli.output import say_json

    say_json(value)
