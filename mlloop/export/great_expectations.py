"""Each table's contract as a suite of Great Expectations, and a script that checks the lake and writes Data Docs."""

import json
import os
from dataclasses import dataclass
from pathlib import Path

from mlloop.data.expectations import suite
from mlloop.export.exporters import Request

CHECKPOINT = '''"""Check the tables of the lake against their contracts, and write Data Docs; written by `mlloop export great-expectations`.

python checkpoint.py [TABLE ...]        needs mlloop[expectations]; exit code 1 where a table breaks its contract
"""

import json
import os
import re
import sys
from pathlib import Path

os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")

import great_expectations as gx
from deltalake import DeltaTable
from great_expectations.data_context.types.base import ProgressBarsConfig

from mlloop.data.expectations import frame

HERE = Path(__file__).resolve().parent
TABLES = {tables!r}  # PROBLEM.TABLE: where it lies
DOCS = HERE / {docs!r}  # beside the pages of mlloop
STYLE = """body {{ font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 72rem; padding: 0 1rem }}
table {{ border-collapse: collapse; width: 100% }} td, th {{ border: 1px solid #ccc; padding: .3rem .6rem; text-align: left }}
.collapse {{ display: block }} .modal, script, .navbar-toggler {{ display: none }} ul {{ padding-left: 1.2rem }}
"""


def offline(page):
    """Take out of a page what it would fetch from elsewhere; a style sheet beside it takes its place."""
    text = page.read_text(encoding="utf-8")
    text = re.sub(r"<script[^>]*src=[^>]*>\\s*</script>|<link[^>]*href=[\\"']https?:[^>]*>", "", text)
    text = re.sub(r"url\([^)]*https?:[^)]*\)", "none", text)
    text = re.sub(r"<img[^>]*src=[\\"']https?:[^>]*>", "", text)
    sheet = os.path.relpath(DOCS / "gx.css", page.parent)
    page.write_text(text.replace("</head>", f'<link rel="stylesheet" href="{{sheet}}"></head>', 1), encoding="utf-8")


def check(context, source, name):
    """Whether a table fits its contract."""
    suite = json.loads((HERE / "suites" / f"{{name}}.json").read_text(encoding="utf-8"))
    asset = source.add_dataframe_asset(name)
    rows = gx.ValidationDefinition(
        name=name,
        data=asset.add_batch_definition_whole_dataframe("whole"),
        suite=context.suites.add(gx.ExpectationSuite(**suite)),
    )
    checkpoint = gx.Checkpoint(name=name, validation_definitions=[context.validation_definitions.add(rows)])
    result = context.checkpoints.add(checkpoint).run({{"dataframe": frame(DeltaTable(TABLES[name]).to_pyarrow_table())}})
    print(f"{{name}}: {{'fits its contract' if result.success else 'BREAKS its contract'}}")
    return result.success


def main():
    names = sys.argv[1:] or list(TABLES)
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = ProgressBarsConfig(globally=False)
    store = {{"class_name": "TupleFilesystemStoreBackend", "base_directory": str(DOCS)}}
    index = {{"class_name": "DefaultSiteIndexBuilder"}}
    site = {{"class_name": "SiteBuilder", "site_index_builder": index, "store_backend": store, "show_how_to_buttons": False}}
    for before in list(context.variables.data_docs_sites or {{}}):
        context.delete_data_docs_site(before)
    context.add_data_docs_site("lake", site)
    source = context.data_sources.add_pandas("lake")
    fits = [check(context, source, name) for name in names]
    context.build_data_docs()
    (DOCS / "gx.css").write_text(STYLE, encoding="utf-8")
    for page in DOCS.rglob("*.html"):
        offline(page)
    print(f"page: {{DOCS / 'index.html'}}")
    return 0 if all(fits) else 1


if __name__ == "__main__":
    sys.exit(main())
'''


@dataclass(frozen=True)
class Options:
    """What can be chosen.

    Attributes
    ----------
    folder : str
        Where the files will lie, relative to the project: the pages are found from there.
    """

    folder: str = "deploy/great-expectations"


def files(request: Request, options: Options) -> dict[str, str]:
    """A suite for each table of each problem, and the checkpoint on the lake."""
    suites, tables = {}, {}
    lake = request.settings.lake_uri.rstrip("/")
    for problem in request.problems:
        statement = request.statement(problem)
        for name, table in statement.tables.items():
            called = f"{statement.name}.{name}"
            suites[f"suites/{called}.json"] = json.dumps(suite(called, table), indent=1, default=str) + "\n"
            tables[called] = f"{lake}/{statement.name}/{name}"
    folder = request.root / options.folder
    docs = Path(os.path.relpath(request.settings.reports / "great_expectations", folder)).as_posix()
    return {"checkpoint.py": CHECKPOINT.format(tables=tables, docs=docs), **suites}
