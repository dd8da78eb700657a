"""What goes wrong for somebody who has just begun: the message names the cause, and what to do."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import Typed

pytestmark = pytest.mark.needs("landlock", level=6)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"#!/no/such/interpreter -x\n", ("/no/such/interpreter does not exist", "correct the first line")),
        (b"#!/bin/sh\r\necho\r\n", ("carriage return", "sed -i")),
        (b"echo no first line\n", ("#!/bin/sh", "name the interpreter")),
        (b"\x7fELF nonsense", ("neither a program of this machine",)),
    ],
)
def test_a_script_that_cannot_run(sandlock: Typed, tmp_path: Path, content: bytes, said: tuple[str, ...]) -> None:
    script = tmp_path / "work/script"
    script.write_bytes(content)
    script.chmod(0o755)
    done = sandlock("run", "--", "./script")
    assert done.returncode == 126
    assert all(words in done.stderr for words in said), done.stderr
    assert done.stderr.isprintable() or done.stderr[:-1].isprintable()


def test_an_interpreter_outside_the_grants_is_named(sandlock: Typed, tmp_path: Path) -> None:
    script = tmp_path / "work/script"
    script.write_text("#!/bin/sh\necho ran\n")
    script.chmod(0o755)
    done = sandlock("run", "--preset", "none", "-r", ".", "--", "./script")
    assert done.returncode == 126
    assert "--fs-read /" in done.stderr
    assert "outside every grant" in done.stderr
    assert sandlock("run", "-r", ".", "--", "./script").stdout == "ran\n", "the control"


def test_an_empty_policy_names_the_preset(sandlock: Typed) -> None:
    done = sandlock("run", "--preset", "none", "--", "ls")
    assert done.returncode == 126
    assert "--preset default" in done.stderr


@pytest.mark.parametrize("abi", ["0", "1", "3"])
def test_an_old_kernel_is_told_once_with_what_to_do(sandlock: Typed, abi: str) -> None:
    done = sandlock("run", "--namespaces", "off", "--", "true", env={"SANDLOCK_LANDLOCK_ABI": abi})
    assert done.returncode == 125
    assert "--allow-degraded" in done.stderr
    facts = done.stderr.removeprefix("sandlock: ").split("; ")
    assert len(facts) == len(set(facts)), "nothing is said twice"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["-r", "/no/such"], ("'/no/such' does not exist", "-/no/such")),
        (["--cwd", "/no/such"], ("/no/such", "--cwd")),
        (["-m", "1X"], ("--max-memory", "512M")),
        (["--net-allow", "http://x.example"], ("tcp://", "http_allow")),
        (["-p", "no-such"], ("there is no profile", "profiles")),
        (["--fs-raed", "/"], ("did you mean '--fs-read'",)),
        (["--preset", "pyhton"], ("did you mean 'python'",)),
    ],
)
def test_a_slip_in_an_option(sandlock: Typed, words: list[str], said: tuple[str, ...]) -> None:
    done = sandlock("run", *words, "--", "true")
    assert done.returncode in (2, 125)
    assert all(text in done.stderr for text in said), done.stderr
    assert "Traceback" not in done.stderr
