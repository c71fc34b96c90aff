"""The run folder: what is finished is not lost to a mistake, a full disk or Ctrl-C."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from medfm import paths
from medfm.config.load import resolve_pretrain
from medfm.types import ConfigError, MedfmError
from medfm.workflows.pretrain import pretrain
from medfm.workflows.run_folder import MARK, RunFolder


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    folder = RunFolder.create(tmp_path / "run")
    with folder.logging():
        folder.write_config("seed: 1\n")
    (folder.path / "results.json").write_text("{}")
    return folder.path


def hidden(folder: Path) -> list[str]:
    return [p.name for p in folder.iterdir() if p.name.startswith(".")]


def test_a_run_that_never_began_gives_back_the_one_it_was_to_overwrite(finished: Path) -> None:
    folder = RunFolder.create(finished, overwrite=True)
    with pytest.raises(MedfmError), folder.logging():
        assert not (finished / MARK).exists()
        raise MedfmError("no such data")
    assert (finished / "results.json").is_file() and (finished / MARK).read_text() == "seed: 1\n"
    assert not hidden(finished.parent)


def test_a_run_that_began_has_replaced_the_old_one(finished: Path) -> None:
    folder = RunFolder.create(finished, overwrite=True)
    with pytest.raises(KeyboardInterrupt), folder.logging():
        folder.write_config("seed: 2\n")
        raise KeyboardInterrupt
    assert (finished / MARK).read_text() == "seed: 2\n"
    assert not (finished / "results.json").exists() and not hidden(finished.parent)


def test_a_mistyped_source_costs_no_run(finished: Path) -> None:
    config = resolve_pretrain("ecg", flags={"output.dir": str(finished), "data.sources": ["/nowhere"]})
    with pytest.raises(ConfigError, match="no such file, folder or data set"):
        pretrain(config, overwrite=True, progress=False)
    assert (finished / "results.json").is_file()


def test_a_run_stopped_before_it_began_is_resumed_by_beginning(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), RunFolder.create(tmp_path / "run").logging():
        raise KeyboardInterrupt  # Ctrl-C while records are ingested
    assert not RunFolder.create(tmp_path / "run", resume=True).resumed
    assert not RunFolder.create(tmp_path / "run").resumed
    with pytest.raises(ConfigError, match="nothing to resume"):
        RunFolder.create(tmp_path / "other", resume=True)


def test_a_full_disk_says_how_to_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = RunFolder.create(tmp_path / "run")
    full = OSError(errno.ENOSPC, "No space left on device")

    def write_text(self: Path, text: str, **_: object) -> int:
        self.write_bytes(text[:2].encode())
        raise full

    with monkeypatch.context() as patch, pytest.raises(MedfmError, match="the same command again"):
        patch.setattr(Path, "write_text", write_text)
        with folder.logging():
            folder.write_config("seed: 1\n")
    assert not (folder.path / MARK).exists()  # half a configuration would be another one
    with pytest.raises(MedfmError, match="with --resume"), folder.logging():
        folder.write_config("seed: 1\n")
        raise full


def test_only_the_settings_of_the_run_resume_it(tmp_path: Path) -> None:
    saved, folder = resolve_pretrain("ecg"), RunFolder(tmp_path)
    folder.same_settings(saved, resolve_pretrain("ecg", flags={"output.dir": "elsewhere"}))
    now = resolve_pretrain("ecg", overrides=["seed=5", "modality.fs=100", "modality.seconds=9"])
    folder.same_settings(saved, now, ["modality", "seed"])
    with pytest.raises(ConfigError, match=r"other settings \(modality\.seconds, seed\)"):
        folder.same_settings(saved, now, ["modality.fs"])


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "new" / "z.csv"
    with paths.written_whole(target) as part:
        part.write_text("whole")
        assert part.suffix == ".csv" and not target.exists()
    with pytest.raises(KeyboardInterrupt), paths.written_whole(target) as part:
        part.write_text("ha")
        raise KeyboardInterrupt
    assert target.read_text() == "whole" and [p.name for p in target.parent.iterdir()] == ["z.csv"]
    with pytest.raises(OSError) as caught, paths.written_whole(target) as part:
        raise OSError(errno.EACCES, "Permission denied", str(part))
    assert caught.value.filename == str(target)


def test_the_log_file_has_the_words_that_are_for_files(
    finished: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with RunFolder.create(finished, resume=True).logging() as log:
        log.warning("set aside: %s", "waves/DOE.hea", extra={"filed": "set aside: row 2, 100 %"})
        log.info("%d %% done", 50)
    assert [line.split(" ", 2)[2] for line in (finished / "train.log").read_text().splitlines()] == [
        "WARNING set aside: row 2, 100 %",
        "INFO 50 % done",
    ]
    assert "waves/DOE.hea" in caplog.text and "row 2" not in caplog.text


def test_a_run_folder_never_holds_the_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDFM_HOME", str(tmp_path / "run" / "home"))
    with pytest.raises(ConfigError, match="would hold the site's key"):
        RunFolder.create(tmp_path / "run")
    assert not (tmp_path / "run").exists()
    monkeypatch.setenv("MEDFM_HOME", str(tmp_path / "run-home"))
    assert RunFolder.create(tmp_path / "run").path.is_dir()
