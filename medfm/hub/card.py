"""The model card: data with a schema. ``README.md`` is written from it, and its front matter read back.

The metadata follow the Hugging Face model card (license, library_name, tags, datasets, model-index); the
sections follow the fields that reviews of medical AI reports find missing most (annotation, failures, sample
size).
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Self

import yaml
from pydantic import Field, FiniteFloat, field_validator, model_validator

from medfm.config.base import Settings
from medfm.types import RESEARCH_USE, MedfmError

ID = re.compile(r"[a-z0-9][a-z0-9._-]{0,95}")
METRIC_TYPES = {
    "auroc": "roc_auc",
    "auprc": "average_precision",
    "macro-auroc": "roc_auc",
    "accuracy": "accuracy",
    "dice": "dice",
    "mae": "mae",
    "r2": "r_squared",
    "c-index": "c_index",
    "integrated brier score": "integrated_brier_score",
}
TEMPLATES = Path(__file__).parent / "templates"


def check_id(identifier: str, simulated_only: bool) -> str:
    """``identifier`` when it may stand in the catalogue; a :class:`MedfmError` says which rule it breaks.

    Ids of models that saw simulated data only end in ``-sim``, and no others do.
    """
    if not ID.fullmatch(identifier) or ".." in identifier:
        raise MedfmError(
            f"{identifier!r} cannot be a model id: use lower-case letters, digits, '-', '_' and '.', "
            "starting with a letter or digit."
        )
    if simulated_only and not identifier.endswith("-sim"):
        raise MedfmError(
            f"{identifier!r} was trained on simulated data only: its id must end in -sim (say "
            f"{identifier}-sim)."
        )
    if not simulated_only and identifier.endswith("-sim"):
        raise MedfmError(
            f"{identifier!r} ends in -sim, which is kept for models that saw simulated data only; "
            "choose another id."
        )
    return identifier


def spoken(modality: str) -> str:
    """A modality's name in a sentence."""
    return {"xray": "X-ray", "ct_slice": "CT slice"}.get(modality, modality.upper())


def simulated_sentence(modality: str, seconds: float, device: str, patients: int, records: int) -> str:
    """The first sentence of a card whose model saw simulated data only: how long it trained, and on what."""
    if seconds < 600:
        length = f"{seconds:.0f} seconds"
    elif seconds < 7200:
        length = f"{seconds / 60:.0f} minutes"
    else:
        length = f"{seconds / 3600:.1f} hours"
    return (
        f"Pretrained only on simulated {spoken(modality)} data, for {length} on {device}: "
        f"{records:,} synthetic records "
        f"of {patients:,} synthetic patients, none of a real person."
    )


class Dataset(Settings):
    """One source of training data; ``share`` is its part of the samples drawn (the shares of a card sum to
    1).
    """

    name: str
    share: float = Field(default=1.0, ge=0, le=1)
    records: int = Field(default=0, ge=0)
    patients: int = Field(default=0, ge=0)
    simulated: bool = False
    digest: str = ""
    set_aside: int = Field(default=0, ge=0, description="records that could not be read")
    license: str = ""
    url: str = ""
    notes: list[str] = Field(default_factory=list)


class Result(Settings):
    """One measured figure with what it must be read against."""

    metric: str
    value: FiniteFloat
    ci: tuple[FiniteFloat, FiniteFloat] | None = Field(
        default=None, description="95 % interval, patients resampled"
    )
    baseline: FiniteFloat | None = None
    baseline_name: str = "random initialisation"
    difference_ci: tuple[FiniteFloat, FiniteFloat] | None = Field(
        default=None, description="paired interval of value - baseline"
    )
    dataset: str
    task: str = "classification"
    target: str = ""
    strategy: str = ""
    patients: int | None = Field(default=None, ge=0)
    command: str = Field(default="", description="reproduces the figure")

    @field_validator("ci", "difference_ci")
    @classmethod
    def _ordered(cls, value: tuple[float, float] | None) -> tuple[float, float] | None:
        if value is not None and value[0] > value[1]:
            raise ValueError(f"the lower bound {value[0]} exceeds the upper bound {value[1]}")
        return value

    @property
    def line(self) -> str:
        """``AUROC .812 (.79 to .83), random initialisation .774, on ptb-xl, 250 patients``."""
        text = f"{self.metric} {self.value:.3f}"
        if self.ci:
            text += f" ({self.ci[0]:.3f} to {self.ci[1]:.3f})"
        if self.baseline is not None:
            text += f", {self.baseline_name} {self.baseline:.3f}"
        text += f", on {self.dataset}"
        return text + (f", {self.patients} patients" if self.patients else "")


class Parent(Settings):
    """What a model was trained from: its reference, the sha256 of its weights and the digest of its data."""

    ref: str
    checkpoint: str = ""
    data: str = ""


