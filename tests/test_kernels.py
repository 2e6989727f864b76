"""Kernels forked from a warm process: as right as fresh ones, independent, and gone when their run is."""

import fcntl
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from mlloop.core import settings
from mlloop.core.errors import ParameterError
from mlloop.kernels import execute as kernels

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="kernels are forked on Linux only")

PATIENCE_S = 60.0


def project(folder: Path) -> settings.Settings:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "settings.ini").write_text("[kernels]\nahead = 1\nkeep_minutes = 2\n")
    (folder / "pipeline.yaml").write_text("tasks: []\n")
    (folder / "requirements.lock").write_text("one==1\n")
    return settings.load(folder)


@pytest.fixture(autouse=True)
def new_interpreters(monkeypatch):
    """Here a fresh kernel is one, and not a fork as in the other tests."""
    monkeypatch.setattr("jupyter_client.launcher.Popen", subprocess.Popen)


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """A project whose zygote has everything imported."""
    place = project(tmp_path_factory.mktemp("kernels") / "project")
    with kernels.pool(place, ahead=0):
        wait_for(lambda: (said := kernels.running(place)) and said["imported"] == said["libraries"])
        yield place
    kernels.stop(place)


@pytest.fixture
def own(tmp_path):
    """A project of the test's own."""
    place = project(tmp_path / "project")
    yield place
    kernels.stop(place)


def wait_for(condition, patience_s: float = PATIENCE_S):
    until = time.monotonic() + patience_s
    while not (value := condition()):
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.02)
    return value


def notebook(*cells: str, parameters: str | None = None):
    first = [new_code_cell(parameters, metadata={"tags": ["parameters"]})] if parameters else []
    return new_notebook(cells=first + [new_code_cell(cell) for cell in cells])


def execute(place, *cells: str, pool=None, parameters=None, defaults=None, **options):
    """Execute cells; what each printed or showed as text."""
    out = place.root / f"out-{os.urandom(4).hex()}.ipynb"
    options = {"cwd": place.root, "settings": place, "pool": pool, "parameters": parameters, **options}
    done = kernels.run_notebook(notebook(*cells, parameters=defaults), out, **options)
    return done, texts(out)


def texts(out: Path) -> list[str]:
    cells = [cell for cell in nbformat.read(out, as_version=4).cells if cell.cell_type == "code"]
    return ["".join(o.get("text") or o.get("data", {}).get("text/plain", "") for o in cell.outputs) for cell in cells]


def is_gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


COMPUTE = """
import numpy as np, pandas as pd, torch, duckdb, pyarrow as pa, pyarrow.compute as pc, lightgbm
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from deltalake import DeltaTable, write_deltalake
X = np.random.default_rng(0).normal(size=(600, 300)); y = (X[:, 0] > 0).astype(int)
torch.manual_seed(0)
write_deltalake("table", pa.table({"a": [1, 2, 3]}), mode="overwrite")
print([
    round(float((X @ X.T).sum()), 4),
    round(float((torch.tensor(X) @ torch.tensor(X).T).sum()), 4),
    round(float(torch.nn.functional.relu(torch.ones(2000, 2000)).sum()), 4),
    round(float(torch.rand(3).sum()), 4),
    duckdb.sql("select sum(i) from range(1000000) t(i)").fetchall(),
    pc.sum(pa.array(range(1000))).as_py(),
    round(RandomForestClassifier(20, n_jobs=2, random_state=0).fit(X, y).predict_proba(X)[:, 1].sum(), 4),
    round(HistGradientBoostingClassifier(max_iter=5).fit(X, y).predict_proba(X)[:, 1].sum(), 4),
    round(float(lightgbm.train({"verbose": -1, "num_threads": 2}, lightgbm.Dataset(X, y), 5).predict(X).sum()), 4),
    DeltaTable("table").to_pandas()["a"].sum(),
    pd.DataFrame(X).groupby(y).mean().shape,
])
"""


