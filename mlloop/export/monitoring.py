"""Prometheus, Alertmanager and Grafana on what mlloop publishes: rules with their tests, a pager and mail, a board.

The figures are those of the service's /metrics and of `mlloop metrics`, see `mlloop.export.metrics`.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

from mlloop.core.errors import UsageError
from mlloop.core.records import JsonObject
from mlloop.export.exporters import Request

SEVERITIES = ("critical", "warning")  # critical goes to the pager and by mail, warning by mail


@dataclass(frozen=True)
class Alert:
    """An alerting rule, and the series that it is tried on.

    Attributes
    ----------
    name, severity, expr : str
    wait : str
        How long the expression must hold.
    summary, page : str
        For the person who is called: what it is, and the page of the documentation to read.
    fires, stays : dict of str to str
        Series in promtool's notation, a value a minute: with the first the alert is raised, with the second it is not.
    labels : dict of str to str
        What the raised alert has besides its severity.
    """

    name: str
    severity: str
    expr: str
    wait: str
    summary: str
    page: str
    fires: Mapping[str, str]
    stays: Mapping[str, str]
    labels: Mapping[str, str] = field(default_factory=lambda: {"problem": "shop"})

    def rule(self) -> JsonObject:
        """As Prometheus reads it."""
        return {
            "alert": self.name,
            "expr": self.expr,
            "for": self.wait,
            "labels": {"severity": self.severity},
            "annotations": {"summary": self.summary, "runbook": self.page},
        }

    def tests(self) -> Iterator[JsonObject]:
        """As `promtool test rules` reads them: it fires, and it stays silent."""
        summary = self.summary
        for label, value in self.labels.items():
            summary = summary.replace(f"{{{{ $labels.{label} }}}}", value)
        raised = {
            "exp_labels": {"severity": self.severity, **self.labels},
            "exp_annotations": {"summary": summary, "runbook": self.page},
        }
        for word, series, expected in (("fires", self.fires, [raised]), ("stays silent", self.stays, [])):
            yield {
                "name": f"{self.name} {word}",
                "interval": "1m",
                "input_series": [{"series": name, "values": values} for name, values in series.items()],
                "alert_rule_test": [{"eval_time": "3h", "alertname": self.name, "exp_alerts": expected}],
            }


def _shop(name: str, **labels: str) -> str:
    """A series of the problem shop, for a rule's test."""
    return name + "{" + ",".join(f'{key}="{value}"' for key, value in {"problem": "shop", **labels}.items()) + "}"


def _per_problem(name: str, selector: str = "") -> str:
    """A gauge by problem, whoever scraped it."""
    return f"max by (problem) ({name}{selector})"


def _slow(quantile: float) -> str:
    buckets = "sum by (problem, le) (rate(mlloop_request_duration_seconds_bucket[5m]))"
    return f"histogram_quantile({quantile}, {buckets})"


def _buckets(quick: str, slow: str) -> dict[str, str]:
    """Requests of which those of up to 50 ms grow by `quick` a minute, and all by `slow`."""
    duration = "mlloop_request_duration_seconds_bucket"
    return {_shop(duration, le="0.05"): f"0+{quick}x180", _shop(duration, le="+Inf"): f"0+{slow}x180"}