class Card(Settings):
    """What a person must know of a model. Only ``id``, ``summary``, ``modality`` and ``architecture`` are
    asked for; a field left empty is stated as missing in the README, not left out.
    """

    id: str
    name: str = Field(default="", description="for people; default: the id")
    version: str = "0.1.0"
    summary: str = Field(min_length=1, description="first sentence of the README")
    modality: str
    architecture: str
    parameters: int = Field(default=0, ge=0)
    method: str = ""
    task: str = Field(default="", description="empty: a backbone without a head")
    targets: list[str] = Field(default_factory=list)
    license: str = "apache-2.0"
    tags: list[str] = Field(default_factory=list)
    datasets: list[Dataset] = Field(default_factory=list)
    simulated_only: bool = False
    intended_use: str = (
        "Research on transfer learning: as a frozen feature extractor or as the starting point of "
        "fine-tuning on a "
        "site's own labelled data, followed by validation on patients of that site."
    )
    out_of_scope: str = (
        "Diagnosis, triage, monitoring or any decision about a patient; other modalities, devices or "
        "populations "
        "than those named here without validation of one's own."
    )
    data: str = Field(
        default="", description="data and patients in words: population, sites, acquisition, labels"
    )
    preprocessing: str = Field(default="", description="in words; the exact settings stand in config.json")
    results: list[Result] = Field(default_factory=list)
    limitations: str = ""
    risks: str = (
        "Performance can differ between sites, devices and groups of patients that the training data "
        "represent "
        "unequally. Weights trained on patients' records can reveal who was among them: treat them "
        "as patient-derived."
    )
    usage: str = Field(default="", description="how to load; default: the Python call and the command")
    obtain: str = Field(default="", description="how to get the weights where only the card is shipped")
    citations: list[str] = Field(default_factory=list, description="citation keys or BibTeX entries")
    created: str = Field(default="", description="ISO date")
    parents: list[Parent] = Field(default_factory=list)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        check_id(self.id, self.simulated_only)
        if (
            self.datasets
            and all(d.simulated for d in self.datasets) != self.simulated_only
            and not self.parents
        ):
            raise ValueError(
                f"simulated_only is {self.simulated_only}, which its datasets contradict: "
                + ", ".join(f"{d.name} ({'simulated' if d.simulated else 'real'})" for d in self.datasets)
            )
        if self.simulated_only and any(not d.simulated for d in self.datasets):
            raise ValueError("simulated_only, but a dataset is real")
        if self.simulated_only:
            first = first_sentence(self.summary)
            if not re.search(r"simulated|synthetic", first, re.I) or not re.search(r"\d", first):
                raise ValueError(
                    "the summary's first sentence must say that the model saw simulated data only, "
                    "for how long and on "
                    f"what (medfm.hub.card.simulated_sentence writes it); it says: {first!r}"
                )
        total = sum(d.share for d in self.datasets)
        if self.datasets and abs(total - 1) > 0.01:
            raise ValueError(f"the shares of the datasets sum to {total:.3f}, not 1")
        return self

    @property
    def title(self) -> str:
        return self.name or self.id

    def front_matter(self) -> dict[str, Any]:
        """Hugging Face metadata: what ``huggingface_hub.ModelCardData`` reads, in plain types."""
        tags = dict.fromkeys(["medfm", self.modality, *([self.method] if self.method else []), *self.tags])
        if self.simulated_only:
            tags["simulated-data-only"] = None
        matter: dict[str, Any] = {
            "license": self.license,
            "library_name": "medfm",
            "pipeline_tag": "feature-extraction",
            "tags": list(tags),
        }
        if self.datasets:
            matter["datasets"] = [d.name for d in self.datasets]
        if self.results:
            matter["metrics"] = sorted({_metric_type(r.metric) for r in self.results})
            matter["model-index"] = [{"name": self.title, "results": [_index_entry(r) for r in self.results]}]
        return matter

    def readme(self) -> str:
        """``README.md``: front matter and text."""
        from jinja2 import Environment, FileSystemLoader, StrictUndefined

        environment = Environment(
            loader=FileSystemLoader(TEMPLATES),
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            keep_trailing_newline=True,
        )  # Markdown, not HTML: nothing to escape
        environment.filters["cell"] = lambda value: str(value).replace("|", "\\|").replace("\n", " ")
        matter = yaml.safe_dump(self.front_matter(), sort_keys=False, allow_unicode=True, width=100)
        text = environment.get_template("README.md.jinja").render(card=self, research_use=RESEARCH_USE)
        return f"---\n{matter}---\n\n{text}"


def first_sentence(text: str) -> str:
    """Up to the first full stop that ends a sentence (a dot inside a number or an id does not)."""
    return re.split(r"(?<=[.!?])\s", text.strip(), maxsplit=1)[0]


def read_front_matter(readme: str) -> dict[str, Any]:
    """The metadata of a ``README.md``; a :class:`MedfmError` when there is no YAML mapping."""
    match = re.match(r"---\r?\n(.*?)\r?\n---\r?\n", readme, re.S)
    if match is None:
        raise MedfmError(
            "README.md has no front matter between two lines '---'; write it with Card.readme()."
        )
    try:
        matter = yaml.safe_load(match.group(1))
    except yaml.YAMLError as error:
        raise MedfmError(f"the front matter of README.md is not YAML: {error}") from error
    if not isinstance(matter, dict):
        raise MedfmError("the front matter of README.md is not a mapping.")
    return matter


def _metric_type(metric: str) -> str:
    name = metric.lower()
    return METRIC_TYPES.get(name, re.sub(r"[^a-z0-9]+", "_", name).strip("_"))


def _index_entry(result: Result) -> dict[str, Any]:
    """One result in ``model-index`` form. There is no field for an interval: it rides in the metric's
    ``args``.
    """
    metric: dict[str, Any] = {
        "type": _metric_type(result.metric),
        "value": result.value,
        "name": result.metric,
    }
    args: dict[str, Any] = {}
    if result.ci:
        args["ci95"] = list(result.ci)
    if result.baseline is not None:
        args[result.baseline_name] = result.baseline
    if result.difference_ci:
        args["difference_ci95"] = list(result.difference_ci)
    if args:
        metric["args"] = args
    task = {"type": result.task}
    if name := " ".join(filter(None, [result.target, result.strategy and f"({result.strategy})"])):
        task["name"] = name
    dataset = {"type": re.sub(r"[^\w.-]+", "-", result.dataset.lower()), "name": result.dataset}
    return {"task": task, "dataset": dataset, "metrics": [metric]}
