"""SQL that a statement states about a row: it sees that row's columns, and always says the same of the same row.

An expression that reads a file, another table or a setting, or that draws by chance or asks the clock, is refused by
the name of what it calls. Nothing is executed here.
"""

import re

READS = (
    "read_text", "read_blob", "read_csv", "read_csv_auto", "read_json", "read_json_auto", "read_json_objects",
    "read_json_objects_auto", "read_ndjson", "read_ndjson_auto", "read_ndjson_objects", "read_parquet", "parquet_scan",
    "parquet_metadata", "parquet_schema", "parquet_file_metadata", "parquet_kv_metadata", "parquet_bloom_probe", "sniff_csv",
    "glob", "query", "query_table", "sqlite_scan", "sqlite_query", "postgres_scan", "postgres_query", "mysql_scan", "mysql_query",
    "delta_scan", "iceberg_scan", "st_read", "read_xlsx", "getenv", "current_setting", "getvariable", "which_secret", "duckdb_secrets",
    "seq_scan", "arrow_scan", "pandas_scan", "write_log",
)  # fmt: skip
VOLATILE = (
    "random", "setseed", "uuid", "uuidv4", "uuidv7", "gen_random_uuid", "nextval", "currval", "now", "today", "current_date",
    "current_time", "current_timestamp", "localtime", "localtimestamp", "get_current_time", "get_current_timestamp",
    "transaction_timestamp", "txid_current", "current_query", "current_query_id", "current_transaction_id",
    "current_connection_id", "current_database", "current_schema", "current_schemas", "in_search_path", "sleep_ms", "stats",
)  # fmt: skip
_KEYWORDS = {"current_date", "current_time", "current_timestamp", "localtime", "localtimestamp"}
_QUERIES = ("select", "from", "with", "table", "describe", "summarize", "show", "pivot", "unpivot", "values", "call", "attach", "copy")  # fmt: skip
_PARTS = re.compile(
    r"""(?P<text>[eE]'(?:\\.|''|[^'\\])*'|'(?:[^']|'')*'|\$(\w*)\$.*?\$\2\$)|(?P<comment>--[^\n]*|/\*.*?\*/)|"(?P<quoted>(?:[^"]|"")*)"
    |(?P<word>[^\W\d]\w*)|(?P<sign>[^\s])""",
    re.VERBOSE | re.DOTALL,
)


def quoted(name: str) -> str:
    """A name as SQL quotes it."""
    return '"' + name.replace('"', '""') + '"'


def impurity(sql: str) -> str | None:
    """Why an expression is no statement about a row alone, in words; None where it is one."""
    parts = [(match.lastgroup or "", match[match.lastgroup or 0]) for match in _PARTS.finditer(sql)]
    parts = [
        (kind, value.lower() if kind in ("word", "quoted") else value) for kind, value in parts if kind != "comment"
    ]
    for at, (kind, value) in enumerate(parts):
        before = parts[at - 1][1] if at else "("
        follows = parts[at + 1][1] if at + 1 < len(parts) else ""
        if kind == "sign" and value == ";":
            return "holds more than one expression (;)"
        if kind == "word" and before == "(" and value in _QUERIES and follows not in (")", ",", "."):
            return f"holds a query ({value.upper()}), and an expression sees only the columns of its row"
        if kind in ("word", "quoted") and follows == "(" and value in READS:
            return f"calls {value}(), which reads from outside the row"
        is_called = follows == "(" or (kind == "word" and value in _KEYWORDS and before != ".")
        if kind in ("word", "quoted") and is_called and value in VOLATILE:
            return f"calls {value}(), which gives another value each time"
    return None
