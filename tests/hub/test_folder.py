from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tiny_bundle import save

from medfm.hub import folder as module
from medfm.hub.bundle import load_bundle, weights_hash
from medfm.hub.folder import FolderStore, local_hub
from medfm.hub.store import Revision, matches
from medfm.types import MedfmError


@pytest.fixture(scope="module")
def bundles(tmp_path_factory):
    root = tmp_path_factory.mktemp("bundles")
    return [save(root / f"b{seed}", seed=seed).path for seed in range(2)]


@pytest.fixture
def store(tmp_path):
    return FolderStore(tmp_path / "store")


def blob_of(store, name, file):
    entry = store.find(name).record["files"][file]
    return store.root / "blobs" / "sha256" / entry["sha256"][:2] / entry["sha256"]


def overwrite(path: Path, content: bytes) -> None:
    path.chmod(0o644)
    path.write_bytes(content)


def test_revisions_count_up_and_each_gives_back_its_own_bundle(store, bundles):
    revisions = [store.publish(b, "tiny") for b in (*bundles, bundles[0])]
    assert [r.number for r in revisions] == [1, 2, 3]
    assert [p.record["parent"] for p in store.history("tiny")] == ["", revisions[0].sha, revisions[1].sha]
    for revision, source in zip(revisions, (*bundles, bundles[0])):
        for word in (str(revision.number), str(revision), revision.sha[:7], revision.sha):
            fetched = store.fetch("tiny", word)
            assert load_bundle(fetched).weights_sha256 == load_bundle(source).weights_sha256
    assert store.fetch("tiny") == store.fetch("tiny", "latest") == store.fetch("tiny", "3")
    assert [(p.name, p.revision) for p in store.list()] == [("tiny", revisions[2])]
    assert store.verify() == []


def test_the_same_content_is_stored_once(store, bundles):
    store.publish(bundles[0], "a")
    size = sum(p.stat().st_size for p in (store.root / "blobs").rglob("*") if p.is_file())
    store.publish(bundles[0], "b")
    assert sum(p.stat().st_size for p in (store.root / "blobs").rglob("*") if p.is_file()) == size


def test_published_files_are_read_only_and_a_record_number_is_never_given_twice(store, bundles):
    store.publish(bundles[0], "tiny")
    record = store.root / "models" / "tiny" / "00000001.json"
    for path in (record, blob_of(store, "tiny", "model.safetensors"), *store.fetch("tiny").iterdir()):
        assert path.stat().st_mode & 0o777 == 0o444
    before = record.read_bytes()
    assert store._link(store._temporary(b"other"), record) is False
    assert record.read_bytes() == before
    assert not list((store.root / "tmp").iterdir())


PUBLISHER = """
import sys
from medfm.hub.folder import FolderStore
store = FolderStore(sys.argv[1])
for _ in range(int(sys.argv[3])):
    store.publish(sys.argv[2], "tiny")
"""


def test_eight_writers_at_once_lose_nothing_and_leave_one_line_of_history(store, bundles):
    each = 6
    writers = [
        subprocess.Popen([sys.executable, "-c", PUBLISHER, str(store.root), str(bundles[i % 2]), str(each)])
        for i in range(8)
    ]
    assert [w.wait() for w in writers] == [0] * 8
    history = store.history("tiny")
    assert [p.revision.number for p in history] == list(range(1, 8 * each + 1))
    assert [p.record["parent"] for p in history[1:]] == [p.revision.sha for p in history[:-1]]
    digests = [p.record["files"]["model.safetensors"]["sha256"] for p in history]
    assert sorted(digests.count(d) for d in set(digests)) == [4 * each, 4 * each]
    assert store.verify() == []
    assert not list((store.root / "tmp").iterdir())


