"""%load_ext mlloop: a stage's true inputs, the command line, displays that escape what they show."""

import datetime as dt
import json
import subprocess
import sys
from pathlib import Path

import pytest
import report_project
from IPython.core.error import UsageError
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output

from mlloop import problem, products
from mlloop.core import storage
from mlloop.lab import displays
from mlloop.store.entries import Entry
from mlloop.store.ledger import Ledger, Row

HOSTILE = "</td></table><script>document.title='ran'</script><img src=x onerror=alert(1)>{{ 7 * 7 }}"


@pytest.fixture
def shell(monkeypatch):
    InteractiveShell.clear_instance()
    one = InteractiveShell.instance()
    one.run_line_magic("load_ext", "mlloop")
    yield one
    InteractiveShell.clear_instance()


@pytest.fixture
def ran(project, monkeypatch):
    done = project.mlloop("run", "--until", "training")
    assert done.returncode == 0, done.stderr
    (project.root / "nbs").mkdir(exist_ok=True)
    monkeypatch.chdir(project.root / "nbs")  # where JupyterLab starts a notebook's kernel
    return project


def test_inputs_of_a_stage_come_in_one_line_and_its_product_goes_elsewhere(ran, shell):
    with capture_output() as shown:
        shell.run_line_magic("mlloop", "inputs training")
    given = shell.user_ns
    assert given["problem"] == "loan" and set(given["upstream"]) == {"collection", "need_gate"}
    assert storage.read_json(given["upstream"]["collection"]["data"])["amounts"] == [1.0, 2.0, 6.0]
    assert given["product"]["data"].endswith(".mlloop/debug/loan/training.json")
    assert "training of loan" in shown.outputs[0].data["text/html"]
    assert Path.cwd() == ran.root


def test_a_parameters_cell_run_afterwards_does_not_undo_the_inputs(ran, shell):
    with capture_output():
        shell.run_line_magic("mlloop", "inputs training")
        shell.run_cell("upstream = None\nproduct = None\nproblem = 'other'\nas_of = None")
    assert shell.user_ns["upstream"] is not None and shell.user_ns["problem"] == "loan"


def test_the_stage_is_the_notebooks_own_where_none_is_named(ran, shell, monkeypatch):
    monkeypatch.setenv("JPY_SESSION_NAME", str(ran.root / "nbs" / "11_collection.ipynb"))
    with capture_output():
        shell.run_line_magic("mlloop", "inputs")
    assert set(shell.user_ns["upstream"]) == {"problem"}


def test_a_run_act_works_on_its_true_inputs(ran, shell, monkeypatch):
    """The cells of a stage's Run act, as a person runs them in JupyterLab."""
    monkeypatch.syspath_prepend(ran.root)
    notebook = json.loads(next((ran.root / "nbs").glob("*training.ipynb")).read_text())
    cells = ["".join(c["source"]) for c in notebook["cells"] if "".join(c["source"]).startswith("#| pipeline")]
    with capture_output():
        shell.run_line_magic("mlloop", "inputs training")
        assert all(shell.run_cell(cell).success for cell in cells)
    tried = storage.read_json(shell.user_ns["product"]["data"])
    assert tried["mean"] == 3.0


def test_other_words_go_to_the_command_line(ran, shell, capfd):
    shell.run_line_magic("mlloop", "status")
    assert "training" in capfd.readouterr().out


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("inputs trainin", "Did you mean 'training'?"),
        ("inputs evaluation", ""),
        ("inputs --probem x", "Example: %mlloop inputs training"),
        ("inputs training extra", "does not know 'extra'"),
        ("rnu", "No such command"),
        ("run 'open", "%mlloop help"),
    ],
)
def test_mistakes_are_told_with_the_next_step_and_no_traceback(ran, shell, line, said, capfd):
    if not said:
        with capture_output():
            return shell.run_line_magic("mlloop", line)
    with pytest.raises(UsageError) as caught:
        shell.run_line_magic("mlloop", line)
    assert said in str(caught.value) + capfd.readouterr().out


def test_what_follows_deployment_gets_the_inputs_of_the_last_turn(ran, shell):
    with pytest.raises(UsageError, match="mlloop tick --problem loan"):
        shell.run_line_magic("mlloop", "inputs monitoring")
    state = ran.root / ".mlloop"
    kept = report_project.looked(str, 1) | {"as_of": "2026-01-05T00:00:00"}
    storage.write_json(state / "monitoring" / "loan" / "2026-01-05.json", kept)
    storage.write_json(state / "turns" / "loan" / "2026-01-05" / "decision.json", {"history": ["a.json"]})
    with capture_output():
        shell.run_line_magic("mlloop", "inputs monitoring")
        assert shell.user_ns["as_of"] == "2026-01-05T00:00:00" and shell.user_ns["problem"] == "loan"
        shell.run_line_magic("mlloop", "inputs retraining")
        assert shell.user_ns["upstream"]["history"] == ["a.json"]
        shell.run_line_magic("mlloop", "inputs serving")
        assert shell.user_ns["upstream"] is None


