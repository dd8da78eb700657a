"""`sandlock check`: the findings, the protections of the default preset, and the status."""

from __future__ import annotations

import dataclasses
import json
import re
from typing import TYPE_CHECKING

import pytest

from sandlock_cli.host import findings
from sandlock_sys.probe import Feature, Probe, State, probe

if TYPE_CHECKING:
    from conftest import Typed


@pytest.fixture(scope="module")
def here() -> Probe:
    return probe()


def changed(here: Probe, **features: Feature | int) -> Probe:
    return dataclasses.replace(here, **features)  # type: ignore[arg-type]  # test arguments


def test_what_works_passes_without_a_word(here: Probe) -> None:
    rows = {row.name: row for row in findings(changed(here, seccomp_filter=Feature(State.AVAILABLE)))}
    assert rows["seccomp filters"].state == "pass"
    assert rows["seccomp filters"].remedy == ""


def test_an_old_kernel_is_told_from_a_refusal(here: Probe) -> None:
    absent = changed(here, seccomp_filter=Feature(State.ABSENT, 22, "Invalid argument"))
    row = {row.name: row for row in findings(absent)}["seccomp filters"]
    assert (row.state, row.remedy) == ("missing", "a kernel from Linux 3.5 with CONFIG_SECCOMP_FILTER on")
    refused = changed(here, user_namespace=Feature(State.REFUSED, 1, "Operation not permitted"))
    row = {row.name: row for row in findings(refused)}["user namespaces"]
    assert row.state == "degraded"
    assert "Operation not permitted" in row.why
    assert "sysctl" in row.remedy


def test_no_landlock_is_missing_with_a_remedy(here: Probe) -> None:
    row = findings(changed(here, landlock_abi=0))[0]
    assert (row.name, row.state) == ("Landlock", "missing")
    assert "lsm=" in row.remedy
    killed = findings(changed(here, landlock_abi=7, landlock_restrict_self=Feature(State.KILLED, why="killed")))[0]
    assert killed.state == "missing"


def test_every_attribute_that_is_asked_for_exists(here: Probe) -> None:
    assert len(findings(here)) > 15
    assert {row.state for row in findings(here)} <= {"pass", "degraded", "missing"}


@pytest.mark.needs("landlock", level=2)
def test_a_host_that_enforces_everything_gives_0(sandlock: Typed) -> None:
    done = sandlock("check")
    assert done.returncode == 0, done.stdout
    assert "It is enforced in full." in done.stdout
    told = json.loads(sandlock("check", "--json").stdout)
    assert told["enforced"] is True
    assert {row["state"] for row in told["protections"]} == {"active"}
    assert {"name", "state", "why", "remedy"} == set(told["features"][0])


@pytest.mark.needs("landlock", level=2)
@pytest.mark.needs("pid_namespace")
def test_an_old_landlock_is_made_up_for_by_namespaces_and_says_so(sandlock: Typed) -> None:
    done = sandlock("check", "--json", env={"SANDLOCK_LANDLOCK_ABI": "3"})
    assert done.returncode == 0, done.stdout
    layers = {row["name"]: row["layer"] for row in json.loads(done.stdout)["protections"]}
    expected = ("namespace", "namespace", "landlock")
    assert (layers["scope_signal"], layers["fs_ioctl_dev"], layers["fs_truncate"]) == expected
    explained = sandlock("run", "--explain", "--", "true", env={"SANDLOCK_LANDLOCK_ABI": "3"}).stdout
    assert re.search(r"^scope_signal +namespace +.*only processes of the sandbox", explained, re.MULTILINE)


@pytest.mark.needs("landlock", level=2)
def test_no_landlock_gives_1_and_says_what_would_be_lost(sandlock: Typed) -> None:
    done = sandlock("check", "--json", env={"SANDLOCK_LANDLOCK_ABI": "0"})
    told = json.loads(done.stdout)
    assert done.returncode == 1
    states = {row["name"]: row["state"] for row in told["protections"]}
    assert states["fs_access"] == "degraded"
    assert "--allow-degraded" in told["error"]
    none = sandlock("check", env={"SANDLOCK_LANDLOCK_ABI": "0"})
    assert none.returncode == 1
    assert "NOT enforced" in none.stdout
    assert "Traceback" not in none.stderr
