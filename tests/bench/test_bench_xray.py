"""The radiograph benchmarks: both sides of a pair train the same thing, the references stay frozen."""

from __future__ import annotations

import ast
import hashlib
import inspect

import pytest
import torch

from medfm.bench import mae_reference, spark_reference
from medfm.bench.pretrain import bench_pretrain
from medfm.bench.xray import bench_xray, make_mae, make_spark
from medfm.types import ConfigError

# Of the syntax tree, so that a formatter is free to move lines. A change here makes old ratios incomparable.
FROZEN = {mae_reference: "3d6badc931533240", spark_reference: "8dbf0ac334c54c7e"}
TINY = {"dim": 16, "depth": 2, "heads": 2, "size": 32, "patch": 8, "decoder_dim": 16, "decoder_heads": 2}


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


def test_the_references_have_the_published_sizes():
    """ViT-S/16: 21.7 million, here without learned positions and two colours; ResNet-50: 23.5 million; SparK's decoder: 23.18 million, its densifying convolutions, norms and tokens: 6.23 million."""
    with torch.device("meta"):
        mae, spark = mae_reference.ReferenceMAE(), spark_reference.ReferenceSparK(3)
    encoder = [p for n, p in mae.named_parameters() if "decoder" not in n and n != "mask_token"]
    assert sum(p.numel() for p in encoder) == 21_665_664 - 197 * 384 - 2 * 384 * 256
    parts = {n: sum(p.numel() for p in m.parameters()) for n, m in spark.named_children()}
    assert parts["encoder"] == 23_508_032
    assert round(parts["up"] / 1e6, 2) == 23.18
    assert round((parts["projections"] + parts["norms"] + parts["tokens"]) / 1e6, 2) == 6.23


@pytest.mark.parametrize(
    "make", [lambda: make_mae(2, **TINY), lambda: make_spark(2, size=96, decoder_width=256)]
)
def test_both_sides_of_a_pair_take_the_same_steps(make):
    pair = make()
    for _ in range(2):
        assert pair.ours() == pytest.approx(pair.theirs(), rel=1e-3)


def test_results_of_a_small_run():
    results = bench_xray(("mae",), batch=1, pairs=2, **TINY)
    assert len(results["mae_ratios"]) == 2 and results["mae_ours_s"] > 0 < results["mae_reference_s"]
    assert min(results["mae_ratios"]) <= results["mae_ratio"] <= max(results["mae_ratios"])
    assert results["mae_images_per_s"] > 0


def test_what_is_not_known_is_an_error(monkeypatch):
    with pytest.raises(ConfigError, match="known: mae, spark"):
        bench_xray(("moco",))
    monkeypatch.setattr("medfm.bench.pretrain.bench_xray", lambda **asked: asked)
    assert bench_pretrain("xray", pairs=3) == {"batch": 8, "threads": 1, "pairs": 3}