DAY = 86_400
MONITORING, SERVING = "docs/monitoring.md", "docs/serving.md"
ALERTS = (
    Alert(
        "MlloopModelWorse", "critical", _per_problem("mlloop_health", '{state="worse"}') + " == 1", "0m",
        "{{ $labels.problem }}: the model is worse than its reference", MONITORING,
        {_shop("mlloop_health", state="worse"): "1x180"}, {_shop("mlloop_health", state="worse"): "0x180"},
    ),
    Alert(
        "MlloopFeedBroken", "critical", _per_problem("mlloop_feed_broken") + " == 1", "0m",
        "{{ $labels.problem }}: the data that the model is fed are broken", MONITORING,
        {_shop("mlloop_feed_broken"): "1x180"}, {_shop("mlloop_feed_broken"): "0x180"},
    ),
    Alert(
        "MlloopFellBack", "warning", "max by (problem, to) (mlloop_fallback) == 1", "0m",
        "{{ $labels.problem }}: the {{ $labels.to }} answers instead of the champion", "docs/retraining.md",
        {_shop("mlloop_fallback", to="rule"): "1x180"}, {_shop("mlloop_fallback", to="rule"): "0x180"},
        {"problem": "shop", "to": "rule"},
    ),
    Alert(
        "MlloopTargetMissed", "warning", _per_problem("mlloop_performance_target_missed") + " == 1", "0m",
        "{{ $labels.problem }}: the newest realised figure misses its target with its whole interval", MONITORING,
        {_shop("mlloop_performance_target_missed", metric="ndcg"): "1x180"},
        {_shop("mlloop_performance_target_missed", metric="ndcg"): "0x180"},
    ),
    Alert(
        "MlloopTurnOverdue", "warning", f"time() - {_per_problem('mlloop_turn_due_timestamp_seconds')} > {DAY}", "1h",
        "{{ $labels.problem }}: a turn of the loop is overdue by more than a day", "docs/schedule.md",
        {_shop("mlloop_turn_due_timestamp_seconds"): f"-{2 * DAY}x180"}, {_shop("mlloop_turn_due_timestamp_seconds"): "0x180"},
    ),
    Alert(
        "MlloopDrifted", "warning", _per_problem("mlloop_drift_columns") + " > 0 and " + _per_problem("mlloop_health", '{state=~"watch|worse"}') + " == 1",
        "0m", "{{ $labels.problem }}: columns drifted while the model is watched or worse", MONITORING,
        {_shop("mlloop_drift_columns"): "2x180", _shop("mlloop_health", state="watch"): "1x180"},
        {_shop("mlloop_drift_columns"): "2x180", _shop("mlloop_health", state="watch"): "0x180"},
    ),
    Alert(
        "MlloopServiceDown", "critical", 'up{job="mlloop"} == 0', "5m",
        "{{ $labels.instance }}: the prediction service does not respond", SERVING,
        {'up{job="mlloop",instance="a:8000"}': "0x180"}, {'up{job="mlloop",instance="a:8000"}': "1x180"},
        {"job": "mlloop", "instance": "a:8000"},
    ),
    Alert(
        "MlloopRequestErrors", "critical",
        'sum by (problem) (rate(mlloop_requests_total{status=~"5.."}[5m])) / sum by (problem) (rate(mlloop_requests_total[5m])) > 0.01',
        "5m", "{{ $labels.problem }}: more than 1 % of the requests fail", SERVING,
        {_shop("mlloop_requests_total", status="200"): "0+95x180", _shop("mlloop_requests_total", status="503"): "0+5x180"},
        {_shop("mlloop_requests_total", status="200"): "0+95x180", _shop("mlloop_requests_total", status="422"): "0+5x180"},
    ),
    Alert(
        "MlloopSlow", "warning", f"{_slow(0.99)} > {_per_problem('mlloop_latency_limit_seconds')}", "10m",
        "{{ $labels.problem }}: one request in a hundred takes longer than the statement allows", SERVING,
        {**_buckets("50", "100"), _shop("mlloop_latency_limit_seconds"): "0.02x180"},
        {**_buckets("100", "100"), _shop("mlloop_latency_limit_seconds"): "0.05x180"},
    ),
    Alert(
        "MlloopPredictionsLost", "critical", "increase(mlloop_predictions_lost_total[15m]) > 0", "0m",
        "{{ $labels.problem }}: predictions were made and not logged", SERVING,
        {_shop("mlloop_predictions_lost_total"): "0+1x180"}, {_shop("mlloop_predictions_lost_total"): "7x180"},
    ),
    Alert(
        "MlloopCanaryFails", "warning", "increase(mlloop_canary_errors_total[15m]) > 0", "0m",
        "{{ $labels.problem }}: the canary fails on rows that the champion answers", SERVING,
        {_shop("mlloop_canary_errors_total"): "0+1x180"}, {_shop("mlloop_canary_errors_total"): "7x180"},
    ),
)  # fmt: skip

