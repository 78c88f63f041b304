"""The alerts are good rules, and fire when they should and only then: asked of Prometheus' own tool."""

import os
import shutil
import subprocess

import pytest
import yaml

import chart

PROMTOOL = shutil.which("promtool", path=f"{os.environ['PATH']}:{chart.TOOLS / 'bin'}")


@pytest.fixture(scope="module")
def rules(tmp_path_factory):
    path = tmp_path_factory.mktemp("alerts") / "rules.yaml"
    path.write_text(yaml.safe_dump(chart.only(chart.rendered("postgresql-everything"), "PrometheusRule")["spec"]))
    return path


def promtool(*arguments):
    done = subprocess.run([PROMTOOL, *map(str, arguments)], capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


def test_the_rules_are_without_fault(rules):
    code, told = promtool("check", "rules", rules)
    assert code == 0 and "SUCCESS: 6 rules found" in told, told


def test_alerts_fire_when_they_should(rules, tmp_path):
    test = tmp_path / "alerts.yaml"
    test.write_text((chart.ROOT / "tests/chart/alerts.yaml").read_text().replace("RULES", str(rules)))
    code, told = promtool("test", "rules", test)
    assert code == 0, told