def test_warm_kernel_computes_what_a_fresh_one_does(shared):
    warm, from_warm = execute(shared, COMPUTE)
    fresh_place = settings.Settings(**{**shared.__dict__, "kernel_pool": "fresh"})
    fresh, from_fresh = execute(fresh_place, COMPUTE)
    assert (warm.is_warm, fresh.is_warm) == (True, False)
    assert from_warm == from_fresh
    assert len(from_warm[0]) > 100


def test_warm_kernel_has_the_path_and_the_backend_of_a_fresh_one(shared):
    look = (
        "import sys, os, signal, threading; print(sys.path, sys.argv[0].rpartition('/')[2].removesuffix('.py'),"
        "os.environ['MPLBACKEND'], os.environ.get('OPENBLAS_NUM_THREADS'), os.getcwd(), __name__,"
        "'mlloop' in sys.modules, signal.getsignal(signal.SIGTERM))",
        "import numpy, threadpoolctl\n"
        "[i['num_threads'] for i in threadpoolctl.threadpool_info() if i['internal_api'] == 'openblas'][:1]",
    )
    _, from_warm = execute(shared, *look)
    _, from_fresh = execute(settings.Settings(**{**shared.__dict__, "kernel_pool": "fresh"}), *look)
    assert from_warm == from_fresh


def test_figures_are_shown_inline(shared):
    execute(shared, "1", cwd=shared.root)
    out = shared.root / "figure.ipynb"
    plot = notebook("import matplotlib.pyplot as plt\nplt.plot([1, 2]); plt.show()")
    kernels.run_notebook(plot, out, cwd=shared.root, settings=shared)
    assert "image/png" in nbformat.read(out, as_version=4).cells[0].outputs[0].data


def test_kernels_of_one_pool_share_nothing(shared, tmp_path):
    look = (
        "import os, sys, random, uuid, numpy as np, torch, pandas as pd\n"
        "seen = hasattr(pd, 'mark'); pd.mark = 1; leaked = os.environ.get('LEAK'); os.environ['LEAK'] = '1'\n"
        "print([seen, leaked, os.environ['WHO'], os.getcwd()])",
        "print([random.random(), np.random.random(), torch.rand(1).item(), os.getpid(), uuid.uuid4()])",
    )
    seen = []
    with kernels.pool(shared, ahead=1) as pool:
        for who in "ab":
            folder = tmp_path / who
            folder.mkdir()
            done, shown = execute(shared, *look, pool=pool, env={"WHO": who}, cwd=folder)
            assert done.is_warm
            assert shown[0] == f"{[False, None, who, str(folder)]}\n"
            seen.append(shown[1].split(", "))
    assert not set(seen[0]) & set(seen[1])


def test_four_notebooks_at_once(shared):
    with kernels.pool(shared) as pool, ThreadPoolExecutor(4) as threads:
        runs = [threads.submit(execute, shared, "import os; print(x, os.getpid())", pool=pool, defaults="x = 0",
                               parameters={"x": i}) for i in range(4)]  # fmt: skip
        shown = [run.result()[1][-1].split() for run in runs]
    assert [first for first, _ in shown] == ["0", "1", "2", "3"]
    assert len({pid for _, pid in shown}) == 4


def test_changed_module_is_picked_up_by_the_next_kernel(shared):
    module = shared.root / "own_module.py"
    with kernels.pool(shared, ahead=1) as pool:
        for value in (1, 2):
            module.write_text(f"value = {value}\n")
            os.utime(module, (time.time() + value * 10,) * 2)
            _, shown = execute(shared, "import own_module; print(own_module.value)", pool=pool)
            assert shown == [f"{value}\n"]


def test_module_of_the_folder_goes_before_an_imported_library(shared, tmp_path):
    (tmp_path / "rapidfuzz.py").write_text("mine = True\n")
    assert execute(shared, "import rapidfuzz; print(rapidfuzz.mine)", cwd=tmp_path)[1] == ["True\n"]


