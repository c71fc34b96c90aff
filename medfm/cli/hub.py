"""``medfm hub``: the words for bundles, stores and archives. Listing and checking load no torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from medfm.types import RESEARCH_USE, ConfigError

if TYPE_CHECKING:
    from medfm.hub.catalog import CatalogRow

app = typer.Typer(
    help="List, share, verify and convert backbones.", no_args_is_help=True, add_completion=False
)

REF = typer.Argument(
    help="catalogue id, hub name[@revision], run or bundle folder, folder:PATH/name@revision, hf://org/name"
)


@app.command("list")
def list_(
    modality: str | None = typer.Option(None, help="only this modality"),
    as_json: bool = typer.Option(False, "--json", help="for scripts"),
) -> None:
    """Models that ship with medfm and models of your local hub."""
    from medfm.hub.catalog import list_models

    if modality is not None:
        from medfm.config.modalities import MODALITIES

        if modality not in MODALITIES:
            raise ConfigError(f"--modality {modality} is unknown; use {', '.join(MODALITIES)}.")
    rows = list_models(modality)
    if as_json:
        typer.echo(json.dumps([row.to_dict() for row in rows], indent=1))
    elif not rows:
        typer.echo("No models yet. medfm pretrain --modality ecg makes one without data.")
    else:
        _print_rows(rows)


def _print_rows(rows: list[CatalogRow]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for name in ("id", "modality", "method", "size", "parameters", "first result", "where"):
        table.add_column(name, overflow="fold", no_wrap=name in ("id", "size"))
    for row in rows:
        kind = f"{row.method}, {row.task}" if row.task else row.method
        where = f"{row.where} {row.revision}".strip()
        size = f"{row.size / 1e6:.1f} MB" if row.size else "-"
        result = f"DAMAGED: {row.problem}" if row.problem else row.result or "none stated"
        cells = (row.id, row.modality, kind, size, f"{row.parameters:,}", result, where)
        table.add_row(*map(escape, cells))
    terminal = Console().is_terminal
    console = Console(width=None if terminal else 200)
    console.print(table)
    if any(row.simulated_only for row in rows):
        console.print("\nIds ending in -sim saw simulated data only.", style="dim")
    console.print(RESEARCH_USE, style="dim")


@app.command()
def show(
    ref: str = REF, as_json: bool = typer.Option(False, "--json", help="card and configuration")
) -> None:
    """The model card."""
    from medfm.hub.bundle import README, load_bundle
    from medfm.hub.resolve import resolve

    bundle = load_bundle(resolve(ref))
    if as_json:
        typer.echo(
            json.dumps({"card": bundle.card.model_dump(mode="json"), "config": bundle.config}, indent=1)
        )
        return
    from rich.console import Console
    from rich.markdown import Markdown

    text = (bundle.path / README).read_text(encoding="utf-8").split("\n---\n", 1)[1]
    console = Console()
    if console.is_terminal:
        console.print(Markdown(text))
    else:
        typer.echo(text.strip())
    typer.echo(f"\nFiles: {bundle.path.absolute()}")


@app.command()
def verify(ref: str = REF) -> None:
    """Check every file against its sha256; folder:PATH checks a whole store, and hub the local one."""
    from medfm.hub.bundle import verify_bundle
    from medfm.hub.folder import FolderStore, local_hub
    from medfm.hub.resolve import FOLDER, resolve
    from medfm.hub.seal import read_manifest
    from medfm.types import MedfmError

    store = (
        local_hub()
        if ref == "hub"
        else FolderStore(ref.removeprefix(FOLDER))
        if ref.startswith(FOLDER)
        else None
    )
    if store is not None and (ref == "hub" or store.is_store()):
        if problems := store.verify():
            raise MedfmError(f"{len(problems)} problem(s) in {store.root}:\n" + "\n".join(problems))
        typer.echo(f"{store.root}: {len(store.names())} model(s), every revision and file is intact.")
        return
    bundle = verify_bundle(resolve(ref))
    typer.echo(f"{bundle.card.id}: {len(read_manifest(bundle.path))} files are intact ({bundle.path}).")


@app.command()
def where(
    ref: str | None = typer.Argument(None, help="a model; without it, the folders that medfm uses"),
) -> None:
    """Where a model's files, or the hub and the caches, lie."""
    from medfm import paths

    if ref is not None:
        from medfm.hub.resolve import resolve

        typer.echo(resolve(ref))
        return
    for name, path in (
        ("shipped models", paths.model_cards()),
        ("local hub", paths.hub()),
        ("fetched models", paths.home() / "bundles"),
        ("ingested records", paths.store()),
        ("key of the codes", paths.key_file()),
    ):
        typer.echo(f"{name:17} {path}{'' if path.exists() else '  (not there yet)'}")
    typer.echo("MEDFM_HOME=PATH moves all but the first; MEDFM_KEY_FILE=PATH names another key.")
    typer.echo(
        "Keep a copy of the key, and give it to nobody: with another one, the codes of patients and records in earlier "
        "runs can no longer be matched; with it, anyone can try names against them."
    )


