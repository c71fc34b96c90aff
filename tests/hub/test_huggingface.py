"""Against a stand-in for ``HfApi`` that keeps commits in memory and snapshots as links, as the real cache
does.
"""

from __future__ import annotations

import hashlib
import io
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
from tiny_bundle import save

from medfm.hub import huggingface
from medfm.hub.bundle import load_bundle
from medfm.hub.huggingface import parse, pull, push
from medfm.types import MedfmError

REF = "hf://org/tiny"


class FakeHub:
    def __init__(self, cache):
        self.cache, self.commits, self.tags, self.calls, self.private = cache, [], {}, [], None

    def create_repo(self, repo, private, exist_ok):
        assert exist_ok
        if not self.commits:
            self.private = private
            self._commit({".gitattributes": b"x"})

    def _commit(self, files):
        oid = hashlib.sha1(repr((len(self.commits), sorted(files))).encode()).hexdigest()
        self.commits.append((oid, files))
        return oid

    def model_info(self, repo, revision=None):
        self.calls.append("model_info")
        oid, files = self._at(revision)
        return SimpleNamespace(sha=oid, siblings=[SimpleNamespace(rfilename=n) for n in files])

    def _at(self, revision):
        oid = self.tags.get(revision, revision)
        return self.commits[-1] if oid in (None, "main") else next(c for c in self.commits if c[0] == oid)

    def create_commit(self, repo, operations, commit_message, parent_commit):
        if parent_commit != self.commits[-1][0]:
            raise RuntimeError("412 Precondition Failed")
        files = dict(self.commits[-1][1])
        for operation in operations:
            if type(operation).__name__ == "CommitOperationDelete":
                del files[operation.path_in_repo]
            else:
                assert isinstance(operation.path_or_fileobj, io.BufferedIOBase)
                files[operation.path_in_repo] = operation.path_or_fileobj.read()
        return SimpleNamespace(oid=self._commit(files))

    def list_repo_refs(self, repo):
        return SimpleNamespace(tags=[SimpleNamespace(name=t) for t in self.tags])

    def create_tag(self, repo, tag, revision):
        assert tag not in self.tags
        self.tags[tag] = revision

    def snapshot_download(self, repo, revision, local_files_only):
        self.calls.append("snapshot_download")
        oid, files = self._at(revision)
        folder = self.cache / "snapshots" / oid
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            blob = self.cache / hashlib.sha256(content).hexdigest()
            blob.write_bytes(content)
            (folder / name).unlink(missing_ok=True)
            (folder / name).symlink_to(blob)
        return str(folder)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return save(tmp_path_factory.mktemp("made") / "bundle")


@pytest.fixture
def hub(tmp_path):
    return FakeHub(tmp_path / "hf")


def test_a_push_is_one_commit_pinned_tagged_and_private(bundle, hub):
    pushed = push(bundle.path, REF, api=hub)
    assert pushed == (f"hf://org/tiny@{hub.commits[-1][0]}", "v0.1.0")
    assert len(hub.commits) == 2 and hub.private is True and hub.tags == {"v0.1.0": hub.commits[-1][0]}
    assert set(hub.commits[-1][1]) == {p.name for p in bundle.path.iterdir()} | {".gitattributes"}
    again = push(bundle.path, REF, api=hub)
    assert again.tag == "" and hub.tags["v0.1.0"] != hub.commits[-1][0]


def test_a_push_removes_what_the_bundle_does_not_have(bundle, hub):
    hub.create_repo("org/tiny", True, True)
    hub._commit({".gitattributes": b"x", "pytorch_model.bin": b"old"})
    push(bundle.path, REF, api=hub)
    assert "pytorch_model.bin" not in hub.commits[-1][1]


def test_another_writer_in_between_is_not_overwritten(bundle, hub):
    info = hub.model_info

    def raced(*args, **kwargs):
        answer = info(*args, **kwargs)
        if "theirs" not in hub.commits[-1][1]:
            hub._commit({"theirs": b"x"})
        return answer

    hub.model_info = raced
    with pytest.raises(MedfmError, match=r"pushing to hf://org/tiny failed \(RuntimeError: 412"):
        push(bundle.path, REF, api=hub)
    assert set(hub.commits[-1][1]) == {"theirs"}


@pytest.mark.parametrize("ref", [REF, f"{REF}@main", f"{REF}@v0.1.0"])
def test_a_pull_gives_plain_verified_files_under_the_commit(bundle, hub, ref):
    push(bundle.path, REF, api=hub)
    folder = pull(ref, api=hub)
    assert folder.name == f"hf-org--tiny-{hub.commits[-1][0]}"
    assert not any(p.is_symlink() for p in folder.iterdir())
    assert load_bundle(folder).weights_sha256 == bundle.weights_sha256
    assert pull(ref, api=hub) == folder


