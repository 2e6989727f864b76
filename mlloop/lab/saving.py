"""Saving from JupyterLab: a stage notebook goes to disk without what its kernel left in it, so git sees only your change.

Dropped are execution counts, metadata, the outputs of the Run act (its page shows those of the pipeline) and scratch
cells that begin with %mlloop or %load_ext mlloop. The lessons of the Build act keep their outputs.
"""

import re
from pathlib import Path
from typing import Any

from mlloop.core.records import JsonObject

# pandas draws the id of a styled table by lot, and shows the address of its object
STYLER_ID = re.compile(r"\bT_[0-9a-f]{5}(?=_|\")")
SCRATCH = re.compile(r"\s*%(load_ext\s+mlloop|mlloop)\b")
RUN_CELL = re.compile(r"\s*#\s*\|\s*pipeline\b")
KEPT_METADATA = ["tags"]


def before_saving(model: JsonObject, path: str, contents_manager: Any, **_: Any) -> None:
    """Jupyter's pre-save hook; changes what is about to be written, not what is on the screen."""
    from mlloop.core import settings

    if model.get("type") != "notebook" or model["content"].get("nbformat") != 4:
        return
    root = Path(contents_manager.root_dir)
    file = (root / path).resolve()
    if file.is_relative_to(settings.load(root).notebooks.resolve()):
        tidy(model["content"])


def tidy(notebook: Any) -> None:
    """Take out of a notebook, in place, what a kernel left in it.

    Parameters
    ----------
    notebook : dict
        A notebook of format 4 as nbformat holds it.
    """
    from nbdev.clean import clean_nb

    notebook["cells"] = [cell for cell in notebook["cells"] if not SCRATCH.match(_source(cell))]
    for cell in notebook["cells"]:
        if cell["cell_type"] != "code":
            continue
        if RUN_CELL.match(_source(cell)):
            cell["outputs"] = []
        cell["outputs"] = [output for output in cell["outputs"] if output.get("name") != "stderr"]
        for output in cell["outputs"]:
            data = output.get("data", {})
            if html := data.get("text/html"):
                data["text/html"] = STYLER_ID.sub("T_00000", "".join(html))
            if "Styler at 0x" in "".join(data.get("text/plain", "")):
                del data["text/plain"]
    notebook["metadata"].pop("widgets", None)
    clean_nb(notebook, allowed_cell_metadata_keys=KEPT_METADATA, clean_ids=False, repair=False)


def tidy_file(path: Path) -> None:
    """`tidy` a notebook on disk; untouched where there is nothing to take out."""
    import nbformat

    before = path.read_text(encoding="utf-8")
    notebook = nbformat.reads(before, as_version=4)
    tidy(notebook)
    after = nbformat.writes(notebook) + "\n"
    if after != before:
        path.write_text(after, encoding="utf-8")


def _source(cell: Any) -> str:
    return "".join(cell["source"])


if __name__ == "__main__":
    import sys

    for name in sys.argv[1:]:
        tidy_file(Path(name))