@app.command()
def pull(ref: str = REF) -> None:
    """Copy a model into the local hub: from a folder store, a run, or a network hub (hf://)."""
    from medfm.hub.bundle import load_bundle
    from medfm.hub.folder import local_hub
    from medfm.hub.resolve import resolve

    bundle = load_bundle(resolve(ref))
    bundle.require_weights()
    revision = local_hub().publish(bundle.path, bundle.card.id)
    typer.echo(f"{bundle.card.id}@{revision} is in the local hub. Next: medfm hub show {bundle.card.id}")


@app.command()
def push(
    ref: str = REF,
    destination: str = typer.Argument(help="folder:PATH/name, or hf://org/name"),
    tag: str | None = typer.Option(
        None, help="hf:// only: tag of the new commit; default v + the card's version"
    ),
    public: bool = typer.Option(
        False, "--public", help="hf:// only: a new repository is private unless asked otherwise"
    ),
) -> None:
    """Publish a model as a new, immutable revision."""
    from medfm.hub.resolve import FOLDER, HF, parse_folder_ref, resolve

    if destination.startswith(HF):
        from medfm.hub import huggingface

        pushed = huggingface.push(resolve(ref), destination, tag=tag, private=not public)
        tagged = (
            f", tagged {pushed.tag}"
            if pushed.tag
            else " (its version's tag stands already: raise the card's version)"
        )
        typer.echo(f"pushed as {pushed.ref}{tagged}")
        return
    if tag or public:
        raise ConfigError("--tag and --public belong to hf:// destinations.")
    if not destination.startswith(FOLDER):
        raise ConfigError(f"{destination}: push to folder:PATH/name (a shared folder) or hf://org/name.")
    store, name, revision = parse_folder_ref(destination)
    if revision:
        raise ConfigError(f"{destination}: a push makes its own revision; leave out @{revision}.")
    published = store.publish(resolve(ref), name)
    typer.echo(f"pushed as folder:{store.root}/{name}@{published}")


@app.command("export")
def export(
    ref: str = REF,
    file: Path = typer.Argument(help="FILE.tar"),
    overwrite: bool = typer.Option(False, "--overwrite", help="replace an existing file"),
) -> None:
    """Write a model as one tar, to carry to a site without a network."""
    from medfm.hub.archive import export_bundle
    from medfm.hub.resolve import resolve

    written = export_bundle(resolve(ref), file, overwrite=overwrite)
    typer.echo(
        f"{written} ({written.stat().st_size / 1e6:.1f} MB). At the other site: medfm hub import "
        f"{written.name}"
    )


@app.command("import")
def import_(file: Path = typer.Argument(help="FILE.tar, written by medfm hub export")) -> None:
    """Verify an exported model and put it into the local hub."""
    from medfm.hub.archive import import_archive
    from medfm.hub.folder import local_hub

    name, revision = import_archive(file, local_hub())
    typer.echo(f"{name}@{revision} is in the local hub. Next: medfm hub show {name}")


@app.command()
def convert(
    name: str = typer.Argument(help="official source, as ecg-jepa"),
    checkpoint: Path = typer.Argument(help="the official checkpoint file"),
    output: Path = typer.Option(..., help="folder of the new bundle"),
    identifier: str | None = typer.Option(
        None, "--id", help="id of the new model; default from the output folder's name"
    ),
    settings: list[str] = typer.Option(
        [], "--set", help="what the file does not say, as resolution_mode=1 (pct-net)", metavar="KEY=VALUE"
    ),
    overwrite: bool = typer.Option(False, "--overwrite", help="replace an existing bundle"),
) -> None:
    """Turn an official checkpoint into a bundle."""
    from medfm.hub.official import convert_checkpoint

    if wrong := [s for s in settings if "=" not in s]:
        raise ConfigError(f"--set takes KEY=VALUE, not {wrong[0]}.")
    options = dict(s.split("=", 1) for s in settings)
    bundle = convert_checkpoint(
        name, checkpoint, output, identifier=identifier, overwrite=overwrite, options=options
    )
    typer.echo(
        f"{bundle.card.id} is in {bundle.path}. Next: medfm hub pull {bundle.path} (into the local hub)"
    )
