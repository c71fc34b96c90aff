"""The run folder: refused when it exists (unless resumed or overwritten), and what every run writes into it."""

from __future__ import annotations

import errno
import logging
import os
import platform
import shutil
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from medfm.types import RESEARCH_USE, ConfigError, MedfmError

MARK = "config.yaml"
PACKAGES = (
    "medfm", "torch", "pytorch-lightning", "numpy", "scipy", "pandas", "scikit-learn", "safetensors", "peft",
    "pydantic", "wfdb", "pydicom", "pyedflib", "h5py", "huggingface-hub", "matplotlib", "joblib",
)  # fmt: skip

CITATIONS = {
    "medfm": "@software{medfm,\n  title = {medfm: foundation models for medical images and biosignals},\n  author = {{The medfm authors}},\n  year = {2026}\n}",
    "ecg_jepa": "@article{weimann2024ecgjepa,\n  title = {Self-Supervised Pre-Training with Joint-Embedding Predictive Architecture Boosts ECG Classification Performance},\n  author = {Weimann, Kuba and Conrad, Tim O. F.},\n  journal = {arXiv preprint arXiv:2410.13867},\n  year = {2024}\n}",
    "lp-ft": "@inproceedings{kumar2022finetuning,\n  title = {Fine-Tuning can Distort Pretrained Features and Underperform Out-of-Distribution},\n  author = {Kumar, Ananya and Raghunathan, Aditi and Jones, Robbie and Ma, Tengyu and Liang, Percy},\n  booktitle = {International Conference on Learning Representations},\n  year = {2022},\n  note = {arXiv:2202.10054}\n}",
    "lora": "@inproceedings{hu2022lora,\n  title = {{LoRA}: Low-Rank Adaptation of Large Language Models},\n  author = {Hu, Edward J. and Shen, Yelong and Wallis, Phillip and Allen-Zhu, Zeyuan and Li, Yuanzhi and Wang, Shean and Wang, Lu and Chen, Weizhu},\n  booktitle = {International Conference on Learning Representations},\n  year = {2022},\n  note = {arXiv:2106.09685}\n}",
    "ecgsyn": "@article{mcsharry2003dynamical,\n  title = {A dynamical model for generating synthetic electrocardiogram signals},\n  author = {McSharry, Patrick E. and Clifford, Gari D. and Tarassenko, Lionel and Smith, Leonard A.},\n  journal = {IEEE Transactions on Biomedical Engineering},\n  volume = {50},\n  number = {3},\n  pages = {289--294},\n  year = {2003}\n}",
}


@dataclass
class Run:
    """What a workflow returns: where everything lies, the headline numbers, and what to try next."""

    path: Path
    results: dict[str, Any] = field(default_factory=dict)
    bundle: Path | None = None
    report: Path | None = None
    next_command: str = ""


@dataclass
class RunFolder:
    path: Path

    @classmethod
    def create(cls, path: str | Path, *, overwrite: bool = False, resume: bool = False) -> RunFolder:
        """Make the folder, or refuse in a sentence.

        An existing run is kept unless ``overwrite`` (it must look like a run: a mistyped path must not cost anybody
        a folder of recordings) or ``resume``.
        """
        path = Path(path).expanduser().absolute()
        if path.exists() and not path.is_dir():
            raise ConfigError(f"--output {path} is a file; give a folder.")
        if path.is_dir() and any(path.iterdir()) and not _never_started(path):
            ours = (path / MARK).is_file() or (path / "train.log").is_file()
            if resume:
                if not (path / MARK).is_file():
                    raise ConfigError(f"{path} holds no run to resume (no {MARK}).")
            elif not overwrite:
                raise ConfigError(f"{path} exists already. Use --resume, --overwrite, or another --output.")
            elif not ours:
                raise ConfigError(
                    f"--overwrite refused: {path} is not a medfm run folder; choose another --output."
                )
            else:
                shutil.rmtree(path)
        elif resume:
            raise ConfigError(f"nothing to resume: {path} does not exist or is empty.")
        with writing(path):
            (path / "figures").mkdir(parents=True, exist_ok=True)
            (path / "checkpoints").mkdir(exist_ok=True)
            (path / "train.log").touch()
        return cls(path)

    def write_environment(self) -> None:
        lines = [
            RESEARCH_USE,
            f"command: {' '.join(sys.argv[1:])[:2000]}",
            f"python: {platform.python_version()}",
        ]
        lines.append(f"platform: {platform.platform()}, {os.cpu_count()} CPUs")
        for name in PACKAGES:
            try:
                lines.append(f"{name}=={metadata.version(name)}")
            except metadata.PackageNotFoundError:
                lines.append(f"{name}: not installed")
        (self.path / "environment.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")

    def write_citations(self, keys: Iterable[str]) -> None:
        """BibTeX of everything the run stands on; keys without an entry (a user's own) are left out."""
        text = "\n\n".join(CITATIONS[k] for k in dict.fromkeys(["medfm", *keys]) if k in CITATIONS)
        (self.path / "cite.bib").write_text(text + "\n", encoding="utf-8")

    @contextmanager
    def logging(self) -> Iterator[logging.Logger]:
        """The logger ``medfm.run`` writes to ``train.log`` for the length of the run (and to stderr through the CLI)."""
        logger = logging.getLogger("medfm.run")
        logger.setLevel(logging.INFO)
        handler = logging.FileHandler(self.path / "train.log", encoding="utf-8")
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        logger.addHandler(handler)
        try:
            with writing(self.path):
                yield logger
        finally:
            logger.removeHandler(handler)
            handler.close()


def _never_started(path: Path) -> bool:
    """A run that stopped before its configuration was written (an unreadable table, say) left a log and nothing else."""
    names = {p.name for p in path.iterdir()}
    empty = all(not any((path / d).iterdir()) for d in ("figures", "checkpoints") if (path / d).is_dir())
    return "train.log" in names and names <= {"train.log", "figures", "checkpoints"} and empty


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """A full disk or a read-only folder becomes a sentence with the remedy."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise MedfmError(
                f"the disk is full while writing to {path}. Free space, then run the same command with --resume."
            ) from error
        if error.errno in (errno.EACCES, errno.EROFS, errno.EPERM):
            raise MedfmError(
                f"cannot write to {error.filename or path}: it is read-only. Choose another --output."
            ) from error
        raise
