"""Label rules of public data sets: from the columns and codes that a data set ships to 0/1 columns.

A rule is data in ``datasets/*.yaml``; the few kinds of rule stand here. A blank in a source column stays
NaN: unknown, not negative.
"""

from __future__ import annotations

import ast
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


def header_facts(path: str) -> dict[str, Any]:
    """What the comments of a WFDB header say (age, sex, dx); nothing where there is no header."""
    from medfm.formats.wfdb_header import comment_facts

    header = Path(path) if path.endswith(".hea") else Path(f"{path}.hea")
    if not header.is_file():
        return {}
    lines = header.read_text(encoding="utf-8", errors="replace").splitlines()
    return comment_facts([line.lstrip("# ") for line in lines if line.startswith("#")])


LabelRule = ScpRule | ColumnRule | HeaderRule
