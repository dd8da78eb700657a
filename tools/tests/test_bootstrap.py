"""tools/bootstrap.sh installs what is missing, as root only, starts no daemon, and says what stays absent."""

from __future__ import annotations

import os
import pwd
import re
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest
import run_tests
from copies import CHECKOUT

if TYPE_CHECKING:
    from pathlib import Path

# Installs a package by making the program of the same name; keeps what it was asked, and what policy-rc.d said then.
APT_GET = """#!/bin/sh
echo "$@" >> "{log}"
[ "$1" = install ] || exit 0
[ -e "{refuses}" ] && exit 100
sh "{policy}"; echo "policy $?" >> "{log}"
shift 4
for package in "$@"; do ln -s "{true}" "{bin}/$package"; done
"""


class Machine:
    """A PATH of our own, with an apt-get that obeys."""

    def __init__(self, folder: Path, uid: int) -> None:
        self.bin, self.log, self.policy, self.refuses = (folder / name for name in ("bin", "log", "policy", "refuses"))
        self.bin.mkdir()
        self.log.touch()
        found = {name: shutil.which(name) for name in ("sh", "rm", "chmod", "true", "cc", "python3", "ln")}
        for name, program in found.items():
            assert program is not None
            (self.bin / name).symlink_to(program)
        paths = {name: getattr(self, name) for name in ("bin", "log", "policy", "refuses")}
        self._write("apt-get", APT_GET.format(true=found["true"], **paths))
        self._write("id", f"#!/bin/sh\necho {uid}\n")

    def provide(self, *rows: str) -> subprocess.CompletedProcess[str]:
        """Ask for the programs of a list."""
        wanted = self.bin.parent / "wanted"
        wanted.write_text("# a comment\n\n" + "".join(f"{row}\n" for row in rows))
        # Sourced for its functions only: what Python and the compiler need is another matter.
        script = f'policy={self.policy}\n{functions()}\nprovide_commands "{wanted}"\n'
        return subprocess.run(
            [str(self.bin / "sh"), "-euc", script],
            env={"PATH": str(self.bin)},
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )

    def asked(self) -> list[str]:
        return self.log.read_text().splitlines()

    def _write(self, name: str, text: str) -> None:
        (self.bin / name).write_text(text)
        (self.bin / name).chmod(0o755)


def functions() -> str:
    """The functions of bootstrap.sh without the part that runs when it is sourced."""
    return (CHECKOUT / "tools/bootstrap.sh").read_text().partition("\nfind_missing\nif ")[0]


@pytest.fixture
def root(tmp_path: Path) -> Machine:
    return Machine(tmp_path, 0)


def test_only_what_is_absent_is_installed_once_and_no_daemon_starts(root: Machine) -> None:
    done = root.provide("true coreutils", "no-such-tool a-package", "no-such-server a-package", "no-such-third other")
    assert done.returncode == 0, done.stderr
    assert root.asked() == ["update -q", "install -q -y --no-install-recommends a-package other", "policy 101"]
    assert not root.policy.exists(), "daemons of later installations are not our business"


def test_a_policy_about_daemons_that_was_there_stays(root: Machine) -> None:
    root.policy.write_text("exit 7\n")
    root.provide("no-such-tool a-package")
    assert root.asked()[-1] == "policy 7"
    assert root.policy.read_text() == "exit 7\n"


def test_what_came_with_the_package_is_not_called_absent(root: Machine) -> None:
    assert root.provide("no-such-tool no-such-tool").stderr == ""
    assert len(root.asked()) == 3
    assert root.provide("no-such-tool no-such-tool").stderr == ""
    assert len(root.asked()) == 3, "nothing is installed twice"


def test_a_failing_installation_is_told_and_ends_nothing(root: Machine) -> None:
    root.refuses.touch()
    done = root.provide("no-such-tool a-package", "no-such-twin a-package")
    assert done.returncode == 0
    assert "skipped: no-such-tool no-such-twin (packages: a-package)" in done.stderr
    assert not root.policy.exists()


def test_an_ordinary_user_is_told_and_installs_nothing(tmp_path: Path) -> None:
    machine = Machine(tmp_path, 1000)
    assert "no-such-tool (packages: a-package)" in machine.provide("no-such-tool a-package").stderr
    assert machine.asked() == []


def test_every_listed_program_is_promised_to_the_tests_of_ci(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listed = tmp_path / "commands"
    listed.write_text("# COMMAND PACKAGE\n\nnginx nginx-light\n")
    monkeypatch.setattr(run_tests, "COMMANDS", listed)
    assert run_tests.promised_commands() == ["command:nginx"]


def test_every_program_that_a_test_needs_is_listed() -> None:
    promised = set(run_tests.promised_commands())
    needed = set()
    for folder in ("packages", "tests-integration"):
        for file in (CHECKOUT / folder).rglob("test_*.py"):
            needed |= set(re.findall(r'mark\.needs\("(command:[a-z0-9-]+)"', file.read_text(encoding="utf-8")))
    assert "command:nginx" in needed, "the pattern finds what is there"
    assert needed - promised - {"command:no-such-program"} == set()


def test_the_tests_are_told_what_ci_promises_and_nothing_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    account = pwd.getpwuid(os.geteuid())
    monkeypatch.delenv("SANDLOCK_REQUIRE", raising=False)
    monkeypatch.setenv("CI", "true")
    promised = run_tests._environment(account, "/nowhere")["SANDLOCK_REQUIRE"].split(",")
    assert {"landlock=7", "command:nginx", "command:git"} <= set(promised)
    monkeypatch.setenv("SANDLOCK_REQUIRE", "landlock=2")
    assert run_tests._environment(account, "/nowhere")["SANDLOCK_REQUIRE"] == "landlock=2", "the caller's promise holds"
    monkeypatch.delenv("CI")
    monkeypatch.delenv("SANDLOCK_REQUIRE")
    assert "SANDLOCK_REQUIRE" not in run_tests._environment(account, "/nowhere")
