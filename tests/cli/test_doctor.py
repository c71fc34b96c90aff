"""What doctor says, and what it never says."""

import json

import pytest

from medfm.cli.main import main
from medfm.workflows import doctor as examine


def test_doctor_reports_versions_places_and_decoders(capsys, tmp_path, monkeypatch):
    home = tmp_path / "home"
    (home / "store").mkdir(parents=True)
    (home / "store" / "x.bin").write_bytes(b"0" * 1234)
    monkeypatch.setenv("MEDFM_HOME", str(home))
    assert main(["doctor", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["packages"]["torch"][0].isdigit() and report["devices"]["cores usable here"] >= 1
    assert report["places"]["ingest store"]["used"] == 1234
    assert report["places"]["cache (MEDFM_HOME)"]["path"] == str(home)
    assert report["network"]["MEDFM_HOME"] == str(home)
    assert report["shipped"]["recipes"] >= 1
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert "1.23 kB used" in out and "torch" in out and str(home) in out


def test_looking_makes_no_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("MEDFM_HOME", str(tmp_path / "absent"))
    examine.doctor()
    assert not (tmp_path / "absent").exists()


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("http://bob:s3cret@proxy.example:3128", "http://proxy.example:3128 (with a user name, not shown)"),
        ("bob:s3cret@proxy.example:3128", "http://proxy.example:3128 (with a user name, not shown)"),
        ("http://bob:s3cret@[::1:3128", "set (not shown)"),
        ("http://bob:s3cret@proxy:port", "set (not shown)"),
        ("http://proxy.example:3128/?token=s3cret", "http://proxy.example:3128"),
        ("socks5://proxy.example", "socks5://proxy.example"),
    ],
)
def test_a_proxy_is_shown_without_its_credentials(given, shown):
    found = examine.network({"HTTPS_PROXY": given, "http_proxy": given})
    assert found == {"HTTPS_PROXY": shown, "http_proxy": shown}


def test_a_token_is_named_and_not_shown():
    found = examine.network(
        {"HF_TOKEN": "hf_s3cret", "NO_PROXY": "localhost", "SSL_CERT_FILE": "ca.pem", "X": "1"}
    )
    assert found == {"NO_PROXY": "localhost", "SSL_CERT_FILE": "ca.pem", "HF_TOKEN": "set (not shown)"}


def test_a_missing_reader_comes_with_its_remedy(monkeypatch):
    monkeypatch.setattr(examine, "DECODERS", {"Some format": ("no_such_module_here", "pip install it")})
    monkeypatch.setattr(examine, "PACKAGES", ("no-such-distribution",))
    report = examine.doctor()
    assert report["decoders"] == {"Some format": "missing"}
    assert "Some format: no_such_module_here missing: pip install it" in report["problems"]
    assert "no-such-distribution is missing: pip install no-such-distribution" in report["problems"]


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (999, "999 B"), (1234, "1.23 kB"), (77.8e9, "77.8 GB")]
)
def test_sizes_are_for_people(count, text):
    assert examine.size(count) == text
