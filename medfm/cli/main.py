"""``medfm``: one word a task. A command loads when it is called, so that ``medfm --help`` answers at once."""

from __future__ import annotations

import os
import sys
from difflib import get_close_matches
from importlib import import_module
from typing import Any

import typer
from typer.core import TyperGroup

from medfm import __version__
from medfm.cli.errors import explain

# name -> (module, help). The module holds `app`, a typer application: one command, or a group of them.
COMMANDS: dict[str, tuple[str, str]] = {
    "pretrain": ("medfm.cli.train", "Pretrain a backbone; without --data, on the embedded synthetic corpus."),
    "finetune": (
        "medfm.cli.train",
        "Fine-tune a backbone on a table of your records, with patient-level folds.",
    ),
    "probe": ("medfm.cli.train", "What a frozen backbone knows about a target: seconds, no training."),
    "embed": ("medfm.cli.train", "Embeddings of files, a folder or a table."),
    "predict": ("medfm.cli.train", "Predictions of a fine-tuned run."),
    "reconstruct": ("medfm.cli.reconstruct", "Missing MRI sequences, synthesised and marked as such."),
    "data": ("medfm.cli.data", "Look at, check and make data."),
    "hub": ("medfm.cli.hub", "List, share, verify and convert backbones."),
    "bench": ("medfm.cli.bench", "How fast this machine is, against a plain reference."),
    "doctor": ("medfm.cli.doctor", "Versions, devices, decoders, caches, and what is missing."),
}


class Lazy(TyperGroup):
    """A group that knows its commands by name and imports one when it is called."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """A light stand-in, enough for the list of commands; :meth:`resolve_command` brings the real one."""
        if cmd_name not in COMMANDS:
            return None
        stand_in = typer.Typer(name=cmd_name, help=COMMANDS[cmd_name][1], add_completion=False)
        stand_in.callback()(lambda: None)
        return typer.main.get_group(stand_in)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args and args[0] not in COMMANDS:
            guess = get_close_matches(args[0], COMMANDS, n=1)
            ctx.fail(f"no such command: {args[0]}." + (f" Did you mean {guess[0]}?" if guess else ""))
        name, command, rest = super().resolve_command(ctx, args)
        return name, load(name) if name in COMMANDS else command, rest


def load(name: str) -> Any:
    """The click command behind ``medfm NAME``."""
    module, text = COMMANDS[name]
    app = import_module(module).app
    group = typer.main.get_group(app)
    command = group.commands.get(name, group)
    command.name = name
    command.help = command.help or text
    return command


app = typer.Typer(cls=Lazy, no_args_is_help=True, add_completion=True, pretty_exceptions_enable=False)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"medfm {__version__}")
        raise typer.Exit


@app.callback(context_settings={"help_option_names": ["-h", "--help"]})
def root(
    debug: bool = typer.Option(False, "--debug", help="Show the traceback of a failure."),
    version: bool = typer.Option(
        False, "--version", callback=_version, is_eager=True, help="Show the version."
    ),
) -> None:
    """From a folder of clinical recordings to a pretrained backbone, and from that to a model of your own.

    Research use only: not a medical device.
    """


def main(argv: list[str] | None = None) -> int:
    """Run one command line; returns the exit status. ``--debug`` may stand anywhere before a ``--``."""
    words = list(sys.argv[1:] if argv is None else argv)
    end = words.index("--") if "--" in words else len(words)
    debug = "--debug" in words[:end]
    words = [w for w in words[:end] if w != "--debug"] + words[end:]
    command = next((w for w in words if w in COMMANDS), "")
    usage_error: Any = typer.BadParameter.__mro__[2]  # click's ClickException, wherever typer keeps click
    try:
        status = typer.main.get_command(app).main(args=words, prog_name="medfm", standalone_mode=False)
        sys.stdout.flush()
        if status == 130:  # typer has answered Ctrl-C by itself, without a word
            return _fail(KeyboardInterrupt(), command, debug)
        return status if isinstance(status, int) else 0
    except typer.Exit as exit_:
        return exit_.exit_code
    except usage_error as error:
        error.show()
        return int(getattr(error, "exit_code", 2))
    except typer.Abort:
        return _fail(KeyboardInterrupt(), command, debug)
    except (Exception, KeyboardInterrupt, SystemExit) as error:
        return _fail(error, command, debug)


def _fail(error: BaseException, command: str, debug: bool) -> int:
    answer = explain(error, command)
    if answer.status == 141:
        # Python flushes standard output once more at exit, and the reader is gone.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    elif debug and answer.status:
        import traceback

        traceback.print_exception(error)
    if answer.message:
        print(f"medfm: {answer.message}", file=sys.stderr)
    return answer.status


if __name__ == "__main__":
    sys.exit(main())
