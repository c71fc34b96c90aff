"""Which augmentations a target bears: every one declares the kinds of label that it may falsify, and a target is of some
kinds, which the user says (``finetune.label_kinds``) or its name tells. A clash is refused; the rest is said once.
"""

from __future__ import annotations

import re
from typing import Any

from medfm.config.run import FinetuneSettings
from medfm.config.strategies import TrainedSettings
from medfm.finetuning.task import Task
from medfm.modalities.base import LABEL_KINDS
from medfm.types import ConfigError, MedfmError

DEFAULT = "presence"
# Words in the name of a column (or of its classes) that say more than that something is there.
WORDS = {
    "laterality": {"left", "right", "side", "laterality", "bilateral", "unilateral"},
    "location": {"location", "position", "lobe", "zone", "quadrant", "upper", "lower", "apical", "basal"},
}


def target_kinds(task: Task, given: dict[str, tuple[str, ...]]) -> dict[str, frozenset[str]]:
    """Kinds of each target column; all of them for a value and for survival, since what in a record tells them is not known.

    Raises :class:`ConfigError` for a column or a kind that does not exist."""
    for column, kinds in given.items():
        if column not in task.columns:
            raise ConfigError(
                f"finetune.label_kinds: {column!r} is no target of this run ({', '.join(task.columns)})."
            )
        if unknown := [k for k in kinds if k not in LABEL_KINDS]:
            raise ConfigError(
                f"finetune.label_kinds: unknown kind {unknown[0]!r}; known: {', '.join(LABEL_KINDS)}."
            )
    if task.kind == "survival":  # one target in two columns
        of = [given[c] for c in task.columns if c in given]
        return {
            task.columns[1]: frozenset(k for kinds in of for k in kinds) if of else frozenset(LABEL_KINDS)
        }
    if task.kind == "regression":
        return {task.columns[0]: frozenset(given.get(task.columns[0], LABEL_KINDS))}
    found = {}
    for column in task.columns:
        names = [column, *(task.classes if task.kind == "multiclass" else ())]
        words = {w for name in names for w in re.split(r"[^a-z]+", name.lower())}
        guessed = {DEFAULT} | {kind for kind, telling in WORDS.items() if words & telling}
        found[column] = frozenset(given.get(column, guessed))
    return found


def check_training(settings: FinetuneSettings, modality: Any, task: Task) -> list[str]:
    """What a reader should know of how records and labels are changed in training, in sentences.

    Raises :class:`ConfigError` for an augmentation that may falsify a target (only said with ``augment_anyway``), one
    that does not exist, and balanced draws of several targets.
    """
    kinds = target_kinds(task, settings.label_kinds)
    changed = {"augment": settings.augment, "mix": () if settings.mix == "none" else (settings.mix,)}
    if not isinstance(settings.strategy, TrainedSettings):
        used = (*changed["augment"], *changed["mix"], settings.label_smoothing, settings.balance != "none")
        without = "finetune.augment, mix, label_smoothing and balance change nothing here"
        return [f"{without}: {settings.strategy.name} takes no training step."] if any(used) else []
    notes, altered = [], {}
    for setting, names in changed.items():
        for name in names:
            try:
                altered[name] = modality.alters(name)
            except MedfmError as error:
                raise ConfigError(f"finetune.{setting}: {error}") from error
            for column, kind in kinds.items():
                if clash := sorted(kind & altered[name]):
                    notes.append(_clash(setting, name, column, clash, settings.augment_anyway))
    for setting, on in (
        ("balance", settings.balance != "none"),
        ("label_smoothing", settings.label_smoothing > 0),
    ):
        if on and task.kind in ("regression", "survival"):
            raise ConfigError(f"finetune.{setting} is about classes, and {task.kind} has none; leave it out.")
    if settings.balance != "none" and task.outputs > 1 and task.kind != "multiclass":
        raise ConfigError(
            "finetune.balance=sampling takes one target: several cannot be balanced at once. Set finetune.balance=none."
        )
    if altered:
        kept = "; ".join(f"{column}: {', '.join(sorted(kind))}" for column, kind in kinds.items())
        falsified = sorted(set().union(*altered.values())) or ["none"]
        notes.append(
            f"Records are changed in training ({', '.join(altered)}), which may falsify labels of {', '.join(falsified)}. "
            f"The targets were taken to say ({kept}); correct that with finetune.label_kinds."
        )
    if settings.label_smoothing:
        notes.append("Label smoothing draws every predicted probability towards an even guess.")
    return notes


def _clash(setting: str, name: str, column: str, kinds: list[str], anyway: bool) -> str:
    said = f"finetune.{setting}: {name} may falsify labels of {' and '.join(kinds)}, and {column!r} "
    said += "may depend on it" if len(kinds) > 3 else "is one"
    if anyway:
        return f"{said}; it was used all the same (finetune.augment_anyway)."
    raise ConfigError(
        f"{said}. Leave {name} out; or say what the target is about (finetune.label_kinds='{{{column}: "
        f"[{DEFAULT}]}}'); or set finetune.augment_anyway=true."
    )
