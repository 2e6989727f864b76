"""The wheel's stage notebooks: their Run acts are what `mlloop new` writes into a project."""

import shutil
from pathlib import Path

from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parents[1]


class BuildWithStages(build_py):
    """Copies nbs/[12]*.ipynb to mlloop/scaffold/stages of what is built; an editable install reads nbs/ itself."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            stages = Path(self.build_lib) / "mlloop" / "scaffold" / "stages"
            stages.mkdir(parents=True, exist_ok=True)
            for notebook in sorted((ROOT / "nbs").glob("[12]*.ipynb")):
                shutil.copy(notebook, stages / notebook.name)
