"""Taking the tensors out of a pickled module: the same numbers as its state dict, and nothing is ever run."""

from __future__ import annotations

import os
import sys
import types
import zipfile

import pytest
import torch
from torch import nn

from medfm.hub.convert.pickled import module_tensors
from medfm.types import ReadError

LAYOUTS = [False, True]  # the plain stream from before PyTorch 1.6, the zip archive since


class Official(nn.Module):
    """A network of a package that is not installed where the file is read."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 3, bias=False)
        self.body = nn.Sequential(nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.Linear(4, 2).double())
        self.flat = nn.Parameter(torch.randn(3, 5).half().t())  # not contiguous
        self.register_buffer("window", torch.arange(20.0)[4:10])  # a view with an offset
        self.register_buffer("none", None)
        self.op_threshs, self.pathologies = [0.1, float("nan")], ["Effusion", ""]


def save(tmp_path, content, zipped, name="model.pt"):
    path = tmp_path / name
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    return path


@pytest.fixture
def package(monkeypatch):
    module = types.ModuleType("torchxrayvision.models")
    monkeypatch.setitem(sys.modules, "torchxrayvision", types.ModuleType("torchxrayvision"))
    monkeypatch.setitem(sys.modules, "torchxrayvision.models", module)
    monkeypatch.setattr(Official, "__module__", "torchxrayvision.models")
    module.Official = Official
    return module


@pytest.mark.filterwarnings("ignore")  # torch warns that it cannot find the source of the class
@pytest.mark.parametrize("zipped", LAYOUTS)
def test_the_tensors_are_those_of_the_state_dict_and_the_package_is_not_needed(
    tmp_path, package, zipped, monkeypatch
):
    torch.manual_seed(0)
    network = Official()
    path = save(tmp_path, network, zipped)
    expected = network.state_dict()
    monkeypatch.delitem(sys.modules, "torchxrayvision.models")
    monkeypatch.delitem(sys.modules, "torchxrayvision")
    found = module_tensors(path)
    assert "torchxrayvision" not in sys.modules
    assert found.keys() == expected.keys() and "body.2.weight" in found
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype
        torch.testing.assert_close(found[name], tensor.detach(), rtol=0, atol=0)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("zipped", LAYOUTS)
@pytest.mark.parametrize("hidden", [False, True])
def test_a_program_that_would_run_code_is_refused_and_does_not_run(tmp_path, zipped, hidden):
    mark = tmp_path / "ran"

    class Sly:
        def __reduce__(self):
            return os.system, (f"touch {mark}",)

    network = nn.Sequential(nn.Linear(2, 2))
    network.extra = Sly()
    with pytest.raises(ReadError, match=rf"names {os.system.__module__}\.system.*was not opened"):
        module_tensors(save(tmp_path, network if hidden else Sly(), zipped))
    assert not mark.exists()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("zipped", LAYOUTS)
def test_a_damaged_file_is_a_sentence(tmp_path, zipped):
    whole = save(tmp_path, nn.Sequential(nn.Linear(20, 20)), zipped).read_bytes()
    for keep in (10, len(whole) // 3, len(whole) - 400):
        path = tmp_path / "cut.pt"
        path.write_bytes(whole[:keep])
        with pytest.raises(ReadError, match=r"cut\.pt.*truncated"):
            module_tensors(path)


def test_what_holds_no_network_or_is_no_checkpoint_is_said(tmp_path):
    with pytest.raises(ReadError, match="no network"):
        module_tensors(save(tmp_path, {"a": torch.zeros(2)}, True))
    with pytest.raises(ReadError, match="truncated"):
        module_tensors(save(tmp_path, nn.Linear(2, 2), True).with_name("absent.pt"))
    good = save(tmp_path, nn.Linear(2, 2), True)
    with (
        zipfile.ZipFile(good) as source,
        zipfile.ZipFile(tmp_path / "packed.pt", "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for entry in source.namelist():
            packed.writestr(entry, source.read(entry))
    with pytest.raises(ReadError, match="compressed"):
        module_tensors(tmp_path / "packed.pt")
    (tmp_path / "odd.pt").write_bytes(
        b"\x80\x04\x8c\x05posix\x94\x8c\x06system\x94\x93\x94."
    )  # another way to name
    with pytest.raises(ReadError, match="SHORT_BINUNICODE"):
        module_tensors(tmp_path / "odd.pt")


@pytest.mark.filterwarnings("ignore")
def test_a_module_that_holds_itself_ends(tmp_path):
    network = nn.Sequential(nn.Linear(2, 2))
    network.again = nn.Sequential()
    network.again._modules["up"] = network
    assert list(module_tensors(save(tmp_path, network, True))) == ["0.weight", "0.bias"]
