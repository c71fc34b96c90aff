"""The benchmark: both steps train the same thing, the loader is measured, the reference stays frozen."""

from __future__ import annotations

import ast
import hashlib
import inspect

import pytest

from medfm.bench import ecg_jepa_reference as reference
from medfm.bench.pretrain import bench_pretrain, make_pair, noise_batches
from medfm.types import ConfigError

# Of the syntax tree, so that a formatter is free to move lines. A change here makes old ratios incomparable.
FROZEN = "d9e28d7fa8e89009"


def test_the_reference_is_frozen_and_stands_alone():
    source = inspect.getsource(reference)
    tree = ast.parse(source)
    for node in ast.walk(tree):  # words may be mended, code may not
        if (
            isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
            and ast.get_docstring(node) is not None
        ):
            node.body = node.body[1:]
    assert hashlib.sha256(ast.unparse(tree).encode()).hexdigest()[:16] == FROZEN
    assert "import medfm" not in source and "from medfm" not in source


def test_the_reference_has_the_official_size():
    model = reference.ReferenceECGJEPA()
    assert sum(p.numel() for p in model.parameters()) == 8_123_328


def test_both_sides_of_a_pair_take_the_same_steps():
    pair = make_pair(16, 2, 2, batch=2, samples=500)
    for _ in range(2):
        assert pair.ours() == pytest.approx(pair.theirs(), rel=1e-4)


def test_results_of_a_small_run():
    results = bench_pretrain(size="quick", batch=1, pairs=2)
    assert len(results["ratios"]) == 2 and results["ours_s"] > 0 < results["reference_s"]
    assert min(results["ratios"]) <= results["ratio"] <= max(results["ratios"])
    assert results["step_samples_per_s"] > 0 and results["loader_samples_per_s"] > 0


def test_the_loader_gives_normalised_training_batches(tmp_path):
    batch = noise_batches(tmp_path, 4, records=8).batch(3)
    assert batch.x.shape == (4, 12, 5000) and batch.present.all()
    assert float(batch.x.std()) == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize("wrong", [{"modality": "smell"}, {"size": "xxl"}])
def test_what_is_not_known_is_an_error(wrong):
    with pytest.raises(ConfigError):
        bench_pretrain(**wrong)
