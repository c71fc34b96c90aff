"""The traps of YAML 1.1, and the way back."""

import pytest

from medfm.config import yaml12
from medfm.types import ConfigError


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("1E3", 1000.0),
        ("2.", 2.0),
        (".5", 0.5),
        ("-.inf", float("-inf")),
        ("12_000", 12000),
        ("010", 10),
        ("no", "no"),
        ("on", "on"),
        ("yes", "yes"),
        ("true", True),
        ("12:30", "12:30"),
        ("2024-01-02", "2024-01-02"),
        ("0x1F", "0x1F"),
        ("~", None),
        ("null", None),
        ("", None),
        ("e", "e"),
        (".", "."),
        ("'1e-3'", "1e-3"),
        ("[no, 1e2]", ["no", 100.0]),
    ],
)
def test_scalars(text, value):
    found = yaml12.parse(text, "x")
    assert found == value and type(found) is type(value)


def test_written_text_is_read_back_equal():
    data = {
        "text": [
            "no",
            "1e-3",
            "12:30",
            "true",
            "010",
            "null",
            "~",
            "",
            " a",
            "2024-01-02",
            "a: b",
            "#",
            "1_0",
            "é",
        ],
        "numbers": [1e-6, 0.1, 3, -2.5e20, True, None],
        "nested": {"list": [[1, 2], []], "empty": {}},
    }
    assert yaml12.parse(yaml12.dump(data), "x") == data


def test_a_key_twice_is_an_error_at_any_depth():
    with pytest.raises(ConfigError, match=r"x, line 3: not valid YAML: the key 'b' stands twice"):
        yaml12.parse("a:\n  b: 1\n  b: 2", "x")


def test_tags_build_no_objects():
    with pytest.raises(ConfigError, match="x"):
        yaml12.parse("!!python/object/apply:os.getcwd []", "x")
