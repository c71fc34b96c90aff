"""``medfm bench``: how fast this machine is."""

from __future__ import annotations

import typer

app = typer.Typer(add_completion=False, no_args_is_help=True)


@app.callback()
def bench() -> None:
    """How fast this machine is, against a plain reference."""


@app.command()
def pretrain(
    modality: str = typer.Option("ecg", "--modality", "-m", help="What the records are: ecg or xray."),
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
