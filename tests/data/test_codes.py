"""Codes of patients and records: the function, its key's file, and that nothing else can make them."""

from __future__ import annotations

import hashlib
import os
import stat
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from medfm import formats, paths
from medfm.data import codes
from medfm.data.codes import Codes, same_data, site_codes
from medfm.data.manifest import Manifest
from medfm.types import MedfmError


def rfc2104(key: bytes, message: bytes) -> str:
    """HMAC-SHA256 by its definition, for keys of up to one block (64 bytes)."""
    block = key.ljust(64, b"\0")
    inner = hashlib.sha256(bytes(b ^ 0x36 for b in block) + message).digest()
    return hashlib.sha256(bytes(b ^ 0x5C for b in block) + inner).hexdigest()


def test_a_code_is_the_first_half_of_an_hmac() -> None:
    key = bytes(range(32))
    assert rfc2104(b"\x0b" * 20, b"Hi There").startswith(
        "b0344c61d8db38535ca8afceaf0bf12b"
    )  # RFC 4231, case 1
    made = Codes(key).of(["DOE-JANE-1970", "Müller", 17], "patient")
    for text, code in zip(("DOE-JANE-1970", "Müller", "17"), made):
        assert code == "p-" + rfc2104(key, b"patient\x1f" + text.encode())[:16]
    assert Codes(key).of(["x"], "record")[0] == "r-" + rfc2104(key, b"record\x1fx")[:16]
    assert Codes(key).digest("x") == rfc2104(key, b"digest\x1fx")


def test_one_patient_one_code_under_one_key() -> None:
    one, other = Codes(b"a" * 32), Codes(b"b" * 32)
    a, b, again, blank = one.of(["a", "b", "a", pd.NA], "patient")
    assert a == again and len({a, b, *other.of(["a", "b"], "patient")}) == 4 and blank == ""
    assert one.of(["a"], "record")[0][2:] != a[2:]
    assert one.of([], "patient").tolist() == []
    assert one.of(["odd\udce9name"], "record")[0].startswith("r-")  # a file name that is no UTF-8
    assert "aaaa" not in repr(one)


def test_the_key_is_made_once_and_is_the_users_alone(caplog: pytest.LogCaptureFixture) -> None:
    first = site_codes()
    file = paths.key_file()
    assert file == paths.home() / "keys" / "site.key" and file.read_bytes() == first.key
    assert len(first.key) == 32 and site_codes() == first
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [p.name for p in file.parent.iterdir()] == ["site.key"]
    assert caplog.text.count("Keep a copy") == 1 and "every user" not in caplog.text


def test_without_a_home_the_key_lies_where_no_cache_is_emptied(monkeypatch: pytest.MonkeyPatch) -> None:
    platformdirs = pytest.importorskip("platformdirs")
    monkeypatch.delenv("MEDFM_HOME")
    cache = Path(platformdirs.user_cache_dir("medfm", appauthor=False))
    assert paths.key_file().name == "site.key" and cache not in paths.key_file().parents


def test_of_two_processes_the_first_makes_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.urandom

    def another_is_first(count: int) -> bytes:
        if count != 32:  # a random name
            return real(count)
        paths.key_file().write_bytes(b"1" * count)
        return b"2" * count

    monkeypatch.setattr(codes.os, "urandom", another_is_first)
    assert site_codes().key == b"1" * 32
    assert [p.name for p in paths.key_file().parent.iterdir()] == ["site.key"]


def test_processes_that_start_together_agree(tmp_path: Path) -> None:
    told = (
        "import os, sys, time\nfrom pathlib import Path\nfrom medfm.data.codes import site_codes\n"
        "Path(sys.argv[2]).touch()\nwhile not Path('go').exists(): time.sleep(0.001)\n"
        "for i in range(60):\n"
        "    os.environ['MEDFM_HOME'] = f'{sys.argv[1]}/{i}'\n    print(site_codes().key.hex())\n"
    )
    where = {**os.environ, "PYTHONPATH": str(Path(codes.__file__).parents[2])}
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", told, str(tmp_path), f"ready{n}"],
            cwd=tmp_path,
            env=where,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        for n in range(2)
    ]
    deadline = time.monotonic() + 60
    while not all((tmp_path / f"ready{n}").exists() for n in range(2)) and time.monotonic() < deadline:
        time.sleep(0.01)
    (tmp_path / "go").touch()
    one, two = (process.communicate(timeout=60)[0].split() for process in runs)
    assert one == two and len(set(one)) == 60


