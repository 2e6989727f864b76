"""Each kind of change re-runs exactly what depends on it."""

import json

import pytest

from mlloop.pipeline.freshness import Modules, code_digest, imported

EVERY = {"problem", "collection", "need_gate", "training", "evaluation"}


def change_prose(project):
    notebook = json.loads((project.root / "nbs/13_training.ipynb").read_text())
    for cell in notebook["cells"]:
        if cell["cell_type"] == "markdown":
            cell["source"] = ["Another wording."]
    project.write("nbs/13_training.ipynb", json.dumps(notebook))


def change_lesson(project):
    project.change("nbs/13_training.ipynb", "lesson = 1 + 1", "lesson = 2 + 2")


def change_outputs(project):
    notebook = json.loads((project.root / "nbs/13_training.ipynb").read_text())
    notebook["cells"][1]["outputs"] = [{"output_type": "stream", "name": "stdout", "text": ["2"]}]
    notebook["metadata"]["anything"] = 1
    project.write("nbs/13_training.ipynb", json.dumps(notebook))


def remove(path):
    return lambda project: (project.root / path).unlink()


def write(path, text):
    return lambda project: project.write(path, text)


def change(path, old, new):
    return lambda project: project.change(path, old, new)


CASES = {
    "nothing": (lambda project: None, [], set()),
    "a comment in a module": (change("toy/fit.py", "def mean", "# the average\ndef mean"), [], set()),
    "a docstring": (change("toy/read.py", '"""Reading."""', '"""Reading, in other words."""'), [], set()),
    "a typo in the prose": (change_prose, [], set()),
    "a lesson of the Build act": (change_lesson, [], set()),
    "outputs and metadata": (change_outputs, [], set()),
    "a module that one stage imports": (
        change("toy/fit.py", "len(values)", "(len(values) + 1)"),
        [],
        {"training", "evaluation"},
    ),
    "a module imported by a module": (
        change("toy/arithmetic.py", "sum(values)", "sum(values) + 3"),
        [],
        {"training", "evaluation"},
    ),
    "a module changed without effect": (
        change("toy/arithmetic.py", "sum(values)", "0 + sum(values)"),
        [],
        {"training"},
    ),
    "a gate's module": (change("toy/ask.py", "} rows'", "} rows found'"), [], {"need_gate", "training"}),
    "a Run cell of the last stage": (change("nbs/14_evaluation.ipynb", "round(", "10 * round("), [], {"evaluation"}),
    "a data file": (write("loans.csv", "amount\n1\n2\n9\n"), [], {"collection", "need_gate", "training", "evaluation"}),
    "a data file touched": (write("loans.csv", "amount\n1\n2\n6\n"), [], set()),
    "the problem statement": (change("problems/loan.yaml", "threshold: 0.7", "threshold: 0.8"), [], {"problem"}),
    "a parameter": (lambda project: None, ["--set", "seed=1"], EVERY),
    "the lock file": (write("requirements.lock", "pandas==2.3.2\n"), [], EVERY),
    "a comment in the lock file": (write("requirements.lock", "# pins\npandas==2.3.3\n"), [], set()),
    "a product removed": (remove(".mlloop/products/loan/training.json"), [], {"training"}),
    "a product cut short": (write(".mlloop/products/loan/training.json", "{"), [], {"training"}),
    "an executed notebook removed": (remove(".mlloop/products/loan/collection.ipynb"), [], {"collection"}),
    "a record removed": (remove(".mlloop/records/loan/need_gate.json"), [], {"need_gate"}),
}


@pytest.mark.parametrize("case", CASES)
def test_each_change_runs_exactly_what_depends_on_it(project, case):
    assert set(project.run()["ran"]) == EVERY
    alter, options, expected = CASES[case]
    alter(project)
    assert set(project.run(*options)["ran"]) == expected
    assert project.run(*options)["ran"] == []


def test_why_names_the_change(project):
    project.run()
    project.change("toy/arithmetic.py", "sum(values)", "sum(values) + 3")
    assert "module toy.arithmetic changed" in project.mlloop("why", "training").stdout
    assert "reads training, which is stale" in project.mlloop("why", "evaluation").stdout
    assert "parameter seed changed from 0 to 5" in project.mlloop("why", "problem", "--set", "seed=5").stdout


def test_an_up_to_date_project_is_recognised_without_ploomber_or_papermill(project):
    project.run()
    heavy = "import sys; from mlloop.pipeline import runner; s, p = runner.project(); o = runner.run(p, s); "
    heavy += "assert not o.ran; print([m for m in ('ploomber', 'papermill', 'pandas', 'nbformat') if m in sys.modules])"
    import subprocess
    import sys

    done = subprocess.run([sys.executable, "-c", heavy], cwd=project.root, capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


def test_code_digest_ignores_layout_comments_and_docstrings():
    bare = "def f(x):\n    return x + 1\n"
    assert code_digest(bare) == code_digest('def f( x ):\n    """Add."""\n    # one\n    return (x+1)\n')
    assert code_digest(bare) != code_digest(bare.replace("1", "2"))


def test_code_digest_of_what_is_not_python_is_of_its_text():
    assert code_digest("!ls a") != code_digest("!ls b")


def test_imports_are_found_inside_functions_and_relative_ones_resolved():
    found = imported("def f():\n    from .near import g\n    import far.away\n", "home")
    assert {"home.near", "far.away"} <= found


def test_a_circle_of_imports_ends(tmp_path):
    (tmp_path / "toy").mkdir()
    (tmp_path / "toy/__init__.py").write_text("")
    (tmp_path / "toy/a.py").write_text("from toy import b\n")
    (tmp_path / "toy/b.py").write_text("import toy.a\n")
    assert set(Modules(tmp_path).closure("import toy.a")) == {"toy", "toy.a", "toy.b"}


def test_what_modules_say_is_remembered_by_their_content(tmp_path):
    (tmp_path / "toy").mkdir()
    (tmp_path / "toy/a.py").write_text("x = 1\n")
    memory = tmp_path / "state/modules.json"

    def digest() -> str:
        modules = Modules(tmp_path, memory)
        found = modules.closure("import toy.a")["toy.a"]
        modules.keep()
        return found

    first = digest()
    kept = memory.read_bytes()
    assert digest() == first and memory.read_bytes() == kept
    (tmp_path / "toy/a.py").write_text("x = 2\n")
    assert digest() != first
    memory.write_text("{")
    (tmp_path / "toy/a.py").write_text("x = 1\n")
    assert digest() == first and memory.read_bytes() == kept
