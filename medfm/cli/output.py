"""What commands say: results and the next command on standard output, progress on standard error."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from medfm.types import RESEARCH_USE

if TYPE_CHECKING:
    from medfm.workflows.run_folder import Run


class _Stderr(logging.StreamHandler[Any]):
    """Looks standard error up at every line: a progress bar replaces it while it is drawn."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> Any:  # type: ignore[override]
        return sys.stderr


@contextmanager
def course(quiet: bool = False) -> Iterator[None]:
    """While a workflow runs, its log goes to standard error, and so does whatever a library prints."""
    logger = logging.getLogger("medfm")
    handler = _Stderr()
    handler.setLevel(logging.WARNING if quiet else logging.INFO)
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    # Lightning's notes (devices, tips, its own progress) repeat what the run says in its own words.
    # (Its import resets the level of its top logger, so the ones below it are quietened.)
    for name in ("pytorch_lightning", "lightning_fabric"):
        logging.getLogger(f"{name}.utilities.rank_zero").setLevel(logging.WARNING)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        logger.removeHandler(handler)


def say_run(run: Run, as_json: bool) -> None:
    """Where everything lies, and the next command to try; with ``--json`` the same as one JSON object."""
    if as_json:
        say_json(
            {
                "path": run.path,
                "report": run.report,
                "bundle": run.bundle,
                "results": run.results,
                "next": _commands(run.next_command),
                "note": RESEARCH_USE,
            }
        )
        return
    typer.echo(f"\nWritten to {short(run.path)}")
    for label, path in (("report", run.report), ("bundle", run.bundle)):
        if path is not None:
            typer.echo(f"  {label}  {short(path)}")
    if commands := _commands(run.next_command):
        typer.echo("Next:")
        for command in commands:
            typer.echo(f"  {command}")
    typer.echo(RESEARCH_USE)


def say_json(value: Any) -> None:
    typer.echo(json.dumps(plain(value), indent=2, ensure_ascii=False))


def say_table(results: dict[str, Any]) -> None:
    """Nested results as indented lines, numbers with four significant digits."""

    def lines(value: dict[str, Any], indent: str) -> None:
        for key, inner in value.items():
            if isinstance(inner, dict):
                typer.echo(f"{indent}{key}")
                lines(inner, indent + "  ")
            elif isinstance(inner, list) and inner and isinstance(inner[0], dict):
                typer.echo(f"{indent}{key}")
                for row in inner:
                    typer.echo(f"{indent}  " + "  ".join(f"{k} {_number(v)}" for k, v in row.items()))
            elif isinstance(inner, list) and any(isinstance(v, str) and len(v) > 40 for v in inner):
                typer.echo(f"{indent}{key}")
                for sentence in inner:
                    typer.echo(f"{indent}  {sentence}")
            else:
                typer.echo(f"{indent}{key}  {_number(inner)}")

    lines(plain(results), "")
    typer.echo(RESEARCH_USE)