def test_a_bad_key_has_its_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "share" / "site.key"
    monkeypatch.setenv("MEDFM_KEY_FILE", str(file))
    with pytest.raises(MedfmError, match=r"MEDFM_KEY_FILE=.*no such file. Mount"):
        site_codes()
    assert not file.parent.exists()  # a drive that is not mounted gets no new key
    file.parent.mkdir()
    for wrong in (b"", b"k" * 31, b"k" * 4097):
        file.write_bytes(wrong)
        with pytest.raises(MedfmError, match=f"{len(wrong)} bytes, and 32 to 4096"):
            site_codes()
    file.write_bytes(b"k" * 32)
    file.chmod(0o644)
    assert site_codes().key == site_codes().key == b"k" * 32
    assert caplog.text.count("can be read by every user") == 1
    monkeypatch.setenv("MEDFM_KEY_FILE", str(tmp_path))
    with pytest.raises(MedfmError, match=r"cannot be read.*MEDFM_KEY_FILE=PATH"):
        site_codes()
    monkeypatch.delenv("MEDFM_KEY_FILE")
    (tmp_path / "file").touch()
    monkeypatch.setenv("MEDFM_HOME", str(tmp_path / "file"))
    with pytest.raises(MedfmError, match=r"cannot be made.*MEDFM_HOME=PATH"):
        site_codes()


def test_a_bundles_digest_is_known_again_at_its_site_only() -> None:
    assert same_data("abc", "abc") and not same_data(
        "abc", None
    )  # a public data set states its digest as it is
    assert not paths.key_file().exists()  # asking makes no key
    stated = site_codes().digest("abc")
    assert same_data("abc", stated) and not same_data("abd", stated)
    paths.key_file().write_bytes(b"another key that is long enough!")
    assert not same_data("abc", stated)


def test_rows_are_those_of_the_users_table_whatever_was_left_out() -> None:
    frame = pd.DataFrame({"path": list("abcdef"), "patient_id": list("uuvvww"), "split": ["x", "y"] * 3})
    whole = Manifest.from_frame(frame)
    assert whole.rows.tolist() == [2, 3, 4, 5, 6, 7]
    part = whole.split("y").take([0, 2])
    assert part.records == ["b", "f"] and part.rows.tolist() == [3, 7]
    assert whole.subset(1).rows.tolist() in ([2, 3], [4, 5], [6, 7])
    with pytest.raises(MedfmError, match="lines 3 and 7"):
        Manifest(part.frame.assign(record="same"), lines=part.rows).check(files=False)
    table = Codes(b"a" * 32).table(part)
    assert table.columns.tolist() == ["row", "record", "patient"] and table["row"].tolist() == [3, 7]
    np.testing.assert_array_equal(table["patient"], Codes(b"a" * 32).of(["u", "w"], "patient"))


def test_every_plain_reason_belongs_to_a_sentence_of_the_readers() -> None:
    from medfm.workflows.gather import PLAIN, plain_reason

    package = Path(formats.__file__).parents[1]
    files = [*package.glob("formats/*.py"), *package.glob("modalities/*.py")]
    source = "".join(file.read_text(encoding="utf-8") for file in files)
    assert [part for part in PLAIN if part not in source] == []
    with pytest.raises(MedfmError) as caught:
        formats.read("JANE/nowhere.hea")
    assert plain_reason(str(caught.value)) == "no such file"
    assert plain_reason("JANE DOE: what a decoder says of 'JANE DOE'") == "could not be read"
