"""A real MLflow server on loopback, by settings alone; and models of mlloop in plain `mlflow.pyfunc` and `mlflow models serve`."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import numpy as np
import pytest
from production import Production

from mlloop.core import settings as _settings
from mlloop.store import tracking

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


@contextlib.contextmanager
def running(words, cwd: Path, ready: str, **environ: str):
    """A program in a session of its own, from when it answers at `ready`."""
    log = cwd / f"{words[0]}.log"
    with log.open("w") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "mlflow", *map(str, words)], cwd=cwd, stdout=out, stderr=out, start_new_session=True,
            env={**os.environ, **environ},
        )  # fmt: skip
    try:
        for _ in range(1200):
            with contextlib.suppress(httpx.HTTPError):
                if httpx.get(ready).status_code == 200:
                    break
            assert process.poll() is None, log.read_text()
            time.sleep(0.25)
        yield
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(60)


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def test_runs_models_and_files_go_to_a_server_and_open_there_without_mlloops_settings(tmp_path):
    address = f"http://127.0.0.1:{free_port()}"
    words = ["server", "--host", "127.0.0.1", "--port", address.rpartition(":")[2], "--workers", "1"]
    words += ["--backend-store-uri", f"sqlite:///{tmp_path}/server.db", "--artifacts-destination", tmp_path / "store"]
    with running(words, tmp_path, f"{address}/health"):
        made = Production(tmp_path / "loans", make=True)
        (made.root / "settings.ini").write_text(f"[tracking]\nurl = {address}\nartifacts = mlflow-artifacts:/\n")
        settings = _settings.load(made.root)
        assert settings.artifacts_uri == "mlflow-artifacts:/" and settings.artifacts_uri not in map(
            str, settings.private
        )
        X, model = made.rows[["amount", "age"]].astype(float).fillna(0.0), _fitted(made)
        digest = tracking.save_estimator(model, tmp_path / "model.skops")
        with tracking.stage_run("loan", "training", {"seed": 0}, settings=settings) as run:
            run.log({"rows": len(X)})
            known = tracking.register_model(
                "loan", tmp_path / "model.skops", "skops", input_example=X.head(3), run=run, settings=settings
            )
        tracking.set_alias("loan", "champion", known.version, settings)
        _, same = tracking.fetch("loan", "champion", settings)
        assert same.digest == digest and list((tmp_path / "store").rglob("model.skops"))
        expected = model.predict_proba(X.head(3))[:, 1]
        code = "import mlflow, sys; import pandas as pd; rows = pd.read_json(sys.argv[1], orient='split')\n"
        code += "print(mlflow.pyfunc.load_model('models:/loan@champion').predict(rows).tolist())"
        plain = {**os.environ, "MLFLOW_TRACKING_URI": address}
        rows = X.head(3).to_json(orient="split")
        (tmp_path / "rows.json").write_text(rows)
        done = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path / "rows.json")],
            env=plain,
            capture_output=True,
            text=True,
            cwd=tmp_path,
        )
        assert done.returncode == 0, done.stderr
        np.testing.assert_allclose(eval(done.stdout.splitlines()[-1]), expected)
        served = f"http://127.0.0.1:{free_port()}"
        words = [
            "models",
            "serve",
            "-m",
            "models:/loan@champion",
            "--env-manager",
            "local",
            "-h",
            "127.0.0.1",
            "-p",
            served.rpartition(":")[2],
        ]
        with running(words, tmp_path, f"{served}/ping", MLFLOW_TRACKING_URI=address):
            answer = httpx.post(
                f"{served}/invocations",
                json={"dataframe_split": X.head(3).to_dict(orient="split", index=True)},
                timeout=60,
            )
        assert answer.status_code == 200, answer.text
        np.testing.assert_allclose(answer.json()["predictions"], expected)


def _fitted(made: Production):
    from sklearn.linear_model import LogisticRegression

    rows = made.rows[["amount", "age"]].astype(float).fillna(0.0)
    return LogisticRegression().fit(rows, (made.rows["amount"].rank(pct=True) > 0.5).astype(int))
