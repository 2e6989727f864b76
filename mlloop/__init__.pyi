from typing import Any

from mlloop.project import Project as Project
from mlloop.project import open as open

__version__: str

def load_ipython_extension(shell: Any) -> None: ...
