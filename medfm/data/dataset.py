"""What a YAML of ``datasets/`` may say: one public data set with its licence, access, rows, splits, labels and overlaps.

Only facts that the maintainers or an independent count state stand there; the keys are typed, and unknown ones are errors.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from medfm.data.label_rules import LabelRule, MaskRule

Part = Literal["train", "val", "test"]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class TableRows(_Strict):
    """One row a record in a table of the data set. ``path`` lists columns: the first whose file exists is
    taken."""

    kind: Literal["table"]
    file: str
    path: list[str]
    record: str
    patient: str
    keep: list[str] = Field(default_factory=list, description="further columns of the manifest")


class ContainerRows(_Strict):
    """Records inside HDF5 files: ``file`` names the table, ``container`` the column of the HDF5 file,
    ``record`` the id that is looked up in the file's ``exam_id``."""

    kind: Literal["container"]
    file: str
    container: str
    record: str
    patient: str
    keep: list[str] = Field(default_factory=list)


class GlobRows(_Strict):
    """Every file that matches. ``patient``: ``record`` (the source states one record a patient), or
    ``unknown``; ``same_patient`` lists records of one person."""

    kind: Literal["glob"]
    pattern: str
    patient: Literal["record", "unknown"]
    same_patient: list[list[str]] = Field(default_factory=list)


class Origin(_Strict):
    """Where a value stands in the source tables: the first of ``columns`` that says something, and of its text the group of
    ``pattern``. ``minus`` names a number to subtract (an age is the year of the study less that of birth). ``values`` puts
    another value for a text, and none for every other text.

    In YAML a single column may stand for the whole: ``view: Projection``.
    """

    columns: list[str]
    pattern: str | None = None
    minus: str | None = None
    values: dict[str, int | str] | None = None

    @model_validator(mode="before")
    @classmethod
    def _one_column(cls, value: Any) -> Any:
        return {"columns": [value]} if isinstance(value, str) else value

    def names(self) -> list[str]:
        return [*self.columns, *([self.minus] if self.minus else [])]


class SourceTable(_Strict):
    """One table with a line a picture. ``files``: its possible names, wildcards allowed, ``.gz`` tried after each.

    split: the part that all its pictures belong to.
    """

    files: list[str]
    split: Part | None = None
    optional: bool = False


class Join(_Strict):
    """Further columns, looked up by the column ``by`` in the column ``key`` (the same name where none is given).

    prefix: put before their names, where two tables name their columns alike. mark: a column that is 1 where the table has
    a line. labels: holds nothing but labels, and is read only for a label set that asks for its columns. every: all of the
    files, one below the other, and not the first that exists.
    """

    files: list[str]
    by: str
    key: str | None = None
    prefix: str = ""
    mark: str | None = None
    labels: bool = False
    optional: bool = False
    every: bool = False
    separator: str = ","


class Views(_Strict):
    """Frontal and lateral pictures by the text at ``origin``, whose case does not matter."""

    origin: Origin
    frontal: list[str]
    lateral: list[str]


class PictureRows(_Strict):
    """Pictures named by tables and found anywhere below the root: by their name without suffix, or by their last ``depth``
    parts where names alone repeat.

    repeats: the tables have several lines a picture (boxes, readers); the label rule makes one of them. patient: left out
    where the source publishes none. keep: column of the manifest -> where it stands.
    """

    kind: Literal["pictures"]
    tables: list[SourceTable]
    joins: list[Join] = Field(default_factory=list)
    image: Origin
    depth: int = 1
    repeats: bool = False
    patient: Origin | None = None
    keep: dict[str, Origin] = Field(default_factory=dict)
    views: Views | None = None


class VolumePart(_Strict):
    """Volumes whose place below the root matches ``path``, a regular expression. Its group ``record`` names the volume; the
    other groups are columns that ``patient``, ``keep`` and ``joins`` may use. split: the part that they all belong to."""

    path: str
    split: Part | None = None


class MaskPlace(_Strict):
    """Where the mask of a volume lies: its own place with ``find`` (a regular expression) replaced by ``put``."""

    find: str
    put: str


class Refused(_Strict):
    """Files of the data set that are no rows, and why."""

    path: str
    says: str


class VolumeRows(_Strict):
    """Volumes found by their places below the root, at any depth; tables are optional.

    layout: the published places, for a reader. slices: a volume is a folder of at least so many DICOM files. mask: left out
    where no one file holds all classes. without: files that list volumes to leave out, one a line. patient: left out where
    the source publishes none. keep: column of the manifest -> where it stands.
    """

    kind: Literal["volumes"]
    layout: str
    parts: list[VolumePart]
    slices: int | None = None
    mask: MaskPlace | None = None
    joins: list[Join] = Field(default_factory=list)
    without: list[str] = Field(default_factory=list)
    patient: Origin | None = None
    keep: dict[str, Origin] = Field(default_factory=dict)
    refused: list[Refused] = Field(default_factory=list)