def test_inputs_that_were_not_made_name_the_run_that_makes_them(project, shell, monkeypatch):
    monkeypatch.chdir(project.root)
    with pytest.raises(UsageError, match="%mlloop run --problem loan --until need_gate"):
        shell.run_line_magic("mlloop", "inputs training")


def test_loading_the_extension_takes_no_stage_with_it():
    code = "import sys, mlloop; print([m for m in sys.modules if m.startswith('mlloop.')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "mlloop.lab.magics" not in done.stdout and "mlloop.core.settings" in done.stdout


def test_help_says_what_there_is(shell, capsys):
    shell.run_line_magic("mlloop", "")
    assert "%mlloop inputs [STAGE]" in capsys.readouterr().out


# ---------------------------------------------------------------------------------------------- displays


def figure(**changed):
    one = {"name": "ndcg", "value": 0.134, "unit": "share", "low": 0.12, "high": 0.15, "threshold": 0.1, "passed": True}
    return one | changed


def made_row(text="policy"):
    return Row(
        id=7, at=dt.datetime(2026, 1, 2, 3, 4), kind="gate", problem=text, subject=text, verdict="yes", reasons=[text],
        evidence=[figure(name=text, unit=text)], digests={}, actor=text, model="9f" * 32, details={}, key=None,
        previous="", hash="",
    )  # fmt: skip


def html(shell, value) -> str:
    formatted, _ = shell.display_formatter.format(value)
    return formatted.get("text/html", "")


def test_a_decision_shows_its_figures(shell):
    shown = html(shell, made_row())
    assert "#7 policy, 2026-01-02 03:04 UTC" in shown and "0.120 to 0.150" in shown and "<td" in shown


def test_the_ledger_shows_the_newest_decision_first(shell, tmp_path):
    ledger = Ledger(f"sqlite:///{tmp_path}/ledger.db")
    for number in range(32):
        ledger.append(Entry("gate", "shop", subject="need", verdict="yes", reasons=[f"reason {number}"]))
    ledger.append(Entry("retrain", "shop", subject="watch", verdict="maybe", reasons=["reason 32"]))
    shown = html(shell, ledger)
    assert "Retrain? Being watched" in shown
    assert shown.index("reason 31") < shown.index("reason 3<") and "reason 2<" not in shown and "33 decisions" in shown


def test_a_statement_shows_what_it_asks(shell):
    shown = html(shell, problem.load("problems/shop.yaml"))
    assert "Which ten products" in shown and "NDCG 0.100" in shown


def test_a_verdict_and_an_evaluation_show_their_figures_and_other_dictionaries_are_left_alone(shell):
    verdict = {"gate": "need", "verdict": "no", "reasons": ["too dear"], "evidence": [figure()], "must_change": []}
    assert "The need gate says no" in html(shell, verdict)
    whole = report_project.products(str)
    said = whole["need_gate"] | {"verdict": whole["need_gate"]["verdict"] | {"verdict": "no"}}
    assert "The need gate says no" in html(shell, said) == html(shell, products.parse(said))
    metric = {key: value for key, value in figure(n=10, label="ndcg").items() if key not in ("threshold", "passed")}
    shown = html(shell, whole["evaluation"] | {"metrics": [metric]})
    assert "ndcg" in shown and "0.120 to 0.150" in shown
    assert html(shell, {"a": 1}) == "" and html(shell, {"stage": 3}) == ""


def test_displays_escape_every_text(shell):
    statement = problem.load("problems/shop.yaml").model_copy(update={"question": HOSTILE, "owner": HOSTILE})
    verdict = {"gate": HOSTILE, "verdict": HOSTILE, "reasons": [HOSTILE], "evidence": [figure(name=HOSTILE)]}
    evaluation = report_project.products(lambda text: HOSTILE)["evaluation"]
    anything = {"stage": HOSTILE, "finding": HOSTILE, HOSTILE: HOSTILE}
    for value in (statement, made_row(HOSTILE), verdict, evaluation, anything):
        shown = html(shell, value)
        assert shown and "<script" not in shown and "<img" not in shown and "&lt;script" in shown
    assert "<script" not in displays.facts(HOSTILE, {HOSTILE: {HOSTILE: HOSTILE}})
