"""The frame of the command line: dispatch, exit status, and one sentence for every failure."""

import errno
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
import typer

from medfm import __version__
from medfm.cli import main as cli
from medfm.cli.errors import explain
from medfm.types import ConfigError, MedfmError, ReadError


@pytest.fixture
def command(monkeypatch):
    """``medfm doctor`` replaced by a command that does what the test says."""

    def install(action):
        app = typer.Typer(add_completion=False)
        app.command("doctor")(lambda: action())
        monkeypatch.setitem(sys.modules, "medfm.cli.doctor", SimpleNamespace(app=app))

    return install


def _raise(error):
    def action():
        raise error

    return action


def test_version_and_help(capsys):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"medfm {__version__}\n"
    assert cli.main(["--help"]) == 0
    text = capsys.readouterr().out
    assert "not a medical device" in text
    for later in ("evaluate", "compare", "audit", "plan"):
        assert later not in text, "a command that does not exist yet is not listed"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["pretran"], "Did you mean pretrain?"),
        (["pretrain", "--modallity", "ecg"], "--modality"),
        (["pretrain", "--seed", "x"], "--seed"),
        (["probe", "t.csv"], "--backbone"),
        (["bench", "pretrian"], "pretrian"),
    ],
)
def test_a_wrong_call_is_status_2(capsys, words, expected):
    assert cli.main(words) == 2
    out, err = capsys.readouterr()
    assert expected in err and out == "" and "Traceback" not in err


@pytest.mark.parametrize(
    ("error", "status", "expected"),
    [
        (ConfigError("seed: is wrong"), 2, "medfm: seed: is wrong"),
        (MedfmError("no records in x. Add some."), 1, "medfm: no records in x. Add some."),
        (ReadError("a.hea: cut off."), 1, "a.hea: cut off."),
        (OSError(errno.ENOSPC, "No space left on device", "run/x.ckpt"), 1, "the disk is full (run/x.ckpt)"),
        (RuntimeError("PytorchStreamWriter failed: No space left on device"), 1, "the disk is full"),
        (
            PermissionError(errno.EACCES, "Permission denied", "run"),
            1,
            "run: Permission denied. Choose a place",
        ),
        (
            OSError(errno.EROFS, "Read-only file system", "run"),
            1,
            "run: Read-only file system. Choose a place",
        ),
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "a.csv"), 1, "a.csv: No such file"),
        (MemoryError(), 1, "trainer.batch_size"),
        (ModuleNotFoundError("No module named 'h5py'", name="h5py"), 1, "'h5py' is missing. `medfm doctor`"),
        (KeyboardInterrupt(), 130, "stopped by Ctrl-C."),
        (ZeroDivisionError("division\nby zero"), 1, "unexpected ZeroDivisionError: division by zero"),
        (SystemExit(3), 3, ""),
    ],
)
def test_every_failure_is_one_sentence_and_a_status(command, capsys, error, status, expected):
    command(_raise(error))
    assert cli.main(["doctor"]) == status
    out, err = capsys.readouterr()
    assert expected in err and out == "" and "Traceback" not in err
    assert len(err.strip().splitlines()) <= 1


def test_debug_shows_the_traceback_wherever_it_stands(command, capsys):
    command(_raise(MedfmError("nothing there.")))
    for words in (["--debug", "doctor"], ["doctor", "--debug"]):
        assert cli.main(words) == 1
        err = capsys.readouterr().err
        assert "Traceback" in err and err.rstrip().endswith("medfm: nothing there.")


def test_the_cause_answers_but_not_what_was_merely_being_handled():
    def wrapped(explicit):
        try:
            try:
                raise MedfmError("the reason.")
            except MedfmError as reason:
                raise RuntimeError("wrapper") from (reason if explicit else None)
        except RuntimeError as error:
            return error

    assert explain(wrapped(True)).message == "the reason."
    assert "unexpected RuntimeError: wrapper" in explain(wrapped(False)).message


def test_a_library_that_turns_ctrl_c_into_an_exit_is_still_ctrl_c():
    """Lightning answers KeyboardInterrupt with SystemExit(1)."""
    try:
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt:
            raise SystemExit(1)  # noqa: B904
    except SystemExit as error:
        answer = explain(error, "pretrain")
    assert answer.status == 130 and "--resume" in answer.message


def test_a_reader_that_goes_away_is_no_error():
    code = "import sys; from medfm.cli.main import main; sys.exit(main(sys.argv[1:]))"
    words = ["pretrain", "--modality", "ecg", "--print-config"]
    program = subprocess.Popen(
        [sys.executable, "-c", code, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    program.stdout.close()
    err = program.stderr.read()
    assert program.wait() == 141 and err == ""


def test_a_file_that_may_not_be_read_is_not_a_place_to_write(tmp_path, monkeypatch):
    path = tmp_path / "t.csv"
    path.write_text("")
    error = PermissionError(errno.EACCES, "Permission denied", str(path))
    assert "may write to: --output" in explain(error).message
    monkeypatch.setattr("os.access", lambda _, mode: mode == os.F_OK)
    assert explain(error).message.endswith("change its permissions.")
