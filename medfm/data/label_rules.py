"""Label rules of public data sets: from the columns and codes that a data set ships to 0/1 columns.

A rule is data in ``datasets/*.yaml``; the few kinds of rule stand here. A blank in a source column stays
NaN, unknown and not negative, unless the label set itself says otherwise.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any, Literal

import pandas as pd
from pydantic import BaseModel, ConfigDict, Field

from medfm.types import MedfmError


class _Rule(BaseModel):
    model_config = ConfigDict(extra="forbid")
    default: str = Field(description="the set that is meant when none is named")

    def sets(self) -> dict[str, list[str]]:
        """Label sets and their label names, in column order."""
        raise AssertionError("every kind of rule names its sets")

    def needs(self, labels: str) -> list[str]:
        """Columns of the source tables that a set is made of."""
        return []

    def note(self, labels: str) -> str:
        """What a set does with values that are neither yes nor no, in a few words; blank where there is no such choice."""
        return ""


class Statement(BaseModel):
    """One SCP-ECG statement of PTB-XL: its diagnostic class and subclass (if diagnostic), form, rhythm."""

    model_config = ConfigDict(extra="forbid")
    superclass: str | None = Field(None, alias="class")
    subclass: str | None = None
    form: bool = False
    rhythm: bool = False


class ScpRule(_Rule):
    """PTB-XL's ``scp_codes``: a dictionary of statement -> likelihood a record.

    Every code that is present counts, whatever its likelihood, 0 included (the protocol of Strodthoff et al.
    2021). ``statements`` is the content of ``scp_statements.csv``; the file beside the data wins when it is
    there.
    """

    kind: Literal["scp"]
    column: str = "scp_codes"
    file: str = "scp_statements.csv"
    statements: dict[str, Statement]

    def sets(self) -> dict[str, list[str]]:
        return {name: sorted(set(mapping.values())) for name, mapping in self.mappings().items()}

    def mappings(self) -> dict[str, dict[str, str]]:
        """Label set -> statement -> label."""
        items = self.statements.items()
        return {
            "all": {code: code for code, _ in items},
            "diagnostic": {code: code for code, s in items if s.superclass},
            "subdiagnostic": {code: s.subclass for code, s in items if s.subclass},
            "superdiagnostic": {code: s.superclass for code, s in items if s.superclass},
            "form": {code: code for code, s in items if s.form},
            "rhythm": {code: code for code, s in items if s.rhythm},
        }

    def apply(self, rows: pd.DataFrame, labels: str, root: Path) -> pd.DataFrame:
        rule = self.with_statements(root / self.file) if (root / self.file).is_file() else self
        mapping = rule.mappings()[labels]
        codes = [_codes(text, line) for line, text in enumerate(rows[self.column], 2)]
        names = sorted(set(mapping.values()))
        found = [{mapping[code] for code in record if code in mapping} for record in codes]
        return pd.DataFrame(
            [[int(name in labels_) for name in names] for labels_ in found], columns=names, index=rows.index
        )

    def with_statements(self, file: Path) -> ScpRule:
        """This rule with the statements of PTB-XL's own table."""
        table = pd.read_csv(file, index_col=0)
        needed = {"diagnostic", "form", "rhythm", "diagnostic_class", "diagnostic_subclass"}
        if missing := needed - set(table.columns):
            raise MedfmError(
                f"{file}: columns {', '.join(sorted(missing))} are missing; use PTB-XL's own table or "
                "remove it."
            )
        statements = {}
        for code, row in table.iterrows():
            diagnostic = row["diagnostic"] == 1
            statements[str(code)] = Statement.model_validate(
                {
                    "class": row["diagnostic_class"] if diagnostic else None,
                    "subclass": row["diagnostic_subclass"] if diagnostic else None,
                    "form": bool(row["form"] == 1),
                    "rhythm": bool(row["rhythm"] == 1),
                }
            )
        return self.model_copy(update={"statements": statements})


def _codes(text: object, line: int) -> set[str]:
    try:
        return set(ast.literal_eval(str(text)))
    except (ValueError, SyntaxError) as error:
        raise MedfmError(
            f"scp_codes, line {line}: {str(text)[:60]!r} is no dictionary of statements."
        ) from error


class ColumnRule(_Rule):
    """0/1 or true/false columns of the data set's own table."""

    kind: Literal["columns"]
    columns: dict[str, list[str]] = Field(description="label set -> columns")

    def sets(self) -> dict[str, list[str]]:
        return self.columns

    def needs(self, labels: str) -> list[str]:
        return self.columns[labels]

    def apply(self, rows: pd.DataFrame, labels: str, root: Path) -> pd.DataFrame:
        truth = {"true": 1.0, "1": 1.0, "1.0": 1.0, "yes": 1.0, "false": 0.0, "0": 0.0, "0.0": 0.0, "no": 0.0}
        names = self.columns[labels]
        if missing := [name for name in names if name not in rows]:
            raise MedfmError(f"the data set's table has no column {', '.join(missing)}.")
        text = rows[names].astype("string").apply(lambda column: column.str.strip().str.casefold())
        return text.apply(lambda column: column.map(truth)).astype(float)


