"""``medfm pretrain | finetune | probe | embed | predict``: words to a configuration, and to a workflow."""

from __future__ import annotations

from typing import Any

import typer

from medfm.types import ConfigError

app = typer.Typer(add_completion=False)

OVERRIDES = typer.Argument(None, metavar="key.path=value", help="Any setting; --print-config lists them.")
DATA = typer.Option(
    None,
    "--data",
    help="PATH, TABLE, DATASET or DATASET=PATH, each with an optional @WEIGHT; may be repeated.",
)
PATIENT = typer.Option(
    None,
    "--patient",
    help="Patient column (patient_id). 'none': every record its own patient; marks every result.",
)
CONFIG = typer.Option(
    None, "--config", help="A YAML file, a recipe by its name, or a run folder to run again."
)
OUTPUT = typer.Option(None, "--output", "-o", help="Run folder.")
NAME = typer.Option(None, "--name", help="Name in the local hub.")
SEED = typer.Option(None, "--seed", help="Random seed (0).")
RESUME = typer.Option(False, "--resume", help="Go on from the last checkpoint of the run folder.")
OVERWRITE = typer.Option(False, "--overwrite", help="Replace an existing run folder.")
REPLACE = typer.Option(False, "--overwrite", help="Replace an existing output file.")
PRINT = typer.Option(False, "--print-config", help="Print the resolved configuration and stop.")
JSON = typer.Option(False, "--json", help="Results as JSON on standard output.")
QUIET = typer.Option(False, "--quiet", "-q", help="No progress.")
DEVICES = typer.Option(None, "--devices", help="Number of GPUs or processes, or 'auto'.")
PRECISION = typer.Option(None, "--precision", help="auto, 32, bf16-mixed or 16-mixed.")
TARGET = typer.Option(
    None, "--target", help="Column to predict; several with commas (multilabel; survival: TIME,EVENT)."
)
BACKBONE = typer.Option(
    None, "--backbone", help="Catalogue id, local hub name, run or bundle folder, hf://org/name@rev."
)
TABLE = typer.Argument(
    None, metavar="TABLE", help="CSV, TSV, Excel or Parquet with a path and a patient column."
)
CODES = typer.Option(
    False, "--codes", help="For a file that leaves the site: codes in place of patient ids, names and paths."
)
SOURCE = typer.Argument(..., metavar="PATH|TABLE", help="A file, a folder or a table with a path column.")


@app.command(rich_help_panel="Train")
def pretrain(
    overrides: list[str] = OVERRIDES,
    modality: str = typer.Option(None, "--modality", "-m", help="What the records are: ecg or xray."),
    method: str = typer.Option(
        None, "--method", help="Self-supervised method; default: the modality's recipe."
    ),
    data: list[str] = DATA,
    preset: str = typer.Option(
        None, "--preset", help="quick (default, minutes on a CPU), small, base or paper."
    ),
    config: str = CONFIG,
    init: str = typer.Option(None, "--init", help="Go on from this backbone (REF), its preprocessing kept."),
    patient: str = PATIENT,
    seed: int = SEED,
    output: str = OUTPUT,
    name: str = NAME,
    max_steps: int = typer.Option(None, "--max-steps", help="Training steps."),
    devices: str = DEVICES,
    num_nodes: int = typer.Option(None, "--num-nodes", help="Machines."),
    precision: str = PRECISION,
    resume: bool = RESUME,
    overwrite: bool = OVERWRITE,
    print_config: bool = PRINT,
    as_json: bool = JSON,
    quiet: bool = QUIET,
) -> None:
    """Pretrain a backbone; without --data, on the embedded synthetic corpus.

    medfm pretrain --modality ecg

    medfm pretrain --modality ecg --data synthetic@0.5 --data waves/@0.5 --preset small
    """
    from medfm.config.load import dump_yaml, resolve_pretrain

    if resume and output and not modality and not config:
        config = output  # the run folder knows the rest
    flags = _given(
        {
            "data.sources": data or None,
            "init": init,
            "seed": seed,
            "output.dir": output,
            "name": name,
            "trainer.steps": max_steps,
            "trainer.devices": _count(devices),
            "trainer.num_nodes": num_nodes,
            "trainer.precision": precision,
        }
    )
    flags |= _patient(patient, "data.patient")
    resolved = resolve_pretrain(modality, method, preset, config, flags, overrides or ())
    if print_config:
        typer.echo(dump_yaml(resolved), nl=False)
        return
    _exclusive(resume, overwrite)
    from medfm.cli.output import course, say_run

    with course(quiet):
        from medfm.workflows.pretrain import pretrain as workflow

        run = workflow(resolved, resume=resume, overwrite=overwrite, progress=not quiet)
    say_run(run, as_json)


