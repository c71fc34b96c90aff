from __future__ import annotations

import io
import tarfile

import pytest
from tiny_bundle import save

from medfm.hub.archive import export_bundle, import_archive
from medfm.hub.bundle import load_bundle
from medfm.hub.folder import FolderStore
from medfm.types import MedfmError


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return save(tmp_path_factory.mktemp("made") / "bundle")


@pytest.fixture
def store(tmp_path):
    return FolderStore(tmp_path / "hub")


def tar_of(path, members):
    """A tar made by somebody else: (name, content or TarInfo changes)."""
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            if isinstance(content, dict):
                for key, value in content.items():
                    setattr(info, key, value)
                tar.addfile(info)
            else:
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return path


def files(bundle):
    return [(f"tiny-sim/{p.name}", p.read_bytes()) for p in sorted(bundle.path.iterdir())]


def test_a_model_goes_out_as_one_tar_and_comes_back_as_it_was(bundle, store, tmp_path):
    archive = export_bundle(bundle.path, tmp_path / "out" / "tiny.tar")
    name, revision = import_archive(archive, store)
    assert (name, revision.number) == ("tiny-sim", 1)
    back = store.fetch("tiny-sim")
    for path in bundle.path.iterdir():
        assert (back / path.name).read_bytes() == path.read_bytes()
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["tiny.tar"]


def test_the_same_model_gives_the_same_tar_without_names_or_times_of_the_writer(bundle, tmp_path):
    first, second = (export_bundle(bundle.path, tmp_path / f"{i}.tar").read_bytes() for i in range(2))
    assert first == second
    with tarfile.open(tmp_path / "0.tar") as tar:
        assert {(m.mtime, m.uid, m.uname, m.mode) for m in tar} == {(0, 0, "", 0o644)}


def test_an_existing_file_and_an_odd_suffix_are_refused(bundle, tmp_path):
    target = export_bundle(bundle.path, tmp_path / "a.tar")
    with pytest.raises(MedfmError, match="exists already"):
        export_bundle(bundle.path, target)
    export_bundle(bundle.path, target, overwrite=True)
    with pytest.raises(MedfmError, match=r"must end in \.tar"):
        export_bundle(bundle.path, tmp_path / "a.zip")


@pytest.mark.parametrize("name", ["../escaped", "/tmp/escaped", "tiny-sim/../../escaped", "tiny-sim/a\\b"])
def test_a_member_that_leaves_the_folder_is_refused(bundle, store, tmp_path, name):
    archive = tar_of(tmp_path / "evil.tar", [*files(bundle), (name, b"x")])
    with pytest.raises(MedfmError, match="leaves the folder"):
        import_archive(archive, store)
    assert store.list() == [] and not list(tmp_path.rglob("escaped"))


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_are_refused(bundle, store, tmp_path, kind):
    evil = ("tiny-sim/x", {"type": kind, "linkname": "/etc/passwd"})
    with pytest.raises(MedfmError, match="link or special file"):
        import_archive(tar_of(tmp_path / "evil.tar", [evil, *files(bundle)]), store)


def test_altered_added_twice_and_several_are_refused(bundle, store, tmp_path):
    members = files(bundle)
    altered = [(n, c[:-1] + bytes([c[-1] ^ 1]) if n.endswith(".safetensors") else c) for n, c in members]
    for bad, said in (
        (altered, "was altered"),
        ([*members, ("tiny-sim/more.txt", b"x")], "was added"),
        ([*members, members[0]], "stands twice"),
        ([*members, ("loose.txt", b"x")], "outside a folder"),
        ([*members, ("other/x", b"x")], "holds 2 models"),
        (members[:-1], "missing"),
        ([], "holds 0 models"),
        ([("tiny-sim/pytorch_model.bin", b"x"), *members], "pickled code"),
    ):
        with pytest.raises(MedfmError, match=said):
            import_archive(tar_of(tmp_path / "bad.tar", bad), store)
    assert store.list() == []


def test_a_cut_off_or_foreign_file_is_a_sentence(bundle, store, tmp_path):
    archive = export_bundle(bundle.path, tmp_path / "a.tar")
    content = archive.read_bytes()
    for part in (content[: len(content) // 2], b"", b"no tar at all" * 100):
        archive.write_bytes(part)
        with pytest.raises(MedfmError, match=r"a\.tar"):
            import_archive(archive, store)
    with pytest.raises(MedfmError, match="archive not found"):
        import_archive(tmp_path / "none.tar", store)
    assert store.list() == []


def test_a_damaged_bundle_is_not_exported(tmp_path):
    damaged = save(tmp_path / "b")
    (damaged.path / "README.md").write_text("other")
    with pytest.raises(MedfmError, match="altered"):
        export_bundle(damaged.path, tmp_path / "b.tar")
    assert load_bundle(save(tmp_path / "c").path)