def test_a_killed_writer_leaves_no_half_revision(store, bundles):
    store.publish(bundles[0], "tiny")
    for delay in (0.0, 0.01, 0.03):
        before = len(store.history("tiny"))
        writer = subprocess.Popen(
            [sys.executable, "-c", PUBLISHER, str(store.root), str(bundles[1]), "100000"]
        )
        deadline = time.monotonic() + 20
        while (
            len(list((store.root / "models" / "tiny").glob("*.json"))) <= before
            and time.monotonic() < deadline
        ):
            time.sleep(0.005)
        time.sleep(delay)
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        assert store.verify() == []
        assert len(store.history("tiny")) > before
    last = store.publish(bundles[0], "tiny")
    assert store.history("tiny")[-1].revision == last


def test_a_writer_that_dies_before_the_record_leaves_only_orphans(store, bundles, monkeypatch):
    def die(self, name, entries):
        raise KeyboardInterrupt

    monkeypatch.setattr(FolderStore, "_append", die)
    with pytest.raises(KeyboardInterrupt):
        store.publish(bundles[0], "tiny")
    assert store.list() == [] and store.verify() == []


def test_an_altered_or_missing_blob_is_named_and_never_handed_out(store, bundles):
    store.publish(bundles[0], "tiny")
    blob = blob_of(store, "tiny", "model.safetensors")
    content = blob.read_bytes()
    overwrite(blob, content[:100] + bytes([content[100] ^ 1]) + content[101:])
    assert [p for p in store.verify() if str(blob) in p and "altered" in p]
    with pytest.raises(MedfmError, match=r"model\.safetensors was altered in the store"):
        store.fetch("tiny")
    assert not store.cache.exists() or not list(store.cache.iterdir())
    blob.unlink()
    assert [p for p in store.verify() if str(blob) in p and "missing" in p]
    with pytest.raises(MedfmError, match="is missing from the store"):
        store.fetch("tiny")
    store.publish(bundles[0], "tiny")  # the same content again mends the store
    assert store.verify() == [] and load_bundle(store.fetch("tiny", "1"))


def test_an_altered_or_removed_record_is_found(store, bundles):
    for bundle in (*bundles, bundles[0]):
        store.publish(bundle, "tiny")
    second = store.root / "models" / "tiny" / "00000002.json"
    content = second.read_bytes()
    record = json.loads(content)
    record["created"] = "2000-01-01"
    overwrite(second, json.dumps(record, sort_keys=True, separators=(",", ":")).encode())
    assert any("00000003.json" in p and "does not follow" in p for p in store.verify())
    overwrite(second, content[:-5])
    assert any("00000002.json" in p and "damaged" in p for p in store.verify())
    second.unlink()
    assert any("does not follow" in p for p in store.verify())


def test_a_record_cannot_write_outside_the_cache(store, bundles, tmp_path):
    store.publish(bundles[0], "tiny")
    path = store.root / "models" / "tiny" / "00000001.json"
    record = json.loads(path.read_bytes())
    record["files"]["../../escaped.txt"] = record["files"]["README.md"]
    overwrite(path, json.dumps(record, sort_keys=True, separators=(",", ":")).encode())
    with pytest.raises(MedfmError, match="leaves the folder"):
        store.fetch("tiny")
    assert not list(tmp_path.rglob("escaped.txt"))


def test_editing_a_fetched_file_does_not_reach_into_the_store(store, bundles):
    store.publish(bundles[0], "tiny")
    fetched = store.fetch("tiny")
    overwrite(fetched / "model.safetensors", b"garbage")
    assert store.verify() == []
    assert load_bundle(store.fetch("tiny")).weights_sha256 == load_bundle(bundles[0]).weights_sha256


def test_a_damaged_bundle_is_not_published(store, bundles, tmp_path):
    damaged = shutil.copytree(bundles[0], tmp_path / "damaged")
    (damaged / "extra.txt").write_text("x")
    with pytest.raises(MedfmError, match="was added"):
        store.publish(damaged, "tiny")
    assert store.list() == []


def test_what_is_not_there_is_said_with_what_is(store, bundles):
    assert store.list() == [] and store.history("tiny") == []
    with pytest.raises(MedfmError, match="it holds nothing yet"):
        store.fetch("tiny")
    store.publish(bundles[0], "tiny")
    with pytest.raises(MedfmError, match="no model 'tony'; it holds tiny"):
        store.fetch("tony")
    with pytest.raises(MedfmError, match=r"no revision '7'.*the newest are 1-"):
        store.fetch("tiny", "7")


