"""``medfm doctor``: versions, devices, decoders, caches, what is missing and how to get it."""

from __future__ import annotations

from typing import Any

import typer

app = typer.Typer(add_completion=False)


@app.command()
def doctor(as_json: bool = typer.Option(False, "--json", help="The same as JSON.")) -> None:
    """Versions, devices, decoders, caches, and what is missing with the way to get it. No network call."""
    from medfm.cli.output import course, say_json
    from medfm.workflows.doctor import doctor as examine

    with course():
        report = examine()
    if as_json:
        say_json(report)
    else:
        _say(report)


def _say(report: dict[str, Any]) -> None:
    from medfm.workflows.doctor import size

    for part in ("medfm", "packages", "devices", "decoders", "shipped", "network"):
        typer.echo(part)
        values = report[part] or {"proxies, certificates, offline switches": "none set"}
        width = max(map(len, values))
        for key, value in values.items():
            typer.echo(f"  {key:<{width}}  {value}")
        if part == "network":
            typer.echo(
                "  medfm sends nothing and fetches nothing unless a command asks for it (hub pull, hf://...)"
            )
    typer.echo("places")
    width = max(map(len, report["places"]))
    for name, place in report["places"].items():
        used = f"{size(place['used'])} used, " if "used" in place else ""
        locked = "" if place["writable"] else ", NOT WRITABLE"
        typer.echo(f"  {name:<{width}}  {place['path']}  ({used}{size(place['free'])} free{locked})")
    typer.echo("missing" if report["problems"] else "Nothing is missing.")
    for problem in report["problems"]:
        typer.echo(f"  {problem}")