@app.command(rich_help_panel="Train")
def finetune(
    table: str = TABLE,
    overrides: list[str] = OVERRIDES,
    backbone: str = BACKBONE,
    target: str = TARGET,
    task: str = typer.Option(
        None,
        "--task",
        help="auto (default), binary, multiclass, multilabel, regression, survival (--target TIME,EVENT) or segmentation.",
    ),
    strategy: str = typer.Option(
        None, "--strategy", help="lp-ft (default), linear-probe, full, progressive or lora."
    ),
    patient: str = PATIENT,
    group: str = typer.Option(
        None, "--group", help="Column whose values are the folds (leave one site out)."
    ),
    folds: int = typer.Option(None, "--folds", help="Patient-level folds (5)."),
    repeats: str = typer.Option(None, "--repeats", help="Repetitions of the folds, or auto."),
    config: str = CONFIG,
    seed: int = SEED,
    output: str = OUTPUT,
    name: str = NAME,
    precision: str = PRECISION,
    resume: bool = RESUME,
    overwrite: bool = OVERWRITE,
    print_config: bool = PRINT,
    as_json: bool = JSON,
    quiet: bool = QUIET,
) -> None:
    """Fine-tune a backbone on a table of your records; patients never cross a fold.

    medfm finetune site.csv --backbone ecg-jepa-xs-sim --target afib

    medfm finetune site.csv --backbone ecg-jepa-xs-sim --target months,death --task survival

    medfm finetune ct.csv --backbone RUN --target mask --task segmentation
    """
    from medfm.config.load import dump_yaml, is_override, resolve_finetune

    words = list(overrides or ())
    if table is not None and is_override(table):
        table, words = None, [table, *words]  # type: ignore[assignment]
    if resume and output and not table and not config:
        config = output  # the run folder knows the rest
    flags = _given(
        {
            "finetune.table": table,
            "finetune.backbone": backbone,
            "finetune.target": _columns(target),
            "finetune.task": task,
            "finetune.strategy": strategy,
            "finetune.group": group,
            "finetune.folds": folds,
            "finetune.repeats": _count(repeats),
            "seed": seed,
            "output.dir": output,
            "name": name,
            "trainer.precision": precision,
        }
    )
    flags |= _patient(patient, "finetune.patient")
    resolved = resolve_finetune(config, flags, words)
    if print_config:
        typer.echo(dump_yaml(resolved), nl=False)
        return
    _exclusive(resume, overwrite)
    from medfm.cli.output import course, say_run

    with course(quiet):
        from medfm.workflows.finetune import finetune as workflow

        run = workflow(resolved, resume=resume, overwrite=overwrite, progress=not quiet)
    say_run(run, as_json)


