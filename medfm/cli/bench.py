"""``medfm bench``: how fast this machine is."""

from __future__ import annotations

from typing import Any

import typer

from medfm.types import RESEARCH_USE, ConfigError

app = typer.Typer(add_completion=False, no_args_is_help=True)


@app.callback()
def bench() -> None:
    """How fast this machine is, against a plain reference."""


@app.command()
def pretrain(
    modality: str = typer.Option("ecg", "--modality", "-m", help="What the records are: ecg, xray or ct."),
    as_json: bool = typer.Option(False, "--json", help="Results as JSON on standard output."),
) -> None:
    """Samples a second of loader and step, and CPU seconds of a step against a plain implementation."""
    from medfm.cli.output import course, say_json, say_table

    with course():
        from medfm.bench.pretrain import bench_pretrain

        results = bench_pretrain(modality)
    if as_json:
        say_json(results)
    else:
        say_table(results)


@app.command()
def load(
    modality: str = typer.Option("ecg", "--modality", "-m", help="What the records are: ecg or ct."),
    fs: float = typer.Option(250.0, "--fs", help="The model's grid of ECGs, Hz."),
    records: str | None = typer.Option(
        None, "--records", help="Corpus sizes whose memory is compared; ecg 1000,20000; ct 50,1000."
    ),
    as_json: bool = typer.Option(False, "--json", help="Results as JSON on standard output."),
) -> None:
    """Windows or crops a second from the ingest store against a plain reader, and the loader's memory as the corpus
    grows."""
    from medfm.cli.output import course, say_json

    usual = "50,1000" if modality == "ct" else "1000,20000"
    sizes = _sizes(usual if records is None else records)
    with course():
        if modality == "ct":
            from medfm.bench.load_volumes import bench_load_volumes

            results = bench_load_volumes(sizes)
        else:
            from medfm.bench.load import bench_load

            results = bench_load(modality, fs, sizes)
    if as_json:
        say_json(results)
    else:
        _say_load(results)


def _sizes(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise ConfigError(
            f"--records {text}: give whole numbers with commas between, such as 1000,20000."
        ) from None


def _say_load(results: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(width=None if Console().is_terminal else 160)
    shape = results["shape"]
    cut = f"Crops of {' x '.join(map(str, shape))} voxels"
    if results["modality"] == "ecg":
        cut = f"Windows of {shape[0]} leads x {shape[1]:,} samples at {results['fs']:g} Hz"
    console.print(
        f"{cut}, batches of {results['batch']}, one thread; CPU seconds, median of {results['rounds']} interleaved rounds."
    )
    table = Table(box=None, pad_edge=False)
    for name in ("way", "windows / CPU s", "times the reference"):
        table.add_column(name, no_wrap=True, justify="left" if name == "way" else "right")
    for row in results["speed"]:
        speed = row["windows_per_cpu_s"]
        table.add_row(
            row["what"], f"{speed:,.0f}" if speed >= 100 else f"{speed:.3g}", f"{row['ratio']:,.0f}"
        )
    console.print(table)
    console.print()
    table = Table(box=None, pad_edge=False)
    for name in (
        "records",
        "store GB",
        "private memory MB",
        "before the first batch",
        "samples / s",
        "samples / CPU s",
    ):
        table.add_column(name, no_wrap=True, justify="right")
    for row in results["memory"]:
        memory = [
            "not known" if value is None else f"{value:.1f}"
            for value in (row["private_mb"], row["at_start_mb"])
        ]
        speeds = [f"{row[key]:,.0f}" for key in ("samples_per_s", "samples_per_cpu_s")]
        table.add_row(f"{row['records']:,}", f"{row['store_gb']:.2f}", *memory, *speeds)
    console.print(table)
    if results["memory_growth_mb"] is not None:
        first, last = (results["memory"][k]["records"] for k in (0, -1))
        console.print(f"From {first:,} to {last:,} records: {results['memory_growth_mb']:+.1f} MB.")
    for sentence in results["notes"]:
        console.print(sentence, soft_wrap=True)
    console.print(RESEARCH_USE, style="dim")