def test_unknown_parameter_is_refused(shared):
    with pytest.raises(ParameterError, match=r"no parameter 'y'.*it has: x"):
        execute(shared, "print(x)", defaults="x = 1", parameters={"y": 2})


def test_failed_cell_is_named_and_the_notebook_is_whole(shared):
    out, events = shared.root / "failed.ipynb", []
    cells = notebook("a = 1", "print('so far')\n1 / 0", "never = 1")
    with pytest.raises(kernels.CellFailed) as caught:
        kernels.run_notebook(cells, out, cwd=shared.root, settings=shared, on_cell=events.append)
    failed = caught.value
    assert (failed.index, failed.count, failed.ename, failed.evalue) == (1, 2, "ZeroDivisionError", "division by zero")
    assert failed.source == "print('so far')\n1 / 0"
    assert "1 / 0" in failed.traceback and "\x1b" not in failed.traceback
    assert "cell In [2] raised ZeroDivisionError: division by zero" in str(failed)
    executed = nbformat.read(out, as_version=4)
    nbformat.validate(executed)
    assert [c.source for c in executed.cells if c.cell_type == "code"][-1] == "never = 1"
    assert [(event.index, event.seconds is None) for event in events] == [(0, True), (0, False), (1, True), (1, False)]


def test_endless_cell_is_stopped(shared):
    with pytest.raises(kernels.CellFailed, match="TimeoutError: stopped after 1 s"):
        execute(shared, "print(1)", "while True: pass", timeout_s=1.5)
    wait_for(lambda: not kernels.running(shared)["kernels"], 3)


def test_killed_kernel_is_an_error_not_a_hang(shared):
    with pytest.raises(kernels.CellFailed, match="DeadKernelError: the kernel died in this cell"):
        execute(shared, "print(1)", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)")


CLIENT = """
import fcntl, os, sys
from pathlib import Path
from nbformat.v4 import new_code_cell, new_notebook
from mlloop.core import settings
from mlloop.kernels import execute as kernels
place = settings.load(sys.argv[1])
lock = open(place.root / "run.lock", "w")
fcntl.flock(lock, fcntl.LOCK_EX)
cell = new_code_cell("import os, time, pathlib, subprocess\\n"
    "child = subprocess.Popen(['sleep', '600'])\\n"
    "pathlib.Path('begun').write_text(f'{os.getpid()} {child.pid}')\\n"
    "total = sum(range(10**12))")
kernels.run_notebook(new_notebook(cells=[cell]), place.root / "o.ipynb", cwd=place.root, settings=place,
    pool=kernels.pool(place), pass_fds=(lock.fileno(),))
"""


def begin_client(place) -> tuple[subprocess.Popen, list[int]]:
    """A run in a process of its own, inside a cell that holds the interpreter's lock; the kernel's and its child's pid."""
    begun = place.root / "begun"
    begun.unlink(missing_ok=True)
    # a shell makes what it starts with & ignore it
    restore = lambda: signal.signal(signal.SIGINT, signal.default_int_handler)
    client = subprocess.Popen([sys.executable, "-c", CLIENT, str(place.root)], preexec_fn=restore)
    wait_for(lambda: begun.exists() and begun.read_text().count(" "))
    return client, [int(pid) for pid in begun.read_text().split()]


def is_free(path: Path) -> bool:
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            return False


def test_killed_run_takes_its_kernels_and_its_lock_with_it(shared):
    client, pids = begin_client(shared)
    kernel_fds = [str(link.readlink()) for link in Path(f"/proc/{pids[0]}/fd").iterdir() if link.exists()]
    assert str(shared.root / "run.lock") in kernel_fds
    client.send_signal(signal.SIGKILL)
    client.wait()
    wait_for(lambda: all(is_gone(pid) for pid in pids))
    wait_for(lambda: is_free(shared.root / "run.lock"))  # a killed process is gone before its last thread is
    wait_for(lambda: not kernels.running(shared).get("kernels"))  # {} where the pool has left as well


