"""The program knows every name that the chart tells it: asked of the program itself, as the images hold it."""

import os
import re
import subprocess

import pytest

import chart

PROGRAM = os.environ["CLAVIGER_BINARY"]
# Values of references, as Kubernetes would fill them in.
FILLED = {"CLAVIGER_DATABASE_URL": "postgres://claviger@database/claviger"}


def ask(*arguments, **environment):
    return subprocess.run([PROGRAM, *arguments], env=environment, capture_output=True, text=True, timeout=60)


def words(text):
    """A help text with its lines joined, so that a name is in one piece."""
    return re.sub(r"\s+", " ", text)


def containers():
    found = []
    for setup in chart.SETUPS:
        for name, (_, pod) in chart.pods(chart.rendered(setup)).items():
            for container in pod["containers"]:
                found.append(pytest.param(container, id=f"{setup}: {name}"))
    return found


@pytest.mark.parametrize("container", containers())
def test_every_variable_is_named_in_the_help_of_the_command(container):
    # Of a server's pod the command line is a part, too: `kubectl exec` runs it there.
    told = words("".join(ask(*command, "--help").stdout for command in ([container["args"][0]], ["keys", "validate"])))
    named = set(re.findall(r"CLAVIGER_[A-Z_]+", told))
    given = {name for name in chart.environment(container) if name.startswith("CLAVIGER_")}
    assert given - named == set()


@pytest.mark.parametrize("container", containers())
def test_every_flag_is_named_in_the_help_of_the_command(container):
    command, *flags = container["args"]
    told = words(ask(command, "--help").stdout)
    assert told.startswith(("Serve", "Bring", "Try")), "the help of that command, not of the program"
    assert all(flag.split("=")[0] in told for flag in flags if flag.startswith("-"))


@pytest.mark.parametrize("setup", chart.SETUPS)
def test_the_service_takes_every_name_and_every_value(setup):
    """All mistakes are told at once: besides the one made here on purpose there is none."""
    _, pod = chart.server(chart.rendered(setup))
    (container,) = pod["containers"]
    environment = {name: one.get("value") or FILLED.get(name, "x") for name, one in chart.environment(container).items()}
    environment["CLAVIGER_LOG"] = "a=b=c"
    told = ask(*container["args"], **environment)
    assert told.returncode == 2
    assert told.stderr == "error: one setting is wrong:\n  CLAVIGER_LOG is no filter; write one such as info or claviger=debug\n"


def test_a_name_that_the_program_does_not_know_would_be_seen():
    told = ask("serve", CLAVIGER_LISTENN="127.0.0.1:1", CLAVIGER_LOG="a=b=c")
    assert told.returncode == 2 and "2 settings are wrong" in told.stderr and "CLAVIGER_LISTENN" in told.stderr


def test_every_setting_of_the_program_has_its_value():
    """A setting that operators cannot reach through the chart is one that somebody forgot here."""
    known = set(re.findall(r"\[env: (CLAVIGER_[A-Z_]+)\]", words(ask("serve", "--help").stdout)))
    assert len(known) >= 16
    told = set()
    for setup in chart.SETUPS:
        _, pod = chart.server(chart.rendered(setup))
        told |= chart.environment(pod["containers"][0]).keys()
    assert known - told == set()
