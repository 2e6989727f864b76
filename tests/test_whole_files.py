"""JSON documents and spreadsheets are read like any other file: by `new`, by the run, and where a file is predicted."""

import datetime as dt
import json
import re
import zipfile
from pathlib import Path

import pytest

from mlloop import collection, ingestion
from mlloop.core import settings
from mlloop.core.errors import SourceError
from mlloop.data import whole_files
from mlloop.problem import Source
from mlloop.scaffold import survey
from mlloop.service import batch

RECORDS = [
    {"id": n, "at": f"2024-01-{n:02}", "price": n + 0.25, "by": {"country": "DE", "age": 30 + n}, "tags": ["a"]}
    for n in range(1, 29)
]
CONTENT = {
    "[Content_Types].xml": (
        '<Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types">'
        '<Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/>'
        '<Default Extension="xml" ContentType="application/xml"/>'
        '<Override PartName="/xl/workbook.xml" '
        'ContentType="application/vnd.openxmlformats-officedocument.spreadsheetml.sheet.main+xml"/></Types>'
    ),
    "_rels/.rels": (
        '<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships"><Relationship Id="r1" '
        'Type="http://schemas.openxmlformats.org/officeDocument/2006/relationships/officeDocument" '
        'Target="xl/workbook.xml"/></Relationships>'
    ),
    "xl/styles.xml": (
        '<styleSheet xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main">'
        '<cellXfs count="2"><xf numFmtId="0"/><xf numFmtId="14"/></cellXfs></styleSheet>'
    ),
}
MAIN = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
OFFICE = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"


def workbook(path: Path, **sheets: list[list]) -> Path:
    """A spreadsheet as programs write it; a number with a 'd' behind it is a day, as `45292d` (1 January 2024)."""

    def cell(value):
        if isinstance(value, str) and re.fullmatch(r"[\d.]+d", value):
            return f'<c s="1"><v>{value[:-1]}</v></c>'
        if isinstance(value, str):
            return f'<c t="inlineStr"><is><t>{value}</t></is></c>' if value else "<c/>"
        return f'<c t="b"><v>{int(value)}</v></c>' if isinstance(value, bool) else f"<c><v>{value}</v></c>"

    names, targets, files = "", "", dict(CONTENT)
    kinds = {"styles": "styles.xml"}
    for number, (name, rows) in enumerate(sheets.items(), 1):
        names += f'<sheet name="{name}" sheetId="{number}" r:id="s{number}"/>'
        targets += f'<Relationship Id="s{number}" Type="{OFFICE}/worksheet" Target="sheet{number}.xml"/>'
        lines = "".join(f"<row>{''.join(map(cell, row))}</row>" for row in rows)
        files[f"xl/sheet{number}.xml"] = f'<worksheet xmlns="{MAIN}"><sheetData>{lines}</sheetData></worksheet>'
    targets += "".join(f'<Relationship Id="{k}" Type="{OFFICE}/{k}" Target="{to}"/>' for k, to in kinds.items())
    files["xl/workbook.xml"] = f'<workbook xmlns="{MAIN}" xmlns:r="{OFFICE}"><sheets>{names}</sheets></workbook>'
    package = "http://schemas.openxmlformats.org/package/2006/relationships"
    files["xl/_rels/workbook.xml.rels"] = f'<Relationships xmlns="{package}">{targets}</Relationships>'
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, '<?xml version="1.0" encoding="UTF-8"?>' + text)
    return path


def lines(path: Path, form: str, folder: Path, sheet: str | None = None) -> list[str]:
    whole_files.written_out(path, form, folder / "lines", sheet)
    return (folder / "lines").read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize(
    "text",
    [
        json.dumps(RECORDS),
        json.dumps(RECORDS, indent=2),
        json.dumps({"count": 28, "data": RECORDS}),
        "\n".join(map(json.dumps, RECORDS)),
    ],
    ids=["array", "indented", "under a key", "lines"],
)
def test_a_json_document_is_its_records(tmp_path, text):
    path = tmp_path / "orders.json"
    path.write_text(text, encoding="utf-8")
    assert [json.loads(line) for line in lines(path, "json", tmp_path)] == RECORDS


@pytest.mark.parametrize("orient", ["columns", "index", "split", "records", "table", "list"])
@pytest.mark.parametrize("labels", [None, [5, 9, 2], [1704067200000, 1704153600000, 1704240000000]])
def test_a_table_as_pandas_writes_it_is_read_whole(tmp_path, orient, labels):
    import pandas as pd

    frame = pd.DataFrame({"id": [2**53 + 1, 2, 3], "price": [1.25, None, 3.0], "town": ["Zürich", 'a "b"', ""]}, labels)
    path = tmp_path / "frame.json"
    if orient == "list":
        path.write_text(json.dumps(frame.astype(object).where(frame.notna(), None).to_dict("list")), encoding="utf-8")
    else:
        frame.to_json(path, orient=orient)
    found = [json.loads(line) for line in lines(path, "json", tmp_path)]
    assert [{name: record[name] for name in ("id", "price", "town")} for record in found] == [
        {"id": 2**53 + 1, "price": 1.25, "town": "Zürich"},
        {"id": 2, "price": None, "town": 'a "b"'},
        {"id": 3, "price": 3.0, "town": ""},
    ]
    if labels and orient in ("columns", "index", "split", "table"):  # the other two do not hold them
        assert [int(record["index"]) for record in found] == labels
    elif orient != "table":  # which writes them always
        assert all("index" not in record for record in found)