def test_interrupted_run_kills_its_kernel(shared):
    client, pids = begin_client(shared)
    client.send_signal(signal.SIGINT)
    assert client.wait(timeout=120) != 0
    wait_for(lambda: all(is_gone(pid) for pid in pids))


def test_killed_zygote_is_an_error_now_and_replaced_at_the_next_notebook(own):
    with kernels.pool(own) as pool:
        _, shown = execute(own, "import os; print(os.getppid())", pool=pool)
        kill = f"import os, signal, time; os.kill({int(shown[0])}, signal.SIGKILL); time.sleep(60)"
        with pytest.raises(kernels.CellFailed, match="DeadKernelError"):
            execute(own, "1", kill, pool=pool)
        done, again = execute(own, "import os; print(os.getppid())", pool=pool)
    assert done.is_warm
    assert again != shown


def test_changed_lock_file_gets_a_new_zygote(own):
    execute(own, "1")
    first = kernels.running(own)["pid"]
    execute(own, "1")
    assert kernels.running(own)["pid"] == first
    (own.root / "requirements.lock").write_text("one==2\n")
    execute(own, "1")
    assert kernels.running(own)["pid"] != first
    wait_for(lambda: is_gone(first))


IMPORTING = """
import os, sys
from mlloop.kernels import zygote
own, before = dict(os.environ), zygote.fingerprint(sys.argv[1], dict(os.environ))
for name in ("sklearn.ensemble", "torch._dynamo", "lightgbm", "mlflow", "nannyml", "ipykernel.kernelapp", "ploomber"):
    __import__(name)
os.environ["MPLBACKEND"] = "module://matplotlib_inline.backend_inline"  # in a notebook
assert zygote.fingerprint(sys.argv[1], dict(os.environ)) == before, set(os.environ.items()) - set(own.items())
assert zygote.fingerprint(sys.argv[1], {**os.environ, "OMP_NUM_THREADS": "97"}) != before
"""


def test_what_a_command_has_imported_does_not_ask_for_another_zygote(tmp_path):
    place = project(tmp_path / "project")
    environment = {name: value for name, value in os.environ.items() if name != "MPLBACKEND"}  # a test's own
    words = [sys.executable, "-c", IMPORTING, str(place.root)]
    done = subprocess.run(words, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr


def test_zygote_leaves_when_the_project_is_gone(tmp_path):
    place = project(tmp_path / "project")
    execute(place, "1")
    pid, folder = kernels.running(place)["pid"], Path(kernels.Address(place).read()["socket"]).parent
    assert folder.stat().st_mode & 0o777 == 0o700
    place.root.rename(tmp_path / "elsewhere")
    wait_for(lambda: is_gone(pid))
    assert not folder.exists()


def test_zygote_that_cannot_start_means_fresh_kernels_and_one_warning(own, monkeypatch):
    monkeypatch.setattr("mlloop.kernels.pool.LAUNCH", "raise SystemExit(3)")
    with pytest.warns(RuntimeWarning, match="using fresh kernels") as warned, kernels.pool(own) as pool:
        done = [execute(own, "print(2)", pool=pool) for _ in range(2)]
    assert [(one.is_warm, shown) for one, shown in done] == [(False, ["2\n"])] * 2
    assert len([one for one in warned if "fresh kernels" in str(one.message)]) == 1


def test_zygote_forks_from_one_thread(shared):
    assert len(kernels.running(shared)["threads"]) == 1


def test_the_text_of_a_table_is_shown_whole(shared):
    said = "rows.distance_km is missing in 32% of the rows, where 6% were missing in the reference period"
    out = shared.root / "table.ipynb"
    cells = notebook("import pandas as pd", f"pd.DataFrame({{'in words': [{said!r}]}})")
    kernels.run_notebook(cells, out, cwd=shared.root, settings=shared)
    assert said in nbformat.read(out, as_version=4).cells[1].outputs[0].data["text/html"]
