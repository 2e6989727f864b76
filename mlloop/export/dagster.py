"""The loop for Dagster: two jobs a problem that call the command line, and nothing else."""

import re
from dataclasses import dataclass

from mlloop.export import orchestration
from mlloop.export.exporters import Request

JOBS = '''"""The loop of mlloop for Dagster; written by `mlloop export dagster`. Try it: dagster dev -f THIS_FILE

A problem has two jobs. NAME_run: the pipeline, an op a stage, started by hand; a gate that says No skips what is behind it.
NAME_loop: one turn of the loop, an op a step, on a schedule (switched on in Dagster); a turn that is not due is skipped, and
so is one that would begin while the turn before it still runs.
The op `alert` fails where monitoring raised an alert, so that the run is red and somebody notices; nothing waits for it.
"""

import json
import re
import subprocess

import dagster as dg

PROJECT = {project!r}
COMMAND = {command!r}
SCHEDULE = {schedule!r}
STAGES = {stages!r}  # stage: the stages that it reads
TABLES = {tables!r}  # problem: its tables in the lake
# every step finds what an earlier try left, so each can be repeated
RETRIES = dg.RetryPolicy(max_retries=2, delay=600)
# one op at a time, so that a small worker has room for it
ONE = dg.multiprocess_executor.configured({{"max_concurrent": 1}})


def mlloop(context, *words):
    """Call the command line; returns its JSON, or None where a gate said No, and whether it raised an alert.

    Exit codes: 0 done, 4 done and an alert, 3 a gate said No (skip what follows), 2 bad input (no retry would help),
    1 failed and 5 another run holds the problem (try again).
    """
    try:
        done = subprocess.run([COMMAND, *words, "--json"], cwd=PROJECT, stdout=subprocess.PIPE, text=True, check=False)
    except OSError as error:
        again = "Name the program and the project as this machine has them: mlloop export dagster --command PATH"
        raise dg.Failure(f"{{COMMAND}} cannot be called in {{PROJECT}}: {{error}}. {{again}}", allow_retries=False) from error
    context.log.info(done.stdout)
    said = f"mlloop {{' '.join(words)}} ended with {{done.returncode}}"
    if done.returncode == 3:
        context.log.warning(f"{{said}}: a gate said No; its page says what must change")
        return None, False
    if done.returncode == 2:
        raise dg.Failure(f"{{said}}: the message is in this op's stderr", allow_retries=False)
    if done.returncode not in (0, 4):
        raise dg.Failure(said)
    return json.loads(done.stdout), done.returncode == 4


def materialized(context, problem):
    """Tell Dagster that the tables of a problem are new, so that others may wait for these assets."""
    for table, uri in TABLES[problem].items():
        context.log_event(dg.AssetMaterialization([problem, table], metadata={{"uri": uri}}))


def pipeline(problem, name):
    """The job of a problem's pipeline. An op's own name is unique among all jobs; in its job it goes by the stage."""

    def stage(stage_name, upstream):
        # an input for each stage before: of inputs in a list, one that came would be enough
        before = {{f"after_{{one}}": dg.In(dg.Nothing) for one in upstream}}

        @dg.op(name=f"{{name}}_{{stage_name}}", ins=before, out=dg.Out(bool, is_required=False), retry_policy=RETRIES)
        def bring(context):
            done, _ = mlloop(context, "run", "--problem", problem, "--until", stage_name)
            if done is not None:
                if stage_name == "ingestion":
                    materialized(context, problem)
                yield dg.Output(True)

        return bring

    @dg.job(name=f"{{name}}_run", executor_def=ONE)
    def run():
        """The pipeline, an op a stage. A gate that says No skips what is behind it."""
        done = {{}}
        for stage_name, upstream in STAGES.items():
            inputs = {{f"after_{{one}}": done[one] for one in upstream}}
            done[stage_name] = stage(stage_name, upstream).alias(stage_name)(**inputs)

    return run


def turn(problem, name):
    """The job of a turn of a problem's loop."""

    @dg.op(name=f"{{name}}_collect", out=dg.Out(str, is_required=False), retry_policy=RETRIES)
    def collect(context):
        """Find the turn that is due and bring its data; without one, what follows is skipped."""
        due, _ = mlloop(context, "tick", "--problem", problem, "--until", "collect")
        if due is None or due["fresh"]:
            context.log.info("no turn is due")
        else:
            materialized(context, problem)
            yield dg.Output(due["at"])

    def step(step_name):
        @dg.op(name=f"{{name}}_{{step_name}}", ins={{"before": dg.In(dg.Nothing)}}, retry_policy=RETRIES)
        def make(context, at: str) -> dict:
            made, alert = mlloop(context, "tick", "--problem", problem, "--at", at, "--until", step_name)
            verdict, said = (made["verdict"], made["said"]) if made else ("no", "")
            return {{"verdict": verdict, "alert": f"{{problem}} {{at}}: {{said}}" if alert else ""}}

        return make.alias(step_name)

    @dg.op(name=f"{{name}}_retrain", retry_policy=RETRIES)
    def retrain(context, at: str, decided: dict) -> bool:
        """Retrain, where the turn decided so."""
        if decided["verdict"] == "yes":
            mlloop(context, "tick", "--problem", problem, "--at", at, "--until", "retrain")
        return decided["verdict"] == "yes"

    @dg.op(name=f"{{name}}_close", ins={{"before": dg.In(dg.Nothing)}}, retry_policy=RETRIES)
    def close(context, at: str):
        """Make what is left of the turn, and the pages."""
        mlloop(context, "tick", "--problem", problem, "--at", at)

    @dg.op(name=f"{{name}}_alert")
    def alert(monitored: dict, judged: dict, decided: dict):
        """Fail where monitoring, the canary's step (a fallback too) or the decision raised an alert; nothing comes after it."""
        if raised := decided["alert"] or judged["alert"] or monitored["alert"]:
            raise dg.Failure(raised)

    @dg.job(name=f"{{name}}_loop", executor_def=ONE)
    def loop():
        """One turn of the loop, an op a step. Without a turn that is due, all after `collect` is skipped."""
        at = collect.alias("collect")()
        monitored = step("monitor")(at=at)
        judged = step("canary")(at=at, before=monitored)
        decided = step("decide")(at=at, before=judged)
        close.alias("close")(at=at, before=retrain.alias("retrain")(at, decided))
        alert.alias("alert")(monitored, judged, decided)

    return loop


def scheduled(job):
    """The schedule of a turn. One turn at a time: another would only wait for the problem."""

    @dg.schedule(job=job, cron_schedule=SCHEDULE, name=f"{{job.name}}_schedule")
    def when(context):
        states = [dg.DagsterRunStatus[name] for name in ("QUEUED", "NOT_STARTED", "STARTING", "STARTED", "CANCELING")]
        if context.instance.get_runs(dg.RunsFilter(job_name=job.name, statuses=states), limit=1):
            return dg.SkipReason("the turn before still runs")
        return dg.RunRequest()

    return when


NAMES = {{problem: re.sub(r"\\W", "_", f"{prefix}_{{problem}}") for problem in TABLES}}
RUNS = [pipeline(problem, name) for problem, name in NAMES.items()]
TURNS = [turn(problem, name) for problem, name in NAMES.items()]
defs = dg.Definitions(jobs=RUNS + TURNS, schedules=[scheduled(job) for job in TURNS])
'''


@dataclass(frozen=True)
class Options(orchestration.Options):
    """What can be chosen, as `orchestration.Options` has it."""


def files(request: Request, options: Options) -> dict[str, str]:
    """A file with two jobs a problem: the pipeline, an op a stage, and the turn of the loop, an op a step.

    Raises
    ------
    ProblemError
        A statement cannot be read.
    """
    name = re.sub(r"\W", "_", orchestration.name_of(request))
    return {f"{name}.py": JOBS.format(**orchestration.facts(request, options), prefix=name)}
