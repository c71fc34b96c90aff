"""What ``medfm data scan`` prints of MRI subjects: sequences, patterns of what is missing, masks, and why a series was taken."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import typer


def print_subjects(summary: dict[str, Any], listed: Callable[[dict[str, Any]], str]) -> None:
    from medfm.data.scan_subjects import mixed_labels

    total = summary["records"]
    typer.echo(f"sequences {listed(summary['sequences'])}")
    if never := [s for s, n in summary["sequences"].items() if not n]:
        kept = ",".join(s for s, n in summary["sequences"].items() if n)
        typer.echo(
            f"          {', '.join(never)}: no subject has it; modality.sequences=[{kept}] leaves it out of a model"
        )
    width = max(map(len, summary["patterns"]))
    for pattern, count in summary["patterns"].items():
        absent = [s for s in summary["sequences"] if s not in pattern.split()]
        note = f"without {', '.join(absent)}" if absent else "complete"
        typer.echo(f"  {pattern:{width}}  {count:5} ({100 * count / total:3.0f} %)  {note}")
    if summary["sites"]:
        typer.echo(f"sites     {listed(summary['sites'])}")
    masks = summary["masks"]
    numbers = "; ".join(f"{words} ({n})" for words, n in masks["classes"].items())
    typer.echo(f"masks     {masks['subjects']} of {total}{f', numbers {numbers}' if numbers else ''}")
    if told := mixed_labels(summary):
        typer.echo(f"          {told}")
    for name, key, unit in (("voxels", "voxels", ""), ("spacing", "spacing_mm", " mm")):
        low, middle, high = summary[key].values()
        typer.echo(f"{name:9} {low} to {high}{unit}, median {middle}")
    typer.echo(f"axes      {listed(summary['orientation'])}")
    typer.echo(f"store     {summary['store_mib']:g} MiB on the model's grid")


def print_said(said: Sequence[str], most: int) -> None:
    """The reasons, one a line."""
    for line in said[:most]:
        typer.echo(f"  {line}")
    if len(said) > most:
        typer.echo(f"  and {len(said) - most} more (--show {len(said)})")
