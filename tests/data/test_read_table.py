"""Tables as sites keep them: encodings, separators, sheets, and what is wrong said with its remedy."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from medfm.data.manifest import Manifest, read_table
from medfm.data.tables import is_table
from medfm.types import ConfigError, MedfmError

FRAME = pd.DataFrame({"path": ["r1.hea", "r2.hea"], "patient_id": ["a", "b"], "age": [60.5, 71.25]})
GERMAN = "path;patient_id;age;klinik\nr1.hea;a;60,5;Köln\nr2.hea;b;71,25;Köln\n"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
@pytest.mark.parametrize("line", ["\n", "\r\n"])
def test_a_german_excel_csv_is_read_in_every_encoding(tmp_path: Path, encoding: str, line: str) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(GERMAN.replace("\n", line).encode(encoding))
    assert is_table(path)
    frame = read_table(path)
    assert frame["age"].tolist() == [60.5, 71.25] and frame["klinik"].tolist() == ["Köln"] * 2


@pytest.mark.parametrize(
    ("text", "columns"),
    [
        ("path\nr1.hea\nr2.hea\n", ["path"]),  # a sniffer takes a letter for the separator
        ("path;patient_id;\nr1.hea;a;;\nr2.hea;b;;\n;;;\n", ["path", "patient_id"]),  # columns must not shift
        ('"a, b";path\n1;r1.hea\n2;r2.hea\n', ["a, b", "path"]),
        ("\n\npath\tpatient_id\nr1.hea\ta\n\nr2.hea\n", ["path", "patient_id"]),
    ],
)
def test_separators(tmp_path: Path, text: str, columns: list[str]) -> None:
    path = tmp_path / "t.csv"
    path.write_text(text)
    frame = read_table(path)
    assert list(frame) == columns and frame["path"].tolist() == ["r1.hea", "r2.hea"] and is_table(path)


def test_decimal_points_stay_where_a_text_cell_holds_a_comma(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("path;age;drug\nr1.hea;60.5;2,5 mg\n")
    assert read_table(tmp_path / "t.csv")["age"].tolist() == [60.5]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is empty"),
        ("\n\n", "is empty"),
        ("path,y\n", "no rows"),
        ("path,y,y\nr1.hea,1,0\n", "stand twice: y"),
        ("path,y\nr1.hea,1\nr2.hea,1,0\n", "line 3.*save it again"),
        ('path,y\n"r1.hea,1\n', "save it again"),
    ],
)
def test_a_broken_text_is_one_sentence(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(MedfmError, match=said) as caught:
        read_table(tmp_path / "t.csv")
    assert "\n" not in str(caught.value)


def test_of_an_excel_file_the_sheet_with_paths_is_read_and_two_are_a_question(tmp_path: Path) -> None:
    with pd.ExcelWriter(tmp_path / "one.xlsx") as book:
        pd.DataFrame({"note": ["see the next sheet"]}).to_excel(book, sheet_name="about", index=False)
        FRAME.to_excel(book, sheet_name="data", index=False)
    assert is_table(tmp_path / "one.xlsx")
    pd.testing.assert_frame_equal(read_table(tmp_path / "one.xlsx"), FRAME)
    with pd.ExcelWriter(tmp_path / "two.xlsx") as book:
        for name in ("north", "south"):  # half of the patients must not vanish in silence
            FRAME.to_excel(book, sheet_name=name, index=False)
    with pytest.raises(MedfmError, match=r"2 sheets.*\(north, south\)"):
        read_table(tmp_path / "two.xlsx")
    FRAME.set_axis(["path", "y", "y"], axis=1).to_excel(tmp_path / "twice.xlsx", index=False)
    with pytest.raises(MedfmError, match="stand twice: y"):
        read_table(tmp_path / "twice.xlsx")


def test_what_is_no_table(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="table not found"):
        read_table(tmp_path / "absent.csv")
    with pytest.raises(ConfigError, match="is a folder"):
        read_table(tmp_path)
    (tmp_path / "t.xlsx").write_text("path\n")
    with pytest.raises(MedfmError, match="save it again"):
        read_table(tmp_path / "t.xlsx")
    (tmp_path / "signal.csv").write_text("time,II\n0,0.1\n")
    assert not is_table(tmp_path / "signal.csv") and not is_table(tmp_path / "absent.csv")


def test_columns_are_asked_for_by_their_remedy() -> None:
    with pytest.raises(MedfmError, match=r"Rename the column of file names to path.*found: Path, y"):
        Manifest.from_frame(pd.DataFrame({"Path": ["a"], "y": [1]}))
    with pytest.raises(ConfigError, match="--patient Patient_ID;"):
        Manifest.from_frame(pd.DataFrame({"path": ["a"], "Patient_ID": [1]}))
    twice = Manifest.from_frame(pd.DataFrame({"path": ["a", "b", "a"]}), patient=None)
    with pytest.raises(MedfmError, match=r"lines 2 and 4\); drop one"):
        twice.check(files=False)
