"""The notebook of the examples runs from top to bottom in a kernel of its own."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

nbclient = pytest.importorskip("nbclient")
nbformat = pytest.importorskip("nbformat")
pytest.importorskip("ipykernel")

NOTEBOOK = Path(__file__).parents[2] / "examples" / "stylize.ipynb"
QUICK = """
PHOTO = "photo.jpg"
STYLE = "my-lora.safetensors"
SECOND = "other.safetensors"
OPTIONS = {"model": "my-sd15"}
"""


def test_the_notebook_runs_with_progress_and_previews(sandbox: Path) -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.outputs == [] and cell.execution_count is None for cell in cells), "it is stored without outputs"
    (parameters,) = [cell for cell in cells if "parameters" in cell.metadata.get("tags", [])]
    names = {line.partition(" = ")[0] for line in QUICK.strip().splitlines()}
    assert names == {line.partition(" = ")[0] for line in parameters.source.splitlines()}
    parameters.source = QUICK
    shutil.copy(sandbox / "my-lora.safetensors", sandbox / "other.safetensors")
    place = {"metadata": {"path": str(sandbox)}}
    nbclient.NotebookClient(notebook, timeout=600, kernel_name="python3", resources=place).execute()
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    pictures = [output for output in outputs if "image/png" in output.get("data", {})]
    assert len(pictures) == 4, "the run that is seen, the sheet, the mask, the mixture"
    texts = "".join(output.get("text", "") + str(output.get("data", {})) for output in outputs)
    assert "stylizing" in texts, "the progress bar"
