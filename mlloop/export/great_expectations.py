"""Each table's contract as a suite of Great Expectations, and a script that checks the lake and writes Data Docs."""

import json
import os
from dataclasses import dataclass
from pathlib import Path

from mlloop.data.expectations import suite
from mlloop.export.exporters import Request

CHECKPOINT = r'''"""Check the tables of the lake against their contracts, and write Data Docs; written by `mlloop export great-expectations`.

python checkpoint.py [TABLE ...]        needs mlloop[expectations]
Exit codes: 0 every table fits its contract, 1 one breaks it, 2 a table that there is not.
"""

import argparse
import ast
import html
import json
import os
import re
import shutil
import sys
from pathlib import Path

os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")

try:
    import great_expectations as gx
    from deltalake import DeltaTable
    from deltalake.exceptions import TableNotFoundError
    from great_expectations.data_context.types.base import ProgressBarsConfig

    from mlloop.data.expectations import frame
except ModuleNotFoundError as error:
    print(f"{{error.name}} is not installed. Install it: pip install 'mlloop[train,expectations]'", file=sys.stderr)
    sys.exit(2)

HERE = Path(__file__).resolve().parent
TABLES = {tables!r}  # PROBLEM.TABLE: where it lies, a path from this file's folder or a URI
DOCS = (HERE / {docs!r}).resolve()  # of all tables, beside the pages of mlloop; of some of them in a folder of their own
STYLE = """body {{ font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 72rem; padding: 0 1rem }}
table {{ border-collapse: collapse; width: 100% }} td, th {{ border: 1px solid #ccc; padding: .3rem .6rem; text-align: left }}
.collapse {{ display: block }} .modal, script, .navbar-toggler, button, footer {{ display: none }} ul {{ padding-left: 1.2rem }}
.cooltip .top {{ display: none }}
"""


def offline(page, docs):
    """Take out of a page what it would fetch from elsewhere; a style sheet beside it takes its place."""
    text = page.read_text(encoding="utf-8")
    text = re.sub(r"<script[^>]*src=[^>]*>\s*</script>|<link[^>]*href=[\"']https?:[^>]*>", "", text)
    text = re.sub(r"url\([^)]*https?:[^)]*\)", "none", text)
    text = re.sub(r"<img[^>]*src=[\"']https?:[^>]*>", "", text)
    text = re.sub(r"<footer>.*?</footer>", "", text, flags=re.DOTALL)
    text = re.sub(SCRIPTED, lambda found: written(*found.groups()), text, flags=re.DOTALL)
    sheet = os.path.relpath(docs / "gx.css", page.parent)
    page.write_text(text.replace("</head>", f'<link rel="stylesheet" href="{{sheet}}"></head>', 1), encoding="utf-8")


# a table that a script would fill: its id, its columns, its rows
SCRIPTED = r"""<script>\s*\$\('#([\w-]+)'\)\.bootstrapTable\(.*?columns: (\[.*?\]),\n\s*data: (\[.*?\]),\n.*?</script>"""


def written(name, columns, rows):
    """A table that a script would fill, as plain HTML; each row is linked with its page."""
    columns, lines = ast.literal_eval(columns), []
    for row in ast.literal_eval(rows):
        cells = [plain(row.get(f"_{{column['field']}}_text") or row.get(column["field"])) for column in columns]
        cells[0] = f'<a href="{{html.escape(row["_table_row_link_path"])}}">{{cells[0]}}</a>'
        lines.append("<tr>" + "".join(f"<td>{{cell}}</td>" for cell in cells) + "</tr>")
    titles = "".join(f"<th>{{column['title']}}</th>" for column in columns)
    return f'<table id="{{name}}-rows"><tr>{{titles}}</tr>{{"".join(lines)}}</table>'


def plain(cell):
    """The text of a cell."""
    return re.sub(r"<span class=top>.*?</span>|<[^>]*>", "", str(cell), flags=re.DOTALL).strip()


def check(context, source, name, rows):
    """Whether a table fits its contract."""
    suite = json.loads((HERE / "suites" / f"{{name}}.json").read_text(encoding="utf-8"))
    asset = source.add_dataframe_asset(name)
    definition = gx.ValidationDefinition(
        name=name,
        data=asset.add_batch_definition_whole_dataframe("whole"),
        suite=context.suites.add(gx.ExpectationSuite(**suite)),
    )
    checkpoint = gx.Checkpoint(name=name, validation_definitions=[context.validation_definitions.add(definition)])
    result = context.checkpoints.add(checkpoint).run({{"dataframe": frame(rows)}})
    print(f"{{name}}: {{'fits its contract' if result.success else 'BREAKS its contract'}}")
    return result.success


def table(name):
    """The rows of the newest version of a table of the lake."""
    location = TABLES[name] if "://" in TABLES[name] else str((HERE / TABLES[name]).resolve())
    try:
        return DeltaTable(location).to_pyarrow_table()
    except TableNotFoundError:
        problem = name.partition(".")[0]
        print(f"{{name}}: no table at {{location}} yet. Run: mlloop run --problem {{problem}} --until ingestion", file=sys.stderr)
        sys.exit(2)


def main():
    parser = argparse.ArgumentParser(description="Check tables of the lake against their contracts, and write Data Docs.")
    parser.add_argument("tables", nargs="*", metavar="TABLE", help=f"default: all ({{', '.join(TABLES)}})")
    names = parser.parse_args().tables or list(TABLES)
    if unknown := sorted(set(names) - set(TABLES)):
        parser.error(f"no table {{', '.join(unknown)}} (known: {{', '.join(TABLES)}})")
    tables = {{name: table(name) for name in names}}
    docs = DOCS if set(names) == set(TABLES) else DOCS / "only" / "+".join(sorted(set(names)))
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = ProgressBarsConfig(globally=False)
    store = {{"class_name": "TupleFilesystemStoreBackend", "base_directory": str(docs)}}
    index = {{"class_name": "DefaultSiteIndexBuilder"}}
    site = {{"class_name": "SiteBuilder", "site_index_builder": index, "store_backend": store, "show_how_to_buttons": False}}
    for before in list(context.variables.data_docs_sites or {{}}):
        context.delete_data_docs_site(before)
    context.add_data_docs_site("lake", site)
    source = context.data_sources.add_pandas("lake")
    shutil.rmtree(docs, ignore_errors=True)
    fits = [check(context, source, name, rows) for name, rows in tables.items()]
    context.build_data_docs()
    (docs / "gx.css").write_text(STYLE, encoding="utf-8")
    for page in docs.rglob("*.html"):
        offline(page, docs)
    print(f"page: {{docs / 'index.html'}}")
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
    folder = request.root / options.folder
    lake = request.settings.lake_uri.rstrip("/")
    if Path(lake).is_relative_to(request.root):
        lake = Path(os.path.relpath(lake, folder)).as_posix()  # the files go with the project wherever it is cloned
    for problem in request.problems:
        statement = request.statement(problem)
        for name, table in statement.tables.items():
            called = f"{statement.name}.{name}"
            suites[f"suites/{called}.json"] = json.dumps(suite(called, table), indent=1, default=str) + "\n"
            tables[called] = f"{lake}/{statement.name}/{name}"
    docs = Path(os.path.relpath(request.settings.reports / "great_expectations", folder)).as_posix()
    return {"checkpoint.py": CHECKPOINT.format(tables=tables, docs=docs), **suites}
