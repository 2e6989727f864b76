"""Input that was made to hurt, or to be read by nobody: it ends in an error of a few words, soon, and says nothing secret."""

import gzip
import json
import subprocess
import sys

import pytest
from conftest import Project

from mlloop import problem as problems
from mlloop.collection import _with_secrets
from mlloop.core import expressions, parsing, secrets, settings, storage
from mlloop.core.errors import MlloopError, ProblemError, SettingsError

# ten aliases of ten aliases ...: 300 bytes that stand for 10^9 values
EXPLODING = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 9)
)
DEEP = "[" * 5000 + "]" * 5000


def told(done: subprocess.CompletedProcess) -> str:
    """What a command that failed said, held to the form of an error."""
    assert "Traceback" not in done.stderr and "fault of mlloop itself" not in done.stderr, done.stderr
    assert done.returncode in (1, 2) and "mlloop " in done.stderr and len(done.stderr.splitlines()) < 12, done
    return done.stderr


@pytest.mark.parametrize("file", ["problems/loan.yaml", "env.yaml", "pipeline.yaml"])
@pytest.mark.parametrize("text", [EXPLODING, f"deep: {DEEP}\n"], ids=["aliases", "depth"])
def test_a_file_that_explodes_or_nests_too_deep_is_refused(project, file, text):
    project.write(file, text if file != "env.yaml" else f"{text}problem: loan\n")
    reader = problems.load if file.startswith("problems") else parsing.mapping
    with pytest.raises((ProblemError, SettingsError), match=r"too deep|once its aliases") as error:
        reader(project.root / file)
    assert str(project.root / file) in str(error.value)


def test_check_ends_on_exploding_aliases(project):
    project.write("problems/loan.yaml", EXPLODING)
    assert "once its aliases" in told(project.mlloop("check"))


def test_an_honest_alias_is_filled_in(tmp_path):
    (tmp_path / "a.yaml").write_text("a: &a {x: 1}\nb: [*a, *a]\n")
    assert parsing.mapping(tmp_path / "a.yaml") == {"a": {"x": 1}, "b": [{"x": 1}, {"x": 1}]}


@pytest.mark.parametrize(
    "sql, named",
    [
        ("random()", "random()"),
        ("amount * RANDOM ()", "random()"),
        ('"uuid"()', "uuid()"),
        ("x.now()", "now()"),
        ("current_date - day", "current_date()"),
        ("(SELECT content FROM read_text('/etc/passwd'))", "SELECT"),
        ("( from glob('/*') )", "FROM"),
        ("glob('/etc/*')", "glob()"),
        ("getenv('HOME')", "getenv()"),
        ("1); DROP TABLE rows; --", ";"),
        (r"E'a\'' || random() || ''", "random()"),
        ("/* 'harmless */ random()", "random()"),
    ],
)
def test_sql_that_reads_or_draws_is_refused_by_name(project, sql, named):
    assert named in str(expressions.impurity(sql))
    project.change("problems/loan.yaml", "score: -amount", f"score: {json.dumps(sql)}")
    with pytest.raises(ProblemError, match=r"loan\.yaml:\d+: rules") as error:
        problems.load(project.root / "problems/loan.yaml")
    assert named in str(error.value)


@pytest.mark.parametrize(
    "sql",
    [
        "-amount",
        "extract(year from day) + date_part('dow', day)",
        "trim(both ' ' from town) IN ('select', 'random()')",
        "amount IS DISTINCT FROM 3 AND now > 2 AND glob = 'x'",
        "CASE WHEN random_walk(amount) > 0 THEN 1 ELSE 0 END -- random()",
        "list_filter([1, 2], x -> x > amount)",
    ],
)
def test_sql_about_a_row_is_let_pass(sql):
    assert expressions.impurity(sql) is None


@pytest.mark.parametrize("place", ["where: random() > 0.5", "derive: {lucky: uuid()}"])
def test_every_place_of_a_statement_that_holds_sql_is_looked_at(project, place):
    project.change("problems/loan.yaml", "positive: 1}", f"positive: 1, {place}}}")
    with pytest.raises(ProblemError, match="which gives another value each time"):
        problems.load(project.root / "problems/loan.yaml")


SECRET = """\
  loans: {kind: sql, url: "postgresql://ann:s3cret@db.example.org/bank", table: loans}
  rates: {kind: http, url: "https://example.org/rates?api_key=s3cret&day=1", headers: {authorization: Bearer s3cret, accept: json}}
  named: {kind: sql, url: "postgresql://ann:${PW}@db.example.org/bank", table: loans}
"""


def test_a_password_in_a_statement_is_used_and_copied_nowhere(project):
    project.change(
        "problems/loan.yaml",
        'sources: {loans: {kind: files, path: "{root}/loans.csv"}}',
        f"sources:\n{SECRET.rstrip()}",
    )
    statement = problems.load(project.root / "problems/loan.yaml")
    kept = json.dumps(storage.plain(statement))
    assert "s3cret" not in kept and "${PW}" in kept and '"accept": "json"' in kept and "day=1" in kept
    again = problems.Problem.model_validate(json.loads(kept))
    full = _with_secrets(again, settings.load(project.root))
    assert full.sources == statement.sources and "s3cret" in full.sources["loans"].url


