"""The CT benchmarks: both sides of a pair train the same thing, the references stay frozen and read what they say."""

from __future__ import annotations

import ast
import hashlib
import inspect
import itertools

import nibabel as nib
import numpy as np
import pytest
import torch

from medfm.bench import nifti_reference, voco_reference, volume_fusion_reference
from medfm.bench.ct import bench_ct, make_voco, make_volume_fusion
from medfm.types import Batch, ConfigError

# Of the syntax tree, so that a formatter is free to move lines. A change here makes old ratios incomparable.
FROZEN = {
    nifti_reference: "1766fbc0f8c90653",
    voco_reference: "26d7d94f538a403d",
    volume_fusion_reference: "23819b272e4081d7",
}
STILL = {"flip": 0, "rotate": 0, "shift": 0, "dropout": 0, "floor": 1e-6}


@pytest.mark.parametrize("reference", FROZEN, ids=lambda m: m.__name__.split(".")[-1])
def test_the_reference_is_frozen_and_stands_alone(reference):
    source = inspect.getsource(reference)
    tree = ast.parse(source)
    for node in ast.walk(tree):  # words may be mended, code may not
        kinds = ast.Module | ast.ClassDef | ast.FunctionDef
        if isinstance(node, kinds) and ast.get_docstring(node) is not None:
            node.body = node.body[1:]
    assert hashlib.sha256(ast.unparse(tree).encode()).hexdigest()[:16] == FROZEN[reference]
    assert "import medfm" not in source and "from medfm" not in source


@pytest.mark.parametrize("whole", [False, True], ids=["second version", "first version"])
def test_both_sides_of_voco_take_the_same_steps(whole):
    pair = make_voco(batch=2, crop=8, hidden=32, whole=whole, **STILL)
    # In single precision the sign of |y - l| is noise where teacher and student are still alike.
    pair.method.double(), pair.plain.double()
    x = torch.rand(2, 1, *pair.method.window, generator=torch.Generator().manual_seed(0)).double()
    for _ in range(3):
        corners = pair.method.corners(2, 2, pair.method.rng()).numpy()
        cuts = [
            np.stack(voco_reference.cut(window[0].numpy(), places, 8)) for window, places in zip(x, corners)
        ]
        crops = torch.from_numpy(np.stack(cuts))[:, :, None]
        labels = torch.tensor(
            [[[voco_reference.label(c, b, 8) for b in places[:9]] for c in places[9:]] for places in corners]
        )
        ours = pair.ours(Batch(x, torch.ones(2, 1, dtype=torch.bool)))
        assert ours == pytest.approx(pair.theirs((crops[:, :9], crops[:, 9:], labels)), rel=1e-4)


def test_both_sides_of_volume_fusion_take_the_same_steps():
    pair = make_volume_fusion(batch=2, crop=32)
    shape = (2, 2, 1, *pair.method.window)
    views = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    batch = Batch(views[:, 0], torch.ones(2, 1, dtype=torch.bool), views={"views": views})
    losses = []
    for _ in range(3):
        losses.append(pair.ours(batch))
        assert losses[-1] == pytest.approx(pair.theirs(pair.method.fused(batch, pair.method.rng())), rel=1e-3)
    assert len(set(losses)) == 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two files of 2 mm slices, axes to the left and back; brightness is the place along each axis in mm."""
    folder = tmp_path_factory.mktemp("ct")
    for n in range(2):
        axes = np.meshgrid(*(np.arange(s, dtype=np.float32) for s in (60, 56, 40)), indexing="ij")
        x = axes[0] + 1000 * (axes[1] + 1)
        nib.save(nib.Nifti1Image(x, np.diag([-1.0, -1.0, 2.0, 1.0])), folder / f"{n}.nii.gz")
    return folder


def test_files_are_read_to_ras_at_the_spacing_asked_for(folder):
    path = str(folder / "0.nii.gz")
    whole = nifti_reference.read_volume(path, (1, 1, 2))
    assert whole.shape == (60, 56, 40) and whole[0, 0, 0] == 59 + 1000 * 56 and whole[-1, -1, 0] == 1000
    assert nifti_reference.read_volume(path, (2, 1, 1)).shape == (30, 56, 80)
    windows = nifti_reference.read_windows(
        path, (1, 1, 2), (1000.0, 57000.0), (70, 20, 40), 2, np.random.default_rng(0)
    )
    assert [w.shape for w in windows] == [(70, 20, 40)] * 2 and not np.array_equal(*windows)
    assert all(w.min() >= 0 and w.max() <= 1 for w in windows)
    # One voxel at the lower end of the window is black, none of the planes is.
    back = windows[0][5:65] * 56000 + 1000
    np.testing.assert_allclose(np.diff(back, axis=0), -1, atol=0.02)
    assert not windows[0][:5].any() and not windows[0][65:].any()


def test_results_of_a_small_run(folder):
    def batches(spec, batch):
        shape = (batch, spec.views, 1, *spec.size)
        views = torch.rand(shape, generator=torch.Generator().manual_seed(0))
        present = torch.ones(batch, 1, dtype=torch.bool)
        more = {"views": views} if spec.views > 1 else {}
        return itertools.repeat(Batch(views[:, 0], present, views=more))

    for method in ("voco", "volume_fusion"):
        crop = {"crop": 16, "hidden": 16} if method == "voco" else {"crop": 32}
        found = bench_ct(batches, folder, (method,), rounds=2, shown=(1000.0, 57000.0), **crop)
        assert len(found[f"{method}_ratios"]) == 2
        for side in ("ours", "reference"):
            parts = found[f"{method}_{side}_loader_s"] + found[f"{method}_{side}_step_s"]
            assert 0 < found[f"{method}_{side}_s"] == pytest.approx(parts, rel=0.3)
        assert found[f"{method}_reference_loader_s"] > found[f"{method}_ours_loader_s"]
        assert min(found[f"{method}_ratios"]) <= found[f"{method}_ratio"] <= max(found[f"{method}_ratios"])


def test_what_is_not_known_is_an_error(tmp_path):
    with pytest.raises(ConfigError, match="known: voco, volume_fusion"):
        bench_ct(lambda spec, batch: iter(()), tmp_path, ("moco",))
    with pytest.raises(ConfigError, match="NIfTI"):
        bench_ct(lambda spec, batch: iter(()), tmp_path, ("voco",), crop=16, hidden=8)
