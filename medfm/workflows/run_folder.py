"""The run folder: refused when it exists (unless resumed or overwritten), and what every run writes into it."""

from __future__ import annotations

import copy
import errno
import logging
import os
import platform
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from medfm.config.base import Settings
from medfm.paths import key_file, written_whole
from medfm.types import RESEARCH_USE, ConfigError, MedfmError

MARK = "config.yaml"
PACKAGES = (
    "medfm", "torch", "pytorch-lightning", "numpy", "scipy", "pandas", "scikit-learn", "safetensors", "peft",
    "monai", "pydantic", "wfdb", "pydicom", "pyedflib", "h5py", "huggingface-hub", "matplotlib", "joblib",
)  # fmt: skip

CITATIONS = {
    "medfm": "@software{medfm,\n  title = {medfm: foundation models for medical images and biosignals},\n  author = {{The medfm authors}},\n  year = {2026}\n}",
    "ecg_jepa": "@article{weimann2024ecgjepa,\n  title = {Self-Supervised Pre-Training with Joint-Embedding Predictive Architecture Boosts ECG Classification Performance},\n  author = {Weimann, Kuba and Conrad, Tim O. F.},\n  journal = {arXiv preprint arXiv:2410.13867},\n  year = {2024}\n}",
    "mae": "@inproceedings{he2022masked,\n  title = {Masked Autoencoders Are Scalable Vision Learners},\n  author = {He, Kaiming and Chen, Xinlei and Xie, Saining and Li, Yanghao and Doll{\\'a}r, Piotr and Girshick, Ross},\n  booktitle = {IEEE/CVF Conference on Computer Vision and Pattern Recognition},\n  year = {2022},\n  note = {arXiv:2111.06377}\n}\n\n@inproceedings{xiao2023delving,\n  title = {Delving into Masked Autoencoders for Multi-Label Thorax Disease Classification},\n  author = {Xiao, Junfei and Bai, Yutong and Yuille, Alan and Zhou, Zongwei},\n  booktitle = {IEEE/CVF Winter Conference on Applications of Computer Vision},\n  year = {2023},\n  note = {arXiv:2210.12843}\n}",
    "spark": "@inproceedings{tian2023designing,\n  title = {Designing {BERT} for Convolutional Networks: Sparse and Hierarchical Masked Modeling},\n  author = {Tian, Keyu and Jiang, Yi and Diao, Qishuai and Lin, Chen and Wang, Liwei and Yuan, Zehuan},\n  booktitle = {International Conference on Learning Representations},\n  year = {2023},\n  note = {arXiv:2301.03580}\n}",
    "moco": "@inproceedings{chen2021empirical,\n  title = {An Empirical Study of Training Self-Supervised Vision Transformers},\n  author = {Chen, Xinlei and Xie, Saining and He, Kaiming},\n  booktitle = {IEEE/CVF International Conference on Computer Vision},\n  year = {2021},\n  note = {arXiv:2104.02057}\n}\n\n@article{chen2020improved,\n  title = {Improved Baselines with Momentum Contrastive Learning},\n  author = {Chen, Xinlei and Fan, Haoqi and Girshick, Ross and He, Kaiming},\n  journal = {arXiv preprint arXiv:2003.04297},\n  year = {2020}\n}\n\n@inproceedings{cai2021exponential,\n  title = {Exponential Moving Average Normalization for Self-supervised and Semi-supervised Learning},\n  author = {Cai, Zhaowei and Ravichandran, Avinash and Maji, Subhransu and Fowlkes, Charless and Tu, Zhuowen and Soatto, Stefano},\n  booktitle = {IEEE/CVF Conference on Computer Vision and Pattern Recognition},\n  year = {2021},\n  note = {arXiv:2101.08482}\n}",
    "voco": "@inproceedings{wu2024voco,\n  title = {{VoCo}: A Simple-yet-Effective Volume Contrastive Learning Framework for {3D} Medical Image Analysis},\n  author = {Wu, Linshan and Zhuang, Jiaxin and Chen, Hao},\n  booktitle = {IEEE/CVF Conference on Computer Vision and Pattern Recognition},\n  year = {2024},\n  note = {arXiv:2402.17300}\n}",
    "volume_fusion": "@article{wang2023misfm,\n  title = {{MIS-FM}: {3D} Medical Image Segmentation using Foundation Models Pretrained on a Large-Scale Unannotated Dataset},\n  author = {Wang, Guotai and Wu, Jianghao and Luo, Xiangde and Liu, Xinglong and Li, Kang and Zhang, Shaoting},\n  journal = {arXiv preprint arXiv:2306.16925},\n  year = {2023}\n}",
    "bm_mae": "@article{robinet2025bmmae,\n  title = {Multimodal Masked Autoencoder Pre-training for {3D} {MRI}-Based Brain Tumor Analysis with Missing Modalities},\n  author = {Robinet, Lucas and Berjaoui, Ahmad and {Cohen-Jonathan Moyal}, Elizabeth},\n  journal = {arXiv preprint arXiv:2505.00568},\n  year = {2025}\n}",
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


class _Filed(logging.Formatter):
    """What goes to a file: a message's own words for it (``extra={"filed": ...}``: codes in place of names)."""

    def format(self, record: logging.LogRecord) -> str:
        if (words := getattr(record, "filed", None)) is not None:
            record = copy.copy(record)
            record.msg, record.args = words, ()
        return super().format(record)


@dataclass
class RunFolder:
    """``resumed``: it holds a run that is to go on. ``aside``: the run that this one overwrites, until it begins.

    No patient, record or record's path is named in it, only its code (:mod:`medfm.data.codes`) and its row in the user's
    table. The table or folder itself, as it was typed, stands in ``config.yaml`` and in the command of
    ``environment.txt``, without which the run could not be repeated.
    """

    path: Path
    resumed: bool = False
    aside: Path | None = None

    @classmethod
    def create(cls, path: str | Path, *, overwrite: bool = False, resume: bool = False) -> RunFolder:
        """Make the folder, or refuse in a sentence.

        An existing run is kept unless ``overwrite`` (it must look like a run: a mistyped path must not cost anybody
        a folder of recordings) or ``resume``. A run that stopped before it began is begun anew by either.
        """
        path = Path(path).expanduser().absolute()
        if key_file().resolve().is_relative_to(path.resolve()):
            raise ConfigError(
                f"--output {path} would hold the site's key ({key_file()}), and whoever gets the run could undo its codes; "
                "choose another folder."
            )
        folder = cls(path)
        if path.exists() and not path.is_dir():
            raise ConfigError(f"--output {path} is a file; give a folder.")
        filled = path.is_dir() and any(path.iterdir())
        if filled and not _never_started(path):
            ours = (path / MARK).is_file() or (path / "train.log").is_file()
            if resume:
                if not (path / MARK).is_file():
                    raise ConfigError(f"{path} holds no run to resume (no {MARK}).")
                folder.resumed = True
            elif not overwrite:
                raise ConfigError(f"{path} exists already. Use --resume, --overwrite, or another --output.")
            elif not ours:
                raise ConfigError(
                    f"--overwrite refused: {path} is not a medfm run folder; choose another --output."
                )
            else:
                with writing(path):
                    folder.aside = path.rename(path.with_name(f".{path.name}.{os.getpid()}.old"))
        elif resume and not filled:
            raise ConfigError(f"nothing to resume: {path} does not exist or is empty.")
        try:
            with writing(path):
                (path / "figures").mkdir(parents=True, exist_ok=True)
                (path / "checkpoints").mkdir(exist_ok=True)
                (path / "train.log").touch()
        except BaseException:
            folder.restore()
            raise
        return folder

    def write_config(self, config: str) -> None:
        """``config.yaml``, whole. The run has begun: it can be resumed, and the one that it overwrites is gone."""
        with written_whole(self.path / MARK) as part:
            part.write_text(config, encoding="utf-8")
        if self.aside:
            shutil.rmtree(self.aside)
            self.aside = None

    def restore(self) -> None:
        """A run that never began (a mistyped source, an unreadable table) gives back the one it was to overwrite."""
        if self.aside:
            shutil.rmtree(self.path, ignore_errors=True)
            self.aside.rename(self.path)
            self.aside = None

    def same_settings(self, saved: Settings, now: Settings, found: Iterable[str] = ()) -> None:
        """Refuse to resume with other settings than the run was begun with. ``found``: keys, or blocks of keys, that the
        run finds out by itself and saves."""
        apart = ("output", *found)
        before, asked = (_flat(c.model_dump(mode="json")) for c in (saved, now))
        changed = sorted(
            k
            for k in before.keys() | asked.keys()
            if before.get(k) != asked.get(k) and not any(f"{k}.".startswith(f"{a}.") for a in apart)
        )
        if changed:
            few = ", ".join(changed[:5]) + (", ..." if len(changed) > 5 else "")
            raise ConfigError(
                f"--resume: {self.path} was begun with other settings ({few}). Give the same ones, or start anew with "
                "--overwrite or another --output."
            )

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
        """The logger ``medfm.run`` writes to ``train.log`` for the length of the run (and to stderr through the CLI). What
        may be said on the screen only has other words for the file: ``log.info(..., extra={"filed": "..."})``."""
        logger = logging.getLogger("medfm.run")
        logger.setLevel(logging.INFO)
        handler = logging.FileHandler(self.path / "train.log", encoding="utf-8")
        handler.setFormatter(_Filed("%(asctime)s %(levelname)s %(message)s"))
        logger.addHandler(handler)
        try:
            with writing(self.path):
                yield logger
        finally:
            logger.removeHandler(handler)
            handler.close()
            self.restore()


def _flat(plain: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings under dotted keys."""
    out: dict[str, Any] = {}
    for key, value in plain.items():
        out |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return out


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
            how = "with --resume" if (path / MARK).is_file() else "again"
            raise MedfmError(
                f"the disk is full while writing to {path}. Free space, then run the same command {how}."
            ) from error
        if error.errno in (errno.EACCES, errno.EROFS, errno.EPERM):
            raise MedfmError(
                f"cannot write to {error.filename or path}: it is read-only. Choose another --output."
            ) from error
        raise