class SubjectRows(_Strict):
    """MRI subjects of several files, found by their places below the root, at any depth; tables are optional.

    layout: the published places, for a reader. parts: regular expressions with the groups ``record`` and ``sequence``; none
    where the subjects are found as those of any folder (BIDS names, DICOM tags). sequences: text of that group -> sequence.
    masks: expressions with the group ``record``; the first that a file of the record fits counts. names: a further column each,
    the record with ``find`` replaced by ``put``. patient: left out where the source publishes none. keep: column of the
    manifest -> where it stands.
    """

    kind: Literal["subjects"]
    layout: str
    parts: list[VolumePart] = Field(default_factory=list)
    sequences: dict[str, str] = Field(default_factory=dict)
    masks: list[str] = Field(default_factory=list)
    names: dict[str, MaskPlace] = Field(default_factory=dict)
    joins: list[Join] = Field(default_factory=list)
    patient: Origin | None = None
    keep: dict[str, Origin] = Field(default_factory=dict)
    refused: list[Refused] = Field(default_factory=list)


class UnionPart(_Strict):
    """One part of a union; dataset: its id where it is catalogued. records: how many of it were taken."""

    name: str
    dataset: str | None = None
    records: int | None = None


class UnionRows(_Strict):
    """A collection that others made of data sets: it has no rows of its own, and its parts are named one by one."""

    kind: Literal["union"]
    parts: list[UnionPart]

    def catalogued(self) -> list[str]:
        return [part.dataset for part in self.parts if part.dataset]


class Expected(_Strict):
    records: int | None = None
    patients: int | None = None


class Split(_Strict):
    """A published split: the values of ``column`` that make each part, or a file of names a part (``lists``)."""

    column: str | None = None
    parts: dict[Part, list[int | str]] = Field(default_factory=dict)
    lists: dict[Part, str] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _one_way(self) -> Split:
        if bool(self.column) == bool(self.lists) or bool(self.column) != bool(self.parts):
            raise ValueError("split: give column and parts, or lists")
        return self


class Overlap(_Strict):
    """Another catalogued data set that holds some of the same patients or pictures."""

    dataset: str
    says: str


class Dataset(_Strict):
    """One public data set, as its YAML states it."""

    id: str
    title: str
    modality: str
    licence: str
    access: str = Field(description="open, or what a user must do first")
    doi: str | None = None
    url: str | None = Field(None, description="where it is obtained, when it has no DOI of its own")
    citation: str = Field(description="BibTeX")
    files: str = Field("", description="format of pictures and volumes")
    fs: list[float] = Field(default_factory=list, description="of signals, Hz")
    seconds: str = ""
    units: str = ""
    expected: Expected = Field(default_factory=Expected)
    rows: Annotated[
        TableRows | ContainerRows | GlobRows | PictureRows | VolumeRows | SubjectRows | UnionRows,
        Field(discriminator="kind"),
    ]
    split: Split | None = None
    labels: Annotated[LabelRule, Field(discriminator="kind")] | None = None
    overlaps: list[Overlap] = Field(default_factory=list)
    notes: list[str] = Field(default_factory=list)

    @model_validator(mode="after")
    def _masks_lie_somewhere(self) -> Dataset:
        beside = isinstance(self.rows, VolumeRows) and bool(self.rows.mask)
        beside |= isinstance(self.rows, SubjectRows) and bool(self.rows.masks)
        if isinstance(self.labels, MaskRule) != beside:
            raise ValueError(
                "labels of the kind masks go with rows.mask (or masks), which says where they lie"
            )
        return self

    def label_sets(self) -> dict[str, list[str]]:
        return self.labels.sets() if self.labels else {}

    def shared(self) -> list[Overlap]:
        """What this YAML says of others: its overlaps, and of a union its parts."""
        parts = self.rows.parts if isinstance(self.rows, UnionRows) else []
        held = [
            Overlap(
                dataset=p.dataset,
                says=f"{self.id} holds {f'{p.records:,} volumes of ' if p.records else ''}{p.name}.",
            )
            for p in parts
            if p.dataset
        ]
        return [*self.overlaps, *held]

    def where(self) -> str:
        """Where it is obtained, in one sentence."""
        place = f"https://doi.org/{self.doi}" if self.doi else self.url
        return f"{self.title} is obtained{f' at {place}' if place else ''} ({self.access})."
