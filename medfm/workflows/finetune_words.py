"""How a fine-tuning report writes arms, numbers and intervals, and where its pictures go."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from medfm.workflows.finetune_run import PRETRAINED, RANDOM, FineTuning

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ARM_NAMES = {PRETRAINED: "this backbone", RANDOM: "random initialisation"}


def kept(run: FineTuning, shown: list[tuple[Figure, str, str, str]]) -> list[tuple[Figure, str, str]]:
    """Figure, alternative text and caption; also as files by the name at the end, for a slide."""
    for figure, _, _, name in shown:
        figure.savefig(run.folder.path / "figures" / f"{name}.png", dpi=110)
    return [(figure, alt, caption) for figure, alt, caption, _ in shown]


def number_words(value: float | None, sign: bool = False) -> str:
    return "–" if value is None else f"{value:+.3f}" if sign else f"{value:.3f}"


def interval_words(estimate: Mapping[str, Any], sign: bool = False) -> str:
    if estimate["low"] is None:
        return ""
    return f"95 % interval {number_words(estimate['low'], sign)} to {number_words(estimate['high'], sign)}"


def with_interval(estimate: Mapping[str, Any], sign: bool = False) -> str:
    if estimate["low"] is None:
        return number_words(estimate["value"], sign)
    value, low, high = (number_words(estimate[k], sign) for k in ("value", "low", "high"))
    return f"{value} ({low} to {high})"
