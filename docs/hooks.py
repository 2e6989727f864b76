"""MkDocs: the notebooks become pages of the site, without their export directives and without scripts from elsewhere."""

import functools
import json
import re
import shutil
import tempfile
from pathlib import Path

import jinja2
import nbconvert.exporters.html
import nbconvert.exporters.templateexporter
from mkdocs.plugins import event_priority
from mkdocs.structure.files import File
from mkdocs.utils import get_relative_url

prepared = Path(tempfile.mkdtemp(prefix="mlloop-docs-"))

# nbconvert compiles its templates for every notebook: compiled, they are kept
nbconvert.exporters.templateexporter.Environment = functools.partial(  # type: ignore[attr-defined]
    jinja2.Environment, bytecode_cache=jinja2.FileSystemBytecodeCache(str(prepared))
)


def _nbs(config):
    return Path(config.config_file_path).parent / "nbs"


def _notebooks(config):
    return [path for path in sorted(_nbs(config).rglob("[a-z0-9]*.ipynb")) if ".ipynb_checkpoints" not in path.parts]


def _readable(notebook):
    """The notebook's cells as a reader wants them: no `#|` lines, no cell that held nothing else."""
    content = json.loads(notebook.read_text(encoding="utf-8"))
    for cell in content["cells"]:
        if cell["cell_type"] == "code":
            cell["source"] = re.sub(r"(?m)^#\s*\|.*\n?", "", "".join(cell["source"])).strip()
    content["cells"] = [cell for cell in content["cells"] if cell["source"]]
    return content


def _named(nav):
    """The pages that the navigation names."""
    for one in nav:
        for value in one.values():
            yield from _named(value) if isinstance(value, list) else [value]


def on_config(config):
    """Add to the navigation the notebooks, in their order, and every page that it does not name."""
    pages = sorted(path.name for path in Path(config.docs_dir).glob("*.md"))
    if more := [page for page in pages if page not in set(_named(config.nav))]:
        config.nav.insert(-1, {"More": more})
    if not any("The notebooks" in one for one in config.nav):
        title = lambda path: path.stem.lstrip("0123456789_").replace("_", " ").capitalize()
        groups: dict[str, list] = {}
        for path in _notebooks(config):
            place = path.relative_to(_nbs(config))
            groups.setdefault(place.parts[0] if len(place.parts) > 1 else "", []).append({title(path): f"nbs/{place}"})
        stages = groups.pop("")
        config.nav.insert(-1, {"The notebooks": [*stages, *({wing: pages} for wing, pages in groups.items())]})
    return config


@event_priority(100)
def on_files(files, config):
    """Add the notebooks to the files, before the plugin that renders them looks."""
    (prepared / "nbs").mkdir(exist_ok=True)
    for notebook in _notebooks(config):
        place = Path("nbs", notebook.relative_to(_nbs(config)))
        (prepared / place).parent.mkdir(parents=True, exist_ok=True)
        (prepared / place).write_text(json.dumps(_readable(notebook)), encoding="utf-8")
        files.append(File(place.as_posix(), str(prepared), config.site_dir, config.use_directory_urls))
    return files


def _at_home(output, url):
    """A page that fetches nothing from the network: its search shim from here, notebook scripts left out."""
    shim = get_relative_url("assets/iframe-worker.js", url)
    output = output.replace("https://unpkg.com/iframe-worker/shim", shim)
    outside = r'<script type="module">(?:(?!</script>).)*?https://(?:(?!</script>).)*</script>'
    return re.sub(outside, "", output, flags=re.DOTALL)


def on_post_page(output, page, config):
    return _at_home(output, page.url)


def on_post_template(output_content, template_name, config):
    return _at_home(output_content, template_name) if template_name.endswith(".html") else output_content


def on_post_build(config):
    shutil.rmtree(prepared, ignore_errors=True)
