"""The BM-MAE benchmark: both sides train the same thing, the reference stays frozen, memory is each side's own."""

from __future__ import annotations

import ast
import hashlib
import inspect
import sys

import pytest
import torch

from medfm.bench import bm_mae_reference
from medfm.bench.mri import bench_mri, make_bm_mae, peak_bytes
from medfm.bench.pretrain import bench_pretrain

# Of the syntax tree, so that a formatter is free to move lines. A change here makes old ratios incomparable.
FROZEN = "ab6ff634ae9e9574"
TINY = {
    "dim": 24, "depth": 2, "heads": 2, "mlp": 48, "patch": 4, "decoder_dim": 24, "decoder_depth": 3, "decoder_heads": 2,
    "decoder_mlp": 48,
}  # fmt: skip


def test_the_reference_is_frozen_and_stands_alone():
    source = inspect.getsource(bm_mae_reference)
    tree = ast.parse(source)
    for node in ast.walk(tree):  # words may be mended, code may not
        kinds = ast.Module | ast.ClassDef | ast.FunctionDef
        if isinstance(node, kinds) and ast.get_docstring(node) is not None:
            node.body = node.body[1:]
    assert hashlib.sha256(ast.unparse(tree).encode()).hexdigest()[:16] == FROZEN
    assert "import medfm" not in source and "from medfm" not in source


def test_the_reference_has_the_official_size():
    """Counted from the layout of the official file, as in tests/backbones: 69.3 million in the encoder, 7.2 in the decoder."""
    with torch.device("meta"):
        reference = bm_mae_reference.ReferenceBMMAE()
    assert sum(p.numel() for p in reference.parameters()) == 76_511_104


@pytest.mark.parametrize("batch", [1, 3])
def test_both_sides_of_a_pair_take_the_same_steps(batch):
    pair = make_bm_mae(batch, size=8, **TINY)
    losses = []
    for _ in range(3):
        losses.append(pair.ours())
        assert losses[-1] == pytest.approx(pair.theirs(), rel=1e-4)
    assert len(set(losses)) == 3


def test_results_of_a_small_run(monkeypatch):
    monkeypatch.setattr("medfm.bench.mri.peak_bytes", lambda side, *a, **k: {"ours": 3, "reference": 4}[side])
    results = bench_mri(((8, 2),), pairs=2, **TINY)
    assert len(results["8x2_ratios"]) == 2 and results["8x2_ours_s"] > 0 < results["8x2_reference_s"]
    assert min(results["8x2_ratios"]) <= results["8x2_ratio"] <= max(results["8x2_ratios"])
    assert results["8x2_memory_ratio"] == 0.75
    monkeypatch.setattr("medfm.bench.pretrain.bench_mri", lambda **asked: asked)
    assert bench_pretrain("mri") == {"threads": 1}


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="memory is not measured there")
def test_memory_is_that_of_a_process_of_its_own():
    wide = {**TINY, "dim": 768, "depth": 8, "mlp": 3072}
    small, large = peak_bytes("ours", 1, size=8, **TINY), peak_bytes("ours", 1, size=8, **wide)
    assert large - small > 4 * 4 * 8 * 7_000_000  # weights, gradients and two moments of eight blocks
