"""The commit of the code, as each row of the ledger cites it."""

import os
import shutil
import subprocess

import pytest

from mlloop.core import commit
from mlloop.store.entries import Entry
from mlloop.store.ledger import Ledger

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")


def git(root, *words) -> str:
    who = {"GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@b", "GIT_COMMITTER_NAME": "a", "GIT_COMMITTER_EMAIL": "a@b"}
    return subprocess.run(
        ["git", *words], cwd=root, env={**os.environ, **who}, capture_output=True, text=True, check=True
    ).stdout.strip()


@pytest.fixture
def root(tmp_path):
    commit.commit_of.cache_clear()
    git(tmp_path, "init", "-q")
    (tmp_path / ".gitignore").write_text(".mlloop/\n")
    (tmp_path / "pipeline.yaml").write_text("tasks: []\n")
    yield tmp_path
    commit.commit_of.cache_clear()


def read(root) -> str | None:
    commit.commit_of.cache_clear()
    return commit.commit_of(root)


def test_a_clean_tree_is_its_commit_and_any_difference_marks_it(root):
    assert read(root) is None  # nothing is committed
    git(root, "add", "-A")
    git(root, "commit", "-qm", "first")
    head = git(root, "rev-parse", "HEAD")
    assert read(root) == head
    (root / ".mlloop").mkdir()
    (root / ".mlloop" / "state").touch()
    assert read(root) == head
    (root / "own.py").touch()
    assert read(root) == f"{head}+dirty"
    git(root, "add", "-A")
    git(root, "commit", "-qm", "second")
    (root / "pipeline.yaml").write_text("tasks: [1]\n")
    assert read(root) == git(root, "rev-parse", "HEAD") + "+dirty"


def test_a_folder_that_another_repository_does_not_hold_has_no_commit(root):
    git(root, "add", "-A")
    git(root, "commit", "-qm", "first")
    inner = root / ".mlloop" / "trial"
    inner.mkdir(parents=True)
    (inner / "pipeline.yaml").touch()
    assert read(inner) is None and read(root / "nowhere") is None


def test_each_row_of_the_ledger_cites_the_commit_and_one_without_a_project_does_not(root):
    git(root, "add", "-A")
    git(root, "commit", "-qm", "first")
    ledger = Ledger(f"sqlite:///{root}/.mlloop.db", code=root)
    (root / ".gitignore").write_text(".mlloop*\n")
    git(root, "commit", "-qam", "ignore")
    entry = Entry("gate", "loan", "need", verdict="yes", digests={"data": "d", "commit": "of another row"})
    row = ledger.append(entry)
    assert row.digests == {"data": "d", "commit": git(root, "rev-parse", "HEAD")}
    assert ledger.verify().id == 1
    plain = Ledger(f"sqlite:///{root}/.mlloop2.db").append(Entry("gate", "loan", "need", verdict="yes"))
    assert plain.digests == {}
