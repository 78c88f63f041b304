"""README.md, the operator's page, says what is: its table is that of the values, its commands work, its links lead somewhere."""

import base64
import os
import pathlib
import re
import subprocess

import yaml

import chart
import values_table


def test_the_table_of_values_is_that_of_the_values():
    page = values_table.page()
    assert values_table.with_table(page) == page, "run: python3 tests/chart/values_table.py --write"


def test_the_commands_make_the_secrets_that_the_examples_name(tmp_path):
    page = values_table.page()
    commands = re.search(r"<!-- tested: secrets -->\n```sh\n(.*?)```", page, re.S)[1]
    # A kubectl that shows what it would make, and a program under the name that the page calls it by.
    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / "kubectl").write_text(
        f'#!/bin/sh\n"{chart.TOOLS}/helm4/kubectl" "$@" --dry-run=client --output yaml && echo ---\n'
    )
    (programs / "kubectl").chmod(0o755)
    (programs / "claviger").symlink_to(os.environ["CLAVIGER_BINARY"])
    desk = tmp_path / "desk"
    desk.mkdir()
    environment = {"PATH": f"{programs}:{os.environ['PATH']}", "HOME": str(tmp_path), "DATABASE_PASSWORD": "p4ss"}
    done = subprocess.run(["bash", "-euc", commands], cwd=desk, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    secrets = {one["metadata"]["name"]: one for one in yaml.safe_load_all(done.stdout) if one}
    held = {name: {key: base64.b64decode(text).decode() for key, text in one["data"].items()} for name, one in secrets.items()}
    assert re.fullmatch(r"[0-9a-f]{64}\n", held["claviger-root-secrets"]["0"]) and len(held["claviger-root-secrets"]) == 1
    assert re.fullmatch(r"clv_\w{22}_\w{61}\n", held["claviger-bootstrap"]["key"])
    assert held["claviger-database"]["url"] == "postgres://claviger:p4ss@database.example.com:5432/claviger"
    # The example for PostgreSQL wants these and no others.
    _, pod = chart.server(chart.rendered("postgresql"))
    wanted = {one["secret"]["secretName"] for one in pod["volumes"]}
    wanted |= {one["valueFrom"]["secretKeyRef"]["name"] for one in pod["containers"][0]["env"] if "valueFrom" in one}
    assert wanted == set(held)


def test_the_values_on_the_page_are_values_of_the_chart():
    blocks = re.findall(r"```yaml\n(.*?)```", values_table.page(), re.S)
    seen = 0
    for block in map(yaml.safe_load, blocks):
        if "kind" in block:
            continue
        values = yaml.safe_load((chart.CHART / "values.yaml").read_text())
        for name, value in block.items():
            assert name in values, name
            if isinstance(value, dict) and isinstance(values[name], dict) and values[name]:
                assert set(value) <= set(values[name]), name
        seen += 1
    assert seen >= 4


def test_links_lead_somewhere():
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", values_table.page()):
        assert (chart.CHART / target).exists(), target


def test_the_page_tells_the_connections_that_replicas_hold():
    values = yaml.safe_load((chart.CHART / "values.yaml").read_text())
    # Two for lists, one for revocations, one for the feed.
    each = values["settings"]["databaseConnections"] * 3 // 2 + 4
    assert f"with the defaults, {each}." in values_table.page() and f"want {4 * each} of" in values_table.page()


def test_notes_can_be_pasted():
    """What Helm shows after an install, command by command: each is one that exists."""
    for setup, workload in (("defaults", "statefulset/claviger"), ("postgresql", "deploy/claviger")):
        values = ["--values", chart.SETUPS[setup]] if chart.SETUPS[setup] else []
        arguments = ["install", "claviger", chart.CHART, "--namespace", chart.NAMESPACE, "--dry-run=client", *values]
        code, out, err = chart.helm(*arguments)
        assert code == 0, err
        notes = out[out.index("NOTES:"):]
        commands = [line.strip() for line in notes.splitlines() if line.startswith("  ")]
        assert len(commands) == 6
        for command in commands:
            assert re.match(r"(\(umask 077; )?(kubectl|helm) -n keys ", command), command
            assert subprocess.run(["bash", "-n", "-c", command]).returncode == 0, command
        assert f"kubectl -n keys rollout status {workload}" in commands
        container = chart.server(chart.rendered(setup))[1]["containers"][0]["name"]
        assert all(f" -c {container} -- claviger " in command for command in commands if " exec " in command)
        assert "WITHOUT TLS" in notes