def test_a_commit_that_was_pulled_before_costs_no_request(bundle, hub):
    pinned = push(bundle.path, REF, api=hub).ref
    first = pull(pinned, api=hub)
    hub.calls.clear()
    assert pull(pinned, api=hub) == first and hub.calls == []


def test_offline_mode_asks_the_cache_only(bundle, hub, monkeypatch):
    from huggingface_hub import constants

    push(bundle.path, REF, api=hub)
    hub.calls.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    asked = []
    download = hub.snapshot_download

    def watched(repo, **options):
        asked.append(options)
        return download(repo, **options)

    hub.snapshot_download = watched
    pull(f"{REF}@v0.1.0", api=hub)
    assert asked == [{"revision": "v0.1.0", "local_files_only": True}] and "model_info" not in hub.calls


def test_what_the_server_altered_is_found_where_the_client_would_take_it(bundle, hub):
    push(bundle.path, REF, api=hub)
    files = hub.commits[-1][1]
    weights = files["model.safetensors"]
    files["model.safetensors"] = weights[:-4] + bytes(4)
    with pytest.raises(MedfmError, match=r"model\.safetensors was altered"):
        pull(REF, api=hub)
    files["model.safetensors"] = weights
    files["run_me.txt"] = b"x"
    with pytest.raises(MedfmError, match=r"run_me\.txt was added"):
        pull(REF, api=hub)


def test_a_failed_download_says_the_exact_way_around(hub):
    def dead(*args, **kwargs):
        raise ConnectionError("no route to host\nmore")

    hub.model_info = dead
    with pytest.raises(MedfmError) as failure:
        pull(f"{REF}@v1", api=hub)
    for part in (
        "ConnectionError: no route to host",
        "medfm hub export hf://org/tiny@v1 model.tar",
        "medfm hub import",
    ):
        assert part in str(failure.value)


@pytest.mark.parametrize("ref", ["hf://tiny", "hf://a/b/c", "hf://a/b@", "hf://a b/c"])
def test_a_malformed_reference_is_a_sentence(ref):
    with pytest.raises(MedfmError, match="hf://org/name"):
        parse(ref)


def test_a_push_names_no_revision(bundle, hub):
    with pytest.raises(MedfmError, match="makes its own revision"):
        push(bundle.path, f"{REF}@main", api=hub)


def test_the_client_is_imported_only_when_it_is_used():
    code = (
        "import sys, medfm.hub.resolve, medfm.hub.huggingface, medfm.hub.archive; "
        "sys.exit('huggingface_hub' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
    assert not hasattr(huggingface, "huggingface_hub")


def test_the_real_client_offline_fails_with_the_way_around():
    code = (
        "from medfm.hub.resolve import resolve\nfrom medfm.types import MedfmError\n"
        "try:\n resolve('hf://org/none')\nexcept MedfmError as e:\n assert 'medfm hub export "
        "hf://org/none' in str(e), e\n"
        "else:\n raise SystemExit(1)"
    )
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    assert subprocess.run([sys.executable, "-c", code], env=environment).returncode == 0


def test_the_real_client_pushes_and_pulls_over_http(bundle, tmp_path):
    """The unmodified huggingface_hub against a loopback server: one commit, the tag, then a verified pull."""
    from loopback_hub import serve

    def medfm(*words):
        code = "import sys; from medfm.cli.main import main; sys.exit(main(['hub', *sys.argv[1:]]))"
        done = subprocess.run(
            [sys.executable, "-c", code, *words], env=environment, capture_output=True, text=True
        )
        return done.returncode, done.stdout + done.stderr

    with serve() as (url, repository):
        home = {
            "HF_HOME": str(tmp_path / "hf"),
            "HF_ENDPOINT": url,
            "HF_TOKEN": "hf_test",
            "NO_PROXY": "127.0.0.1",
        }
        environment = {**os.environ, **home, "MEDFM_HOME": str(tmp_path / "home")}
        status, said = medfm("push", str(bundle.path), REF)
        assert status == 0, said
        assert len(repository.commits) == 2 and repository.tags == {"v0.1.0": repository.commits[-1][0]}
        pinned = f"{REF}@{repository.commits[-1][0]}"
        assert pinned in said and "tagged v0.1.0" in said
        status, said = medfm("verify", f"{REF}@v0.1.0")
        assert status == 0, said
        assert load_bundle(next((tmp_path / "home" / "bundles").iterdir())).card == bundle.card
        content, lfs = repository.commits[-1][1]["model.safetensors"]
        assert lfs and content == (bundle.path / "model.safetensors").read_bytes()
        repository.commits.append(
            ("a" * 40, {**repository.commits[-1][1], "model.safetensors": (content[:-4] + b"evil", lfs)})
        )
        status, said = medfm("verify", REF)
        assert status == 1 and "model.safetensors was altered" in said, said
    environment["HF_HUB_OFFLINE"] = "1"
    assert medfm("verify", pinned)[0] == 0  # from what was pulled before
