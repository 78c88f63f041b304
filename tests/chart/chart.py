"""The chart as Helm renders it: what the tests here ask Helm for, and where to look in the answer."""

import functools
import os
import pathlib
import subprocess

import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]
CHART = ROOT / "helm"
TOOLS = pathlib.Path(os.environ["CHART_TOOLS"])
HELMS = {version: TOOLS / version / "helm" for version in ("helm3", "helm4")}
EXAMPLES = sorted((CHART / "examples").glob("*.yaml"))
# Every way in which the chart is rendered here; the first is the defaults.
SETUPS = {"defaults": None, **{path.stem: path for path in EXAMPLES}}
NAMESPACE = "keys"


def helm(*arguments, version="helm4"):
    """What Helm answers: its exit code, its standard output, its standard error."""
    # Nothing of the person's own Helm, and never a cluster.
    environment = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", "KUBECONFIG": "/nonexistent"}
    done = subprocess.run([HELMS[version], *map(str, arguments)], env=environment, capture_output=True, text=True)
    return done.returncode, done.stdout, done.stderr


@functools.cache
def rendered(setup="defaults", sets=(), release="claviger", version="helm4", hooks=True):
    """The objects of a set-up, with more values as `--set-json` takes them."""
    arguments = ["template", release, CHART, "--namespace", NAMESPACE]
    if not hooks:
        arguments.append("--no-hooks")
    if SETUPS[setup]:
        arguments += ["--values", SETUPS[setup]]
    for one in sets:
        arguments += ["--set-json", one]
    code, out, err = helm(*arguments, version=version)
    assert code == 0, err
    return tuple(one for one in yaml.safe_load_all(out) if one)


def refusal(*sets, setup="defaults", release="claviger", version="helm4"):
    """The words with which Helm refuses these values, without what it says around them."""
    arguments = ["template", release, CHART, "--namespace", NAMESPACE]
    if SETUPS[setup]:
        arguments += ["--values", SETUPS[setup]]
    for one in sets:
        arguments += ["--set-json", one]
    code, _, err = helm(*arguments, version=version)
    assert code != 0, f"Helm took {sets}"
    noise = ("Error:", "Use --debug", "claviger:")
    return "\n".join(line.strip() for line in err.splitlines() if line.strip() and not line.startswith(noise))


def of_kind(objects, kind):
    return [one for one in objects if one["kind"] == kind]


def only(objects, kind):
    (one,) = of_kind(objects, kind)
    return one


def pods(objects):
    """All pods, by the name of the object that makes them: labels and spec."""
    found = {}
    for one in objects:
        name = f"{one['kind']}/{one['metadata']['name']}"
        if one["kind"] == "Pod":
            found[name] = (one["metadata"]["labels"], one["spec"])
        elif one["kind"] in ("Deployment", "StatefulSet", "Job"):
            template = one["spec"]["template"]
            found[name] = (template["metadata"]["labels"], template["spec"])
    return found


def server(objects):
    """Labels and spec of the pod of the service."""
    (one,) = [pod for name, pod in pods(objects).items() if name.startswith(("Deployment/", "StatefulSet/"))]
    return one


def environment(container):
    return {one["name"]: one for one in container["env"]}


def matches(selector, labels):
    return bool(selector) and all(labels.get(name) == value for name, value in selector.items())