@app.command(rich_help_panel="Use")
def probe(
    table: str = typer.Argument(..., metavar="TABLE", help="CSV, TSV, Excel or Parquet."),
    backbone: str = typer.Option(..., "--backbone", help="REF, or 'all' for every backbone at hand."),
    target: str = typer.Option(..., "--target", help="Column to predict; several with commas."),
    task: str = typer.Option(
        "auto",
        "--task",
        help="auto, binary, multiclass, multilabel, regression or survival (--target TIME,EVENT).",
    ),
    horizon: float = typer.Option(
        None, "--horizon", help="Survival: time at which chances are judged. [default: the median event time]"
    ),
    patient: str = PATIENT,
    folds: int = typer.Option(5, "--folds", min=2, help="Patient-level folds."),
    repeats: int = typer.Option(
        None,
        "--repeats",
        min=1,
        help="Repeats of the folds. [default: 10 below 200 patients, 5 below 1,000, else 1]",
    ),
    pool: str = typer.Option(
        "mean-std", "--pool", help="Features over tokens: mean, or mean-std (and deviation)."
    ),
    optimism: bool = typer.Option(
        False, "--optimism", help="Also: how much folds by record, in place of patients, would flatter."
    ),
    seed: int = typer.Option(0, "--seed"),
    output: str = typer.Option(None, "--output", "-o", help="Also write the results to this JSON file."),
    overwrite: bool = REPLACE,
    as_json: bool = JSON,
) -> None:
    """Frozen embeddings, prototypes and a linear model on patient folds: seconds, no training."""
    from medfm.cli.output import course, say_json, say_probe

    if pool not in ("mean", "mean-std"):
        raise ConfigError(f"--pool {pool}: mean or mean-std.")
    with course():
        from medfm.workflows.probe import probe as workflow

        results = workflow(
            table,
            backbone,
            _columns(target) or [],
            task=task,
            horizon=horizon,
            patient=_patient(patient, "patient").get("patient", "patient_id"),
            folds=folds,
            repeats=repeats or "auto",
            pool=pool,
            optimism=optimism,
            output=output,
            overwrite=overwrite,
            seed=seed,
        )
    if as_json:
        say_json(results)
    else:
        say_probe(results)


@app.command(rich_help_panel="Use")
def embed(
    source: str = SOURCE,
    backbone: str = typer.Option(..., "--backbone", help="REF."),
    output: str = typer.Option(..., "--output", "-o", help="FILE.parquet, .csv or .npz."),
    patient: str = PATIENT,
    codes: bool = CODES,
    overwrite: bool = REPLACE,
    as_json: bool = JSON,
) -> None:
    """Embeddings of files, a folder or a table: one row a record, with its name and path unless --codes."""
    from medfm.cli.output import course

    column = _patient(patient, "patient").get("patient")
    with course():
        from medfm.workflows.embed import embed as workflow

        written = workflow(source, backbone, output, patient=column, codes=codes, overwrite=overwrite)
    _say_written(written or output, as_json)


@app.command(rich_help_panel="Use")
def predict(
    source: str = SOURCE,
    model: str = typer.Option(..., "--model", help="A fine-tuned run, its bundle, or a REF."),
    output: str = typer.Option(
        ..., "--output", "-o", help="FILE.csv; of a model that draws masks, a folder."
    ),
    patient: str = PATIENT,
    codes: bool = CODES,
    overwrite: bool = REPLACE,
    as_json: bool = JSON,
) -> None:
    """Predictions of a fine-tuned run: one row a record, with its name and path unless --codes; or masks of volumes.

    medfm predict ct.nii.gz --model RUN --output masks
    """
    from medfm.cli.output import course

    column = _patient(patient, "patient").get("patient")
    with course():
        from medfm.workflows.predict import predict as workflow

        written = workflow(source, model, output, patient=column, codes=codes, overwrite=overwrite)
    _say_written(written or output, as_json)


def _given(flags: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in flags.items() if value is not None}


def _columns(text: str | None) -> list[str] | None:
    """``a, b`` -> two columns."""
    return [part.strip() for part in text.split(",") if part.strip()] if text is not None else None


def _count(text: str | None) -> int | str | None:
    """Digits as a number; any other word goes to the configuration, which knows the valid ones."""
    return int(text) if text is not None and text.lstrip("-").isdigit() else text


def _patient(text: str | None, key: str) -> dict[str, str | None]:
    """``none`` is a choice (null); not given leaves the default column."""
    if text is None:
        return {}
    return {key: None if text.lower() == "none" else text}


def _exclusive(resume: bool, overwrite: bool) -> None:
    if resume and overwrite:
        raise ConfigError("--resume keeps a run and --overwrite deletes it: give one of them.")


def _say_written(path: Any, as_json: bool) -> None:
    from pathlib import Path

    from medfm.cli.output import say_json, short
    from medfm.types import RESEARCH_USE

    if as_json:
        say_json({"output": str(path), "note": RESEARCH_USE})
    else:
        typer.echo(f"Written to {short(Path(path))}\n{RESEARCH_USE}")