def test_numbers_of_a_json_document_keep_their_digits_and_texts_their_signs(tmp_path):
    path = tmp_path / "digits.json"
    path.write_text('[{"id": 12345678901234567890,\n "price": 1.10, "note": "a\u2028b"}]', encoding="utf-8")
    assert whole_files.written_out(path, "json", tmp_path / "to") == 1
    line = (tmp_path / "to").read_text("utf-8")
    assert "12345678901234567890" in line and "1.10" in line and "a\u2028b" in line and line.count("\n") == 1


@pytest.mark.parametrize("text", ['{"a": {"x": 1}, "b": {"x": 2}}', '{"a": [{"x": 1}], "b": [{"x": 2}]}', '[{"a": 1'])
def test_a_document_that_is_no_list_of_records_is_refused_with_a_way_out(tmp_path, text):
    path = tmp_path / "odd.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(SourceError, match=r"odd\.json: .*\n.*records"):
        whole_files.written_out(path, "json", tmp_path / "to")


def test_an_object_within_a_record_becomes_columns(tmp_path):
    path = tmp_path / "orders.json"
    path.write_text(json.dumps(RECORDS), encoding="utf-8")
    sample = survey.read_sample(str(path))
    assert list(sample.text.columns) == ["id", "at", "price", "by.country", "by.age", "tags"]
    assert sample.text["by.age"].tolist() == [str(30 + n) for n in range(1, 29)]
    assert sample.text["tags"].tolist()[0] == '["a"]'
    frame = batch.read(None, path)
    assert frame["by.age"].tolist() == list(range(31, 59)) and frame["tags"].tolist()[0] == '["a"]'


def test_many_inner_keys_are_values_and_stay_together():
    by_customer = [{"id": 1, "bought": {f"c{n}": 1 for n in range(200)}}]
    assert list(whole_files.paths_of(by_customer)) == ["id", "bought"]


def test_a_key_within_another_is_found_where_the_first_lines_lack_it(tmp_path):
    path = tmp_path / "late.jsonl"
    first = [{"id": n, "by": None} for n in range(300)]
    path.write_text("\n".join(map(json.dumps, [*first, {"id": 300, "by": {"age": 41}}])), encoding="utf-8")
    import ibis

    raw = ingestion.RawFile(path, "jsonl", path.name, Source(kind="files", path=str(path)))
    rows, _ = ingestion.raw_rows(ibis.duckdb.connect(), [raw], ["id", "by.age", "by"])
    last = rows.order_by("_row").to_pyarrow().to_pylist()[-1]
    assert last["by.age"] == "41" and json.loads(last["by"]) == {"age": 41}


def test_a_spreadsheet_is_read_from_its_header_on(tmp_path):
    pytest.importorskip("python_calamine")
    rows = [[n, f"{45291 + n}d", n + 0.5, f"0{n:04}", n % 2 == 0] for n in range(1, 41)]
    path = workbook(
        tmp_path / "orders.xlsx",
        Orders=[["Orders of 2024"], [""], ["id", "placed_at", "amount", "zip", "returned"], *rows],
        Legend=[["word", "meaning"], ["zip", "place"]],
    )
    sample = survey.read_sample(str(path))
    assert sample.text.iloc[1].tolist() == ["2", "2024-01-02", "2.5", "00002", "true"]
    assert sample.rows == 40 and "sheets" in dict(sample.notes) and sample.source.skip == 1
    assert batch.read(None, path, ["zip"], ["id", "zip"], [sample.source])["zip"].tolist()[0] == "00001"
    assert lines(path, "sheet", tmp_path, "Legend") == ["word,meaning", "zip,place"]
    with pytest.raises(SourceError, match=r"has no sheet 'Legends' .*'Orders', 'Legend'"):
        whole_files.written_out(path, "sheet", tmp_path / "to", "Legends")


def test_a_cover_is_passed_over_and_midnight_is_a_moment_among_moments(tmp_path):
    pytest.importorskip("python_calamine")
    rows = [["id", "at", "day"], [1, "45292d", "45292d"], [2, "45292.5d", "45293d"]]
    path = workbook(tmp_path / "report.xlsx", Cover=[["Report"], ["confidential"]], Data=rows)
    assert lines(path, "sheet", tmp_path) == [
        "id,at,day",
        "1,2024-01-01T00:00:00,2024-01-01",
        "2,2024-01-01T12:00:00,2024-01-02",
    ]


def test_what_is_no_spreadsheet_is_refused(tmp_path):
    pytest.importorskip("python_calamine")
    (tmp_path / "orders.xlsx").write_text("id,amount\n1,2\n")
    with pytest.raises(SourceError, match=r"cannot be read as a spreadsheet"):
        whole_files.written_out(tmp_path / "orders.xlsx", "sheet", tmp_path / "to")


def test_a_collected_document_is_stored_as_lines(tmp_path):
    for name in ("settings.ini", "pipeline.yaml"):
        (tmp_path / name).touch()
    store = collection.RawStore(settings.load(tmp_path), "shop", "orders", {})
    (tmp_path / "orders.json").write_text(json.dumps(RECORDS), encoding="utf-8")
    source = Source(kind="files", path=str(tmp_path / "orders.json"))
    (stored,) = collection.fetch_files(source, store, dt.datetime(2024, 3, 1), settings.load(tmp_path))
    assert (stored.format, stored.rows, stored.origin) == ("jsonl", 28, "orders.json")
    assert (store.state / stored.path).read_text().count("\n") == 28


def test_a_source_without_a_sheet_keeps_its_digest():
    assert "sheet" not in Source(kind="files", path="a.csv").model_dump()
    assert Source(kind="files", path="a.xlsx", sheet="May").model_dump()["sheet"] == "May"