@pytest.mark.parametrize("name", ["../x", "a/b", "", ".hidden", "a..b"])
def test_a_name_that_leaves_the_store_is_refused(store, bundles, name):
    with pytest.raises(MedfmError, match="cannot be a name"):
        store.publish(bundles[0], name)
    with pytest.raises(MedfmError, match="cannot be a name"):
        store.fetch(name)


def test_a_folder_of_another_kind_is_not_taken_over(store, bundles):
    store.root.mkdir()
    (store.root / "thesis.docx").write_text("x")
    with pytest.raises(MedfmError, match=r"is no store: it holds 'thesis\.docx'"):
        store.publish(bundles[0], "tiny")
    assert [p.name for p in store.root.iterdir()] == ["thesis.docx"]


@pytest.mark.parametrize(
    "number, said",
    [
        (errno.ENOSPC, "no space left"),
        (errno.EROFS, "read-only"),
        (errno.EACCES, "read-only"),
        (errno.EIO, "failed at"),
    ],
)
def test_a_full_disk_and_a_read_only_share_are_sentences(store, bundles, monkeypatch, number, said):
    store.publish(bundles[0], "tiny")

    def refuse(*args, **kwargs):
        raise OSError(number, os.strerror(number), str(store.root))

    monkeypatch.setattr(module.tempfile, "mkstemp", refuse)
    with pytest.raises(MedfmError, match=said):
        store.publish(bundles[1], "tiny")
    monkeypatch.undo()
    assert len(store.history("tiny")) == 1 and store.verify() == []


def test_a_file_system_without_hard_links_is_refused_with_the_way_around(store, bundles, monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr(module.os, "link", refuse)
    with pytest.raises(MedfmError, match=r"knows no hard links.*medfm hub export"):
        store.publish(bundles[0], "tiny")


def test_a_link_whose_answer_was_lost_counts_as_made(store, bundles, monkeypatch):
    link = os.link

    def lost(source, target):
        link(source, target)
        raise FileExistsError(errno.EEXIST, "File exists", str(target))

    monkeypatch.setattr(module.os, "link", lost)
    assert store.publish(bundles[0], "tiny").number == 1
    assert len(store.history("tiny")) == 1


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_store_can_be_read(store, bundles):
    store.publish(bundles[0], "tiny")
    for path in [store.root, *store.root.rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        assert load_bundle(store.fetch("tiny"))
        with pytest.raises(MedfmError, match="read-only"):
            store.publish(bundles[0], "tiny")
    finally:
        for path in [store.root, *store.root.rglob("*")]:
            path.chmod(0o755)


def test_four_readers_at_once_get_one_whole_copy(store, bundles):
    store.publish(bundles[0], "tiny")
    code = (
        "import sys; from medfm.hub.folder import FolderStore; print(FolderStore(sys.argv[1], "
        "sys.argv[2]).fetch('tiny'))"
    )
    readers = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(store.root), str(store.cache)], stdout=subprocess.PIPE
        )
        for _ in range(4)
    ]
    answers = {r.communicate()[0] for r in readers}
    assert len(answers) == 1 and all(r.returncode == 0 for r in readers)
    assert [p.name for p in store.cache.iterdir()] == [f"tiny-{store.find('tiny').revision}"]


def test_revision_words():
    revision = Revision(12, "0123456789abcdef" * 4)
    assert matches(revision, "12") and matches(revision, "0123456") and matches(revision, str(revision))
    assert (
        not matches(revision, "1") and not matches(revision, "012345") and not matches(revision, "11-0123456")
    )
    assert not matches(revision, "12-fff") and not matches(revision, "12-")


def test_the_local_hub_lies_in_the_users_home(bundles):
    store = local_hub()
    store.publish(bundles[0], "tiny")
    assert store.root == Path(os.environ["MEDFM_HOME"]) / "hub"
    assert (
        weights_hash(load_bundle(local_hub().fetch("tiny")).state) == load_bundle(bundles[0]).weights_sha256
    )
