"""Which augmentations a target bears: what its name tells, what the user says, what is refused and what is only said."""

from __future__ import annotations

from typing import Any

import pytest

from medfm.config.run import FinetuneSettings
from medfm.finetuning.task import Task
from medfm.modalities.ecg import ECG
from medfm.modalities.xray import Xray
from medfm.types import ConfigError
from medfm.workflows.label_kinds import check_training, target_kinds

XRAY, ECG250 = Xray(), ECG(fs=250)


def task(*columns: str, kind: str | None = None, classes: tuple[str, ...] = ()) -> Task:
    return Task(kind or ("binary" if len(columns) == 1 else "multilabel"), columns, classes or columns)  # type: ignore[arg-type]


def check(of: Task, modality: Any = XRAY, strategy: str = "full", **settings: Any) -> list[str]:
    return check_training(FinetuneSettings(strategy=strategy, **settings), modality, of)


def test_names_tell_side_and_place() -> None:
    kinds = target_kinds(task("effusion_left", "Upper-lobe opacity", "cleft", "bpd"), {})
    assert kinds["effusion_left"] == {"presence", "laterality"}
    assert kinds["Upper-lobe opacity"] == {"presence", "location"}
    assert kinds["cleft"] == kinds["bpd"] == {"presence"}
    sides = task("pneumothorax", kind="multiclass", classes=("none", "left", "right"))
    assert target_kinds(sides, {})["pneumothorax"] == {"presence", "laterality"}
    assert target_kinds(sides, {"pneumothorax": ("presence",)})["pneumothorax"] == {"presence"}


@pytest.mark.parametrize(
    ("target", "settings", "words"),
    [
        (
            "effusion_left",
            {"augment": ("flip",)},
            "flip may falsify labels of laterality, and 'effusion_left' is one",
        ),
        ("effusion_left", {"mix": "cutmix"}, r"finetune\.mix: cutmix may falsify labels of laterality"),
        ("tube_position", {"mix": "cutmix"}, "labels of location"),
        ("lower_zone", {"augment": ("noise", "rand-m3")}, "rand-m3 may falsify labels of location"),
        (
            "heart",
            {"augment": ("zoom",), "label_kinds": {"heart": ("size",)}},
            "zoom may falsify labels of size",
        ),
        ("nodule", {"augment": ("crop",)}, "crop may falsify labels of presence"),
    ],
)
def test_a_clash_is_refused_with_three_ways_out(target: str, settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        check(task(target), **settings)
    for remedy in ("Leave", "finetune.label_kinds=", "finetune.augment_anyway=true"):
        assert remedy in str(caught.value)
    first, *_ = check(task(target), **settings, augment_anyway=True)
    assert "used all the same" in first


def test_one_sentence_says_what_is_on_and_what_the_targets_were_taken_for() -> None:
    notes = check(task("bpd"), augment=("rotation", "zoom", "blur"), mix="cutmix", balance="sampling")
    assert len(notes) == 1
    assert "(rotation, zoom, blur, cutmix)" in notes[0] and "bpd: presence" in notes[0]
    assert "laterality, location, quality, size, texture" in notes[0]
    assert check(task("bpd")) == []
    assert "even guess" in check(task("bpd"), label_smoothing=0.1)[0]
    assert check(task("effusion_right"), mix="mixup")  # a faded finding stays on its side


def test_signals_have_their_own() -> None:
    with pytest.raises(ConfigError, match="wander may falsify labels of st"):
        check(task("stemi"), ECG250, augment=("wander",), label_kinds={"stemi": ("st",)})
    with pytest.raises(ConfigError, match="cutmix may falsify labels of rhythm"):
        check(task("afib"), ECG250, mix="cutmix", label_kinds={"afib": ("rhythm",)})
    assert len(check(task("afib"), ECG250, augment=("wander", "noise", "gain"))) == 1


def test_what_does_not_exist_is_said() -> None:
    with pytest.raises(ConfigError, match=r"finetune\.augment: unknown X-ray augmentation mirror"):
        check(task("y"), augment=("mirror",))
    with pytest.raises(ConfigError, match="'z' is no target of this run"):
        check(task("y"), label_kinds={"z": ("presence",)})
    with pytest.raises(ConfigError, match="unknown kind 'side'"):
        check(task("y"), label_kinds={"y": ("side",)})
    with pytest.raises(ConfigError, match=r"Set finetune\.balance=none"):
        check(task("a", "b"), balance="sampling")


def test_without_a_training_step_nothing_of_it_acts_and_nothing_is_refused() -> None:
    notes = check(task("effusion_left"), strategy="linear-probe", augment=("flip",), mix="cutmix")
    assert len(notes) == 1 and "takes no training step" in notes[0]
    assert check(task("effusion_left"), strategy="linear-probe") == []
