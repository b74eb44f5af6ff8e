"""Runs the notebooks from top to bottom, and fails where a cell does.

The files stay as they are; with `--save` they get the new outputs.
"""

import argparse
import re
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient

HERE = Path(__file__).parent
# What TensorFlow's libraries log while they load: about the machine, and not about the notebook.
_LOADING = re.compile(r"^(WARNING: All log messages before absl|[IWE]\d{4} ).*\n?", flags=re.M)


def run(file: Path) -> nbformat.NotebookNode:
    """Returns the notebook with the outputs of its cells; raises where a cell does."""
    notebook = nbformat.read(file, as_version=4)
    client = NotebookClient(
        notebook, timeout=300, kernel_name="python3", record_timing=False, coalesce_streams=True
    )
    client.execute(cwd=str(HERE))
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if _is_of_the_notebook(output)]
    notebook.metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3"}}
    return notebook


def _is_of_the_notebook(output: nbformat.NotebookNode) -> bool:
    if output.get("name") == "stderr":
        output.text = _LOADING.sub("", output.text)
    return output.get("text") != ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--save", action="store_true", help="write the outputs into the files")
    save = parser.parse_args().save
    for file in sorted(HERE.glob("*.ipynb")):
        begun = time.perf_counter()
        notebook = run(file)
        print(f"{file.name}: {time.perf_counter() - begun:.0f} s", flush=True)
        if save:
            nbformat.write(notebook, file)


if __name__ == "__main__":
    main()
