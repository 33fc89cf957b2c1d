"""Take out of the notebooks what a run or an editor has left in them: python notebooks/strip.py

A notebook is kept as its cells alone, so that one can read what a change of it changes.
"""

from pathlib import Path

import nbformat

KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}


def stripped(text: str) -> str:
    """The notebook without outputs, counts of execution and whatever else is no cell of it."""
    notebook = nbformat.reads(text, as_version=4)
    notebook.metadata = {"kernelspec": KERNEL, "language_info": {"name": "python"}}
    for cell in notebook.cells:
        cell.metadata = {}
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    return f"{nbformat.writes(notebook)}\n"


if __name__ == "__main__":
    for file in Path(__file__).parent.glob("*.ipynb"):
        file.write_text(stripped(file.read_text(encoding="utf-8")), encoding="utf-8")