class HeaderRule(_Rule):
    """Diagnosis codes in a WFDB header's comment (``# Dx: 426783006,164889003``), as in PhysioNet's
    challenges.

    A label is 1 when one of its codes is listed and 0 otherwise; NaN in a header that lists none.
    """

    kind: Literal["header"]
    codes: dict[str, dict[str, list[str]]] = Field(description="label set -> label -> codes (SNOMED CT)")

    def sets(self) -> dict[str, list[str]]:
        return {name: list(labels) for name, labels in self.codes.items()}

    def apply(self, rows: pd.DataFrame, labels: str, root: Path) -> pd.DataFrame:
        wanted = {name: set(codes) for name, codes in self.codes[labels].items()}
        values = []
        for path in rows["path"]:
            listed = set(header_facts(path).get("dx", ()))
            values.append(
                [float(bool(codes & listed)) if listed else float("nan") for codes in wanted.values()]
            )
        return pd.DataFrame(values, columns=list(wanted), index=rows.index)


class Among(BaseModel):
    """1 where the text of ``column`` is one of ``values``, 0 where it is another, NaN where it is blank."""

    model_config = ConfigDict(extra="forbid")
    column: str
    values: list[str]


class FindingSet(BaseModel):
    """One way to read columns of 1 (present), 0 (absent), -1 (uncertain) and blank (not mentioned).

    labels: columns, or label -> column. uncertain: what -1 becomes, label by label; NaN for the others. blank: what a
    blank becomes; NaN where nothing is said, and where all columns of the set ``report`` (or the one column of that name)
    are blank, since then nobody labelled the report. votes: how several lines of one picture (boxes, readers) make one value.
    """

    model_config = ConfigDict(extra="forbid")
    labels: list[str] | dict[str, str | Among]
    uncertain: dict[str, Literal[0, 1]] = Field(default_factory=dict)
    blank: Literal[0] | None = None
    report: str | None = None
    votes: Literal["any", "majority"] | None = None

    def origins(self) -> dict[str, str | Among]:
        return self.labels if isinstance(self.labels, dict) else {name: name for name in self.labels}

    def columns(self) -> list[str]:
        return [o.column if isinstance(o, Among) else o for o in self.origins().values()]


class FindingsRule(_Rule):
    """Columns of findings with uncertain and unmentioned ones, as labellers of reports and panels of readers give them."""

    kind: Literal["findings"]
    choices: dict[str, FindingSet] = Field(description="label set -> how it reads the columns")

    def sets(self) -> dict[str, list[str]]:
        return {name: list(chosen.origins()) for name, chosen in self.choices.items()}

    def needs(self, labels: str) -> list[str]:
        return list(dict.fromkeys(self.choices[labels].columns() + self._report(labels)))

    def _report(self, labels: str) -> list[str]:
        report = self.choices[labels].report
        if report is None:
            return []
        return self.choices[report].columns() if report in self.choices else [report]

    def note(self, labels: str) -> str:
        chosen, said = self.choices[labels], []
        if (
            any(not isinstance(origin, Among) for origin in chosen.origins().values())
            and chosen.votes is None
        ):
            by = {v: [name for name, to in chosen.uncertain.items() if to == v] for v in (1, 0)}
            listed = [f"{v} for {', '.join(names)}" for v, names in by.items() if names]
            said.append(f"uncertain: {'; '.join(listed) or 'unknown'}")
            said.append(f"not mentioned: {'unknown' if chosen.blank is None else chosen.blank}")
        if chosen.votes:
            said.append(
                {"any": "1 when one reader or box says so", "majority": "1 when most readers say so"}[
                    chosen.votes
                ]
            )
        return "; ".join(said)

    def apply(self, rows: pd.DataFrame, labels: str, root: Path) -> pd.DataFrame:
        chosen = self.choices[labels]
        if missing := [name for name in self.needs(labels) if name not in rows]:
            raise MedfmError(
                f"{root}: its tables have no column {', '.join(missing)}, which set {labels!r} reads."
            )
        labelled = rows[self._report(labels)].notna().any(axis=1) if chosen.report else True
        values = {}
        for name, origin in chosen.origins().items():
            if isinstance(origin, Among):
                text = rows[origin.column].astype("string").str.strip()
                values[name] = text.isin(origin.values).astype(float).where(text.notna())
                continue
            found = pd.to_numeric(rows[origin], errors="coerce").astype(float)
            if len(odd := found[found.notna() & ~found.isin([-1, 0, 1])]):
                raise MedfmError(
                    f"{root}: column {origin} holds {odd.iloc[0]:g}; findings are 1, 0, -1 or blank."
                )
            if chosen.blank is not None:
                found = found.mask(found.isna() & labelled, chosen.blank)
            values[name] = found.mask(found == -1, chosen.uncertain.get(name, float("nan")))
        return pd.DataFrame(values, index=rows.index)

    def agree(self, values: pd.DataFrame, records: pd.Series, labels: str) -> pd.DataFrame:
        """One row a record, in order of their first lines, from several lines of values."""
        grouped = values.groupby(records.to_numpy(), sort=False)
        if self.choices[labels].votes != "majority":
            return grouped.max()
        share = grouped.mean()
        return (share > 0.5).astype(float).where(share.notna())