PROMETHEUS = """\
# Prometheus on a service and on the textfile collector of node_exporter; written by `mlloop export monitoring`.
global:
  scrape_interval: 30s
  evaluation_interval: 30s

rule_files: [rules.yml]

alerting:
  alertmanagers:
    - static_configs: [{{targets: [{alertmanager}]}}]

scrape_configs:
  - job_name: mlloop
    # with a token: authorization: {{credentials_file: /etc/prometheus/mlloop.token}}
    static_configs: [{{targets: [{service}]}}]
  - job_name: node
    static_configs: [{{targets: [{node}]}}]
"""
ALERTMANAGER = """\
# Critical alerts page somebody through PagerDuty's Events API v2; all go by mail. Written by `mlloop export monitoring`.
global:
  smtp_smarthost: {smarthost}
  smtp_from: {mail_from}

route:
  receiver: mail
  group_by: [alertname, problem]
  group_wait: 30s
  group_interval: 5m
  repeat_interval: 24h
  routes:
    - {{matchers: ['severity="critical"'], receiver: pager, continue: true}}
    - {{matchers: ['severity=~"critical|warning"'], receiver: mail}}

inhibit_rules:
  # on a broken feed the model is not judged
  - source_matchers: ['alertname="MlloopFeedBroken"']
    target_matchers: ['alertname=~"MlloopModelWorse|MlloopTargetMissed|MlloopDrifted"']
    equal: [problem]

receivers:
  - name: pager
    pagerduty_configs:
      - routing_key_file: {pagerduty_key}
        url: {pagerduty_url}
        description: '{{{{ .CommonAnnotations.summary }}}}'
        severity: '{{{{ .CommonLabels.severity }}}}'
        class: '{{{{ .CommonLabels.alertname }}}}'
        component: mlloop
        group: '{{{{ .CommonLabels.problem }}}}'
        details: {{runbook: '{{{{ .CommonAnnotations.runbook }}}}'}}
  - name: mail
    email_configs:
      - {{to: {mail_to}, send_resolved: true}}
"""


@dataclass(frozen=True)
class Options:
    """What can be chosen.

    Attributes
    ----------
    service, node, alertmanager : str
        host:port of `mlloop serve`, of node_exporter with its textfile collector, and of Alertmanager.
    mail_to, mail_from, smarthost : str
        Who is written to, by whom, through which server (host:port).
    pagerduty_key : str
        The file that holds the integration key.
    pagerduty_url : str
    """

    service: str = "localhost:8000"
    node: str = "localhost:9100"
    alertmanager: str = "localhost:9093"
    mail_to: str = "data-team@example.org"
    mail_from: str = "alertmanager@example.org"
    smarthost: str = "localhost:25"
    pagerduty_key: str = "/etc/alertmanager/pagerduty.key"
    pagerduty_url: str = "https://events.pagerduty.com/v2/enqueue"

    def __post_init__(self) -> None:
        for name in ("service", "node", "alertmanager", "smarthost"):
            host, _, port = getattr(self, name).rpartition(":")
            if not host or not port.isdigit():
                raise UsageError(
                    f"{getattr(self, name)!r} is not host:port",
                    f"--{name}",
                    "Example: mlloop export monitoring --service localhost:8000",
                )


def files(request: Request, options: Options) -> dict[str, str]:
    """Configuration of Prometheus and Alertmanager, the rules with their tests, and the board with its provisioning."""
    quoted = {name: json.dumps(value) for name, value in vars(options).items()}  # JSON's strings are YAML's
    header = "# written by `mlloop export monitoring`\n"
    rules = {"groups": [{"name": "mlloop", "rules": [alert.rule() for alert in ALERTS]}]}
    tests = {
        "rule_files": ["rules.yml"],
        "evaluation_interval": "1m",
        "tests": [test for alert in ALERTS for test in alert.tests()],
    }
    return {
        "prometheus.yml": PROMETHEUS.format(**quoted),
        "rules.yml": header + _yaml(rules),
        "rules_test.yml": header + "# promtool test rules rules_test.yml\n" + _yaml(tests),
        "alertmanager.yml": ALERTMANAGER.format(**quoted),
        "grafana/mlloop.json": json.dumps(board(), indent=1) + "\n",
        "grafana/provisioning.yml": header + PROVISIONING,
    }


def _yaml(content: Mapping[str, Any]) -> str:
    return yaml.safe_dump(dict(content), sort_keys=False, allow_unicode=True, width=160)


# ---------------------------------------------------------------------------------------------- the board

PROVISIONING = """\
# /etc/grafana/provisioning/dashboards/mlloop.yml
apiVersion: 1
providers:
  - name: mlloop
    type: file
    options: {path: /var/lib/grafana/dashboards}
"""
PROBLEM = '{problem=~"$problem"}'


@dataclass(frozen=True)
class Panel:
    """A panel of the board.

    Attributes
    ----------
    title : str
        The question that it answers.
    queries : dict of str to str
        Legend -> PromQL.
    unit : str
        Grafana's name of the unit.
    kind : str
        'timeseries', 'stat' or 'table'.
    width : int
        Of 24.
    """

    title: str
    queries: Mapping[str, str]
    unit: str = "short"
    kind: str = "timeseries"
    width: int = 12

    def json(self, number: int, x: int, y: int) -> JsonObject:
        """As Grafana reads it."""
        source = {"type": "prometheus", "uid": "${datasource}"}
        targets = [
            {"refId": chr(65 + at), "datasource": source, "expr": expr, "legendFormat": legend, "instant": self.kind != "timeseries",
             "range": self.kind == "timeseries"}
            for at, (legend, expr) in enumerate(self.queries.items())
        ]  # fmt: skip
        return {
            "id": number,
            "type": self.kind,
            "title": self.title,
            "datasource": source,
            "gridPos": {"x": x, "y": y, "w": self.width, "h": 8},
            "fieldConfig": {"defaults": {"unit": self.unit}, "overrides": []},
            "options": {},
            "targets": targets,
        }


