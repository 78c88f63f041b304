"""Every set-up passes Helm's own lint, and the schemas of the oldest and the newest Kubernetes that the chart supports."""

import json
import re
import subprocess

import kubernetes_validate
import pytest
import yaml

import chart

OLDEST, NEWEST = "1.30", "1.37"
NOT_OF_KUBERNETES = {"ServiceMonitor", "PrometheusRule", "GRPCRoute"}


@pytest.mark.parametrize("setup", chart.SETUPS)
@pytest.mark.parametrize("version", chart.HELMS)
def test_a_set_up_is_without_fault_for_helm(setup, version):
    values = ["--values", chart.SETUPS[setup]] if chart.SETUPS[setup] else []
    code, out, err = chart.helm("lint", "--strict", chart.CHART, *values, version=version)
    assert code == 0, out + err
    assert "1 chart(s) linted, 0 chart(s) failed" in out


@pytest.mark.parametrize("setup", chart.SETUPS)
def test_both_generations_of_helm_render_the_same(setup):
    assert chart.rendered(setup, version="helm3") == chart.rendered(setup, version="helm4")


@pytest.mark.parametrize("kubernetes", [OLDEST, NEWEST])
@pytest.mark.parametrize("setup", chart.SETUPS)
def test_every_object_fits_the_schema_of_kubernetes(setup, kubernetes):
    seen = 0
    for one in chart.rendered(setup):
        if one["kind"] not in NOT_OF_KUBERNETES:
            kubernetes_validate.validate(one, kubernetes, strict=True)
            seen += 1
    assert seen >= 5


def test_the_chart_says_what_is_its_oldest_kubernetes():
    wanted = yaml.safe_load((chart.CHART / "Chart.yaml").read_text())["kubeVersion"]
    assert wanted == f">={OLDEST}.0-0"
    arguments = ["template", "claviger", chart.CHART, "--kube-version", "1.29.9"]
    code, _, err = chart.helm(*arguments)
    assert code != 0 and "chart requires kubeVersion: >=1.30.0-0" in err


def check_custom(objects):
    command = ["node", chart.TOOLS / "kinds/custom_kinds.mjs"]
    return subprocess.run(command, input=json.dumps(objects), capture_output=True, text=True)


def test_objects_of_other_kinds_fit_their_schemas():
    custom = [one for one in chart.rendered("postgresql-everything") if one["kind"] in NOT_OF_KUBERNETES]
    assert {one["kind"] for one in custom} == NOT_OF_KUBERNETES
    done = check_custom(custom)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_misspelled_name_in_an_object_of_another_kind_is_seen():
    monitor = chart.only(chart.rendered("postgresql-everything"), "ServiceMonitor")
    monitor = json.loads(json.dumps(monitor).replace('"interval"', '"intervall"'))
    done = check_custom([monitor])
    assert done.returncode == 1 and """'"intervall"' does not exist""" in done.stdout


def test_the_chart_has_the_version_of_the_program():
    program = re.search(r'^version = "(.*)"', (chart.ROOT / "Cargo.toml").read_text(), re.M)[1]
    page = yaml.safe_load((chart.CHART / "Chart.yaml").read_text())
    assert (page["version"], page["appVersion"]) == (program, program)