class WordsRule(_Rule):
    """One column that lists what was found: words between separators, or a Python list in text.

    A label is 1 when one of its words is listed and 0 otherwise; a blank or empty list is unknown. incomplete: words of a
    report that did not look at everything, which leaves what it does not list unknown.
    """

    kind: Literal["words"]
    column: str
    separator: str | None = Field(None, description="none: a Python list of quoted words")
    incomplete: list[str] = Field(default_factory=list)
    choices: dict[str, list[str] | dict[str, list[str]]] = Field(description="label set -> label -> words")

    def sets(self) -> dict[str, list[str]]:
        return {name: list(labels) for name, labels in self.choices.items()}

    def needs(self, labels: str) -> list[str]:
        return [self.column]

    def note(self, labels: str) -> str:
        told = f"; not listed beside {', '.join(self.incomplete)}: unknown" if self.incomplete else ""
        return f"not listed: 0{told}"

    def apply(self, rows: pd.DataFrame, labels: str, root: Path) -> pd.DataFrame:
        if self.column not in rows:
            raise MedfmError(f"{root}: its tables have no column {self.column}, which set {labels!r} reads.")
        words = self._words(rows[self.column].astype("string"), root).str.strip().str.casefold()
        words = words[words.notna() & (words != "")]
        chosen = self.choices[labels]
        by_label = chosen if isinstance(chosen, dict) else {name: [name] for name in chosen}
        values = pd.DataFrame(float("nan"), index=rows.index, columns=list(by_label))
        values.loc[words.index.unique()] = 0.0
        values.loc[_with(words, self.incomplete)] = float("nan")
        for name, listed in by_label.items():
            values.loc[_with(words, listed), name] = 1.0
        return values

    def _words(self, text: pd.Series, root: Path) -> pd.Series:
        """One word a line, under the index of its row."""
        if self.separator is not None:
            return text.str.split(self.separator, regex=False).explode()
        odd = text[
            text.notna() & ~text.str.fullmatch(r"\s*\[.*\]\s*", flags=re.DOTALL).fillna(True).astype(bool)
        ]
        if len(odd):
            raise MedfmError(
                f"{root}: column {self.column} holds {odd.iloc[0][:60]!r}, which is no list of words."
            )
        return text.str.findall(r"['\"]([^'\"]*)['\"]").explode().astype("string")


class MaskRule(_Rule):
    """A mask beside each volume: one file of whole numbers, whose place is the column ``label``. classes: number -> name;
    0 is the background. regions: those that are evaluated together, by name (ET is 4 in BraTS 2021 and 3 from 2023 on)."""

    kind: Literal["masks"]
    classes: dict[int, str]
    regions: dict[str, list[int]] = Field(default_factory=dict)

    def sets(self) -> dict[str, list[str]]:
        return {self.default: list(self.classes.values())}

    def note(self, labels: str) -> str:
        numbers = f"numbers in the mask: {', '.join(f'{n} {name}' for n, name in self.classes.items())}"
        regions = ", ".join(f"{name} {' + '.join(map(str, n))}" for name, n in self.regions.items())
        return f"{numbers}; regions: {regions}" if regions else numbers


def _with(words: pd.Series, listed: list[str]) -> pd.Index:
    return words.index[words.isin([word.casefold() for word in listed])].unique()


def header_facts(path: str) -> dict[str, Any]:
    """What the comments of a WFDB header say (age, sex, dx); nothing where there is no header."""
    from medfm.formats.wfdb_header import comment_facts

    header = Path(path) if path.endswith(".hea") else Path(f"{path}.hea")
    if not header.is_file():
        return {}
    lines = header.read_text(encoding="utf-8", errors="replace").splitlines()
    return comment_facts([line.lstrip("# ") for line in lines if line.startswith("#")])


LabelRule = ScpRule | ColumnRule | HeaderRule | FindingsRule | WordsRule | MaskRule