PANELS = (
    Panel("Is the model healthy?", {"{{problem}}: {{state}}": f"mlloop_health{PROBLEM} == 1"}, kind="stat", width=8),
    Panel("Does production meet its target?", {"{{problem}}": f"1 - mlloop_performance_target_missed{PROBLEM}"}, "bool_yes_no", "stat", 8),
    Panel("Who answers?", {"{{problem}}: {{role}} {{model}}": f"mlloop_model_info{PROBLEM}"}, kind="stat", width=8),
    Panel(
        "Realised, estimated, target",
        {
            "{{problem}} realised": f"mlloop_performance_realised{PROBLEM}",
            "{{problem}} low": f"mlloop_performance_realised_low{PROBLEM}",
            "{{problem}} high": f"mlloop_performance_realised_high{PROBLEM}",
            "{{problem}} estimated": f"mlloop_performance_estimated{PROBLEM}",
            "{{problem}} reference": f"mlloop_performance_reference{PROBLEM}",
            "{{problem}} target": f"mlloop_performance_target{PROBLEM}",
        },
    ),
    Panel("Would the rule do better? (above 0: yes)", {"{{problem}} {{rule}}": f"mlloop_rule_gain{PROBLEM}"}),
    Panel("Which columns drift?", {"{{problem}} {{column}}": f"mlloop_drift_distance{PROBLEM}"}),
    Panel(
        "Is the feed in order?",
        {"{{problem}} {{table}} findings": f"mlloop_feed_findings{PROBLEM}", "{{problem}} {{table}} rows": f"mlloop_feed_rows{PROBLEM}"},
    ),
    Panel(
        "How far behind is the loop?",
        {
            "{{problem}} monitored": f"time() - mlloop_monitored_until_timestamp_seconds{PROBLEM}",
            "{{problem}} labelled": f"time() - mlloop_labelled_until_timestamp_seconds{PROBLEM}",
            "{{problem}} turn overdue": f"time() - mlloop_turn_due_timestamp_seconds{PROBLEM}",
        },
        "s",
    ),
    Panel("What was decided?", {"{{problem}} {{kind}} {{subject}} {{verdict}}": f"mlloop_decisions_total{PROBLEM}"}),
    Panel("Canary: time left", {"{{problem}} {{model}}": f"mlloop_canary_deadline_timestamp_seconds{PROBLEM} - time()"}, "s"),
    Panel("Predictions by role", {"{{problem}} {{role}}": f"sum by (problem, role) (rate(mlloop_predictions_total{PROBLEM}[5m]))"}, "reqps"),
    Panel("Requests by status", {"{{problem}} {{status}}": f"sum by (problem, status) (rate(mlloop_requests_total{PROBLEM}[5m]))"}, "reqps"),
    Panel("How long do requests take?", {f"{{{{problem}}}} p{share}": _slow(share / 100).replace("_bucket[", f"_bucket{PROBLEM}[") for share in (50, 99)}, "s"),
    Panel("Predictions not logged", {"{{problem}}": f"mlloop_predictions_lost_total{PROBLEM}"}),
)  # fmt: skip


def board() -> JsonObject:
    """The board, as Grafana imports it."""
    panels, x, y = [], 0, 0
    for number, panel in enumerate(PANELS, 1):
        if x + panel.width > 24:
            x, y = 0, y + 8
        panels.append(panel.json(number, x, y))
        x += panel.width
    source = {"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus"}
    problem = {
        "name": "problem", "label": "Problem", "type": "query", "datasource": {"type": "prometheus", "uid": "${datasource}"},
        "query": {"query": "label_values(mlloop_performance_target, problem)", "refId": "problems"}, "refresh": 2, "includeAll": True, "multi": True,
        "current": {"text": ["All"], "value": ["$__all"], "selected": True},
    }  # fmt: skip
    return {
        "uid": "mlloop",
        "title": "mlloop",
        "tags": ["mlloop"],
        "schemaVersion": 39,
        "editable": True,
        "refresh": "1m",
        "time": {"from": "now-30d", "to": "now"},
        "templating": {"list": [source, problem]},
        "annotations": {"list": []},
        "panels": panels,
    }