@pytest.mark.parametrize(
    "url, masked",
    [
        ("postgresql://ann:p:w@h:5432/db", "postgresql://ann:***@h:5432/db"),
        ("https://h/x?token=${T}&sig=abc", "https://h/x?token=${T}&sig=***"),
        ("https://h/p:1@2?day=3", "https://h/p:1@2?day=3"),
        ("sqlite:///data/x.db", "sqlite:///data/x.db"),
    ],
)
def test_only_what_is_secret_in_a_url_is_masked(url, masked):
    assert secrets.masked_url(url) == masked


def a_file_in_place_of_the_state(project: Project) -> str:
    project.write(".mlloop", "a note")
    return "keeps its state in a folder"


def a_folder_in_place_of_the_lock(project: Project) -> str:
    (project.root / ".mlloop/run.lock").mkdir(parents=True)
    return "run.lock: is a folder"


def a_ledger_port_that_is_no_number(project: Project) -> str:
    project.write("settings.ini", "[ledger]\nurl = postgresql://ann@localhost:port/db\n")
    return "[ledger] url: cannot be read as a URL"


def a_tracking_port_that_is_no_number(project: Project) -> str:
    project.write("settings.ini", "[tracking]\nurl = postgresql://ann:s3cret@localhost:port/db\n")
    return "[tracking] url: cannot be read as a URL"


def a_folder_in_place_of_the_ledger(project: Project) -> str:
    (project.root / ".mlloop/ledger.db").mkdir(parents=True)
    return "ledger.db"


def a_file_in_place_of_the_products(project: Project) -> str:
    (project.root / ".mlloop").mkdir()
    project.write(".mlloop/records", "a note")
    return "records"


def a_link_to_itself_in_place_of_the_state(project: Project) -> str:
    (project.root / ".mlloop").symlink_to(".mlloop")
    return "is a symbolic link that leads back to itself"


def a_link_to_itself_in_place_of_the_records(project: Project) -> str:
    (project.root / ".mlloop").mkdir()
    (project.root / ".mlloop/records").symlink_to("records")
    return "Too many levels of symbolic links"


@pytest.mark.parametrize(
    "harm",
    [a_link_to_itself_in_place_of_the_state, a_link_to_itself_in_place_of_the_records, a_file_in_place_of_the_state,
        a_folder_in_place_of_the_lock, a_tracking_port_that_is_no_number,
        a_ledger_port_that_is_no_number, a_folder_in_place_of_the_ledger, a_file_in_place_of_the_products],
)  # fmt: skip
def test_what_stands_in_the_way_is_told_in_words(project, harm):
    expected = harm(project)
    assert expected in told(project.mlloop("run"))


def test_a_state_folder_that_is_a_link_is_followed_and_private(project, tmp_path):
    (tmp_path / "elsewhere").mkdir(mode=0o755)
    (project.root / ".mlloop").symlink_to(tmp_path / "elsewhere")
    assert project.run("--until", "collection")["exit_code"] == 0
    assert (tmp_path / "elsewhere/records/loan/collection.json").exists()
    assert (tmp_path / "elsewhere").stat().st_mode & 0o077 == 0


def test_a_compressed_file_that_unfolds_to_much_more_is_read_in_parts(tmp_path):
    """A line of 300 MB out of 300 KB: its row is set aside, and the process stays small."""
    place = tmp_path / "bomb.csv.gz"
    with gzip.open(place, "wb", 1) as file:
        file.write(b"id,n\n" + b"".join(b"%d,%d\n" % (n, n % 7) for n in range(500)))
        for _ in range(300):
            file.write(b"9" * 2**20)
        file.write(b"\n" + b"".join(b"%d,%d\n" % (n, n % 7) for n in range(500, 700)))
    assert place.stat().st_size < 3_000_000
    # VmHWM is of this program alone; getrusage counts the process that started it as well
    code = "import sys; from mlloop.scaffold import survey; rows = survey.read_sample(sys.argv[1]).rows\n"
    code += "peak = next(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM'))\n"
    code += "print(int(peak) // 1024, rows)"
    done = subprocess.run([sys.executable, "-c", code, str(place)], capture_output=True, text=True, timeout=300)
    megabytes, rows = map(int, done.stdout.split()[-2:])  # after DuckDB's progress bar
    assert megabytes < 1200 and rows in (700, 701), done.stderr


@pytest.mark.parametrize("url", ["postgresql://ann:s3cret@localhost:port/db", "no url at all"])
def test_a_sources_url_that_is_none_is_told_without_its_password(url):
    from mlloop.collection import _driver_url

    with pytest.raises(MlloopError, match="is no URL of a database") as error:
        _driver_url(url)
    assert "s3cret" not in str(error.value) and "mlloop run" in str(error.value)
