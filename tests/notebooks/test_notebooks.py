"""Every notebook runs from top to bottom in an empty folder, offline, with no output kept."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

import medfm

NOTEBOOKS = sorted((Path(__file__).resolve().parents[2] / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_the_notebook_runs(path, tmp_path, monkeypatch):
    # The kernel is a process of its own: it has to find the very package that these tests test.
    monkeypatch.setenv("PYTHONPATH", str(Path(medfm.__file__).resolve().parents[1]))
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    client = NotebookClient(
        notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    )
    client.execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    text = "\n".join(str(output.get("text", "")) + str(output.get("data", "")) for output in outputs)
    assert not [output for output in outputs if output["output_type"] == "error"]
    assert "image/png" in text, "a record was drawn"
    assert "patients it was not trained on" in text, "a verdict was given"
    assert list(tmp_path.rglob("report.html")) and list(tmp_path.rglob("*.tar"))


def test_there_is_a_notebook():
    assert "ecg_site" in {path.stem for path in NOTEBOOKS}