def say_probe(results: dict[str, Any]) -> None:
    """What was asked, one row of features a line, the targets below, and the verdicts in words."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console(width=None if Console().is_terminal else 160)
    if results.get("measure", "auroc") != "auroc":
        _say_values(console, results)
        return
    target = results["targets"][0] if len(results["targets"]) == 1 else f"{len(results['targets'])} targets"
    console.print(
        f"{results['records']:,} records of {results['patients']:,} patients, {escape(target)}; "
        f"{results['folds']} patient folds, {results['repeats']} repeat(s). AUROC within folds, 95 % intervals."
    )
    table = Table(box=None, pad_edge=False)
    for name in ("features", "probe", "AUROC", "untrained", "difference", "gap closed", "AUPRC"):
        table.add_column(name, no_wrap=name not in ("features", "probe"))
    for row in results["rows"]:
        table.add_row(
            escape(row["backbone"]),
            row["probe"],
            f"{row['auroc']:.3f} ({_range(row['interval'], '.3f')})",
            f"{row['random_initialisation']:.3f}",
            f"{row['difference']:+.3f} ({_range(row['difference_interval'], '+.3f')})",
            ""
            if row["gap_closed"] is None
            else f"{row['gap_closed']:.0%} ({_range(row['gap_interval'], '.0%')})",
            f"{row['auprc']:.3f}",
        )
    console.print(table)
    if by_target := results.get("by_target"):
        chosen = [row for row in by_target if row["probe"] == "logistic regression"]
        names = list(dict.fromkeys(row["backbone"] for row in chosen))
        table = Table(
            box=None, pad_edge=False, title="AUROC by target, logistic regression", title_justify="left"
        )
        table.add_column("target", no_wrap=True)
        for name in names:
            table.add_column(escape(name), justify="right")
        table.add_column("untrained", justify="right")
        for name in dict.fromkeys(row["target"] for row in chosen):
            rows = {row["backbone"]: row for row in chosen if row["target"] == name}
            untrained = next(iter(rows.values()))["random_initialisation"]
            table.add_row(escape(name), *(f"{rows[n]['auroc']:.3f}" for n in names), f"{untrained:.3f}")
        console.print()
        console.print(table)
    console.print()
    told = results.get("optimism")
    for sentence in [*results["verdicts"], *([_optimism(told)] if told else []), *results["notes"]]:
        console.print(escape(sentence), soft_wrap=True)
    console.print(RESEARCH_USE, style="dim")


def _optimism(told: dict[str, Any]) -> str:
    gain = told["optimism"]
    return (
        f"Optimism of folds by record: AUROC {told['by_record']:.3f} where a patient's records stand on both sides, "
        f"{told['by_patient']:.3f} by patient; {gain['value']:+.3f} (95 % interval {gain['low']:+.3f} to {gain['high']:+.3f}) that no "
        "new patient would bring."
    )


VALUES = {
    "mae": "MAE", "rmse": "RMSE", "r2": "R²", "pearson": "Pearson", "training_median": "training median",
    "harrell_c": "Harrell's C", "uno_c": "Uno's C", "auroc_at_horizon": "AUROC at horizon",
    "integrated_brier": "int. Brier", "kaplan_meier": "of Kaplan-Meier",
}  # fmt: skip


def _say_values(console: Any, results: dict[str, Any]) -> None:
    """Of a value or survival: one row of features a line, and the verdicts in words."""
    from rich.markup import escape
    from rich.table import Table

    measure = results["measure"]
    console.print(
        f"{results['records']:,} records of {results['patients']:,} patients, {escape(', '.join(results['targets']))}; "
        f"{results['folds']} patient folds, {results['repeats']} repeat(s). {VALUES[measure]} within folds, 95 % intervals; "
        f"{'smaller is better' if measure == 'mae' else '0.5 is guessing'}."
    )
    table = Table(box=None, pad_edge=False)
    more = [k for k in VALUES if k != measure and k in results["rows"][0]]
    for name in ("features", VALUES[measure], "untrained", "difference", *(VALUES[k] for k in more)):
        table.add_column(name, no_wrap=name != "features")
    for row in results["rows"]:
        table.add_row(
            escape(row["backbone"]),
            f"{_figure(row[measure])} ({_range(row['interval'], '.3f')})",
            _figure(row["random_initialisation"]),
            f"{_figure(row['difference'], '+.3f')} ({_range(row['difference_interval'], '+.3f')})",
            *(_figure(row[k]) for k in more),
        )
    console.print(table)
    console.print()
    for sentence in [*results["verdicts"], *results["notes"]]:
        console.print(escape(sentence), soft_wrap=True)
    console.print(RESEARCH_USE, style="dim")


def _figure(value: float | None, how: str = ".3f") -> str:
    return "not defined" if value is None else f"{value:{how}}"


def _range(pair: Sequence[float | None], how: str) -> str:
    low, high = pair
    return "not estimated" if low is None or high is None else f"{low:{how}} to {high:{how}}"


def _number(value: Any) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(_number(v) for v in value) + "]"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def plain(value: Any) -> Any:
    """JSON's own types: paths as text, arrays as lists, NaN (no number in JSON) as null."""
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple, set)):
        return [plain(v) for v in value]
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "tolist"):  # numpy scalar or array, without importing numpy
        return plain(value.tolist())
    if isinstance(value, float):
        return value if value == value and abs(value) != float("inf") else None
    return value if value is None or isinstance(value, (str, int, bool)) else str(value)


def short(path: Path) -> str:
    """Relative to where the user stands when that is shorter."""
    try:
        return str(path.resolve().relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def _commands(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip()]
