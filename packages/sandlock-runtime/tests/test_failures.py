"""Launches that fail: which exception, with what in it, and nothing left behind."""

from __future__ import annotations

import errno
import os
import pickle
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from runtime_lab import OLD_LANDLOCK, SYSTEM, box, in_child

from sandlock_policy import PolicyError
from sandlock_policy.errors import LayerMissingError
from sandlock_policy.features import features_of_abi
from sandlock_runtime import (
    CommandNotFoundError,
    CommandNotRunnableError,
    ConfinementError,
    LandlockUnavailableError,
    NotifError,
    Sandbox,
    SandboxError,
    SeccompError,
    features,
    override,
)
from sandlock_runtime.failure import explain_failure
from sandlock_runtime.launch import make_context, plan_for
from sandlock_sys import prctl, seccomp
from sandlock_sys.constants.seccomp import FilterFlag
from sandlock_sys.errors import SyscallError
from sandlock_sys.spawn import SpawnError

if TYPE_CHECKING:
    from sandlock_testkit.tree import Tree

pytestmark = pytest.mark.usefixtures("leaks")

LANDLOCK = ["fs_access", "fs_refer", "fs_truncate", "fs_ioctl_dev", "scope_signal", "scope_abstract"]
UNSHARE = {"x86_64": 272}.get(os.uname().machine, 97)
EPERM_ACTION = 0x00050000 | errno.EPERM


def program(folder: Path, name: str, text: bytes, mode: int = 0o755) -> str:
    path = folder / name
    path.write_bytes(text)
    path.chmod(mode)
    return str(path)


@pytest.mark.parametrize("name", ["no-such-program", "/no/such/program", "./no-such", "x" * 200])
def test_a_command_that_is_not_there(name: str) -> None:
    with pytest.raises(CommandNotFoundError) as caught:
        box().run([name])
    error = caught.value
    assert isinstance(error, FileNotFoundError) and isinstance(error, SandboxError)
    assert (error.errno, error.filename) == (errno.ENOENT, name)
    assert isinstance(error.__cause__, SpawnError) and error.__cause__.step == "exec"
    assert name in str(error) and ("PATH=" in str(error)) == ("/" not in name)
    assert str(pickle.loads(pickle.dumps(error))) == str(error)  # noqa: S301 - pickled here


@pytest.mark.parametrize(
    ("text", "mode", "number", "reason"),
    [
        (b"#!/bin/sh\n", 0o644, errno.EACCES, "not executable"),
        (b"neither ELF nor script", 0o755, errno.ENOEXEC, "neither a program of this machine nor a script"),
        (b"#!/no/such/interpreter\n", 0o755, errno.ENOENT, "interpreter"),
    ],
)
def test_a_file_that_cannot_be_executed(text: bytes, mode: int, number: int, reason: str, tree: Tree) -> None:
    path = program(tree.work, "tool", text, mode)
    sandbox = box(fs_readable=[str(tree.work)])
    with pytest.raises(CommandNotRunnableError, match=reason) as caught:
        sandbox.run([path])
    assert (caught.value.errno, caught.value.filename) == (number, path)
    assert isinstance(caught.value, PermissionError)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)  # noqa: S301 - pickled here
    assert sandbox.run([program(tree.work, "good", b"#!/bin/sh\necho good\n")]).stdout == b"good\n"


def test_a_directory_is_not_a_program(tree: Tree) -> None:
    with pytest.raises(CommandNotRunnableError, match="directory") as caught:
        box(fs_readable=[str(tree.work)]).run([str(tree.work)])
    assert caught.value.errno == errno.EACCES


def test_a_name_that_is_too_long() -> None:
    with pytest.raises(CommandNotRunnableError) as caught:
        box().run(["/" + "x" * 5000])
    assert caught.value.errno == errno.ENAMETOOLONG


def test_a_program_outside_every_grant_names_the_missing_one(tree: Tree) -> None:
    tool = str(tree.read / "tool.sh")
    with pytest.raises(CommandNotRunnableError, match="--fs-read") as caught:
        box().run([tool])
    assert str(tree.read) in str(caught.value) and caught.value.filename == tool
    assert box(fs_readable=[str(tree.read)]).run([tool]).stdout == b"tool ran\n"
    with pytest.raises(CommandNotRunnableError, match="does not grant it"):
        Sandbox().run(["true"])  # no grant at all


def test_what_is_advised_is_one_word_wherever_a_link_leads(tree: Tree) -> None:
    """SEC: a folder of a project, and the loader of a program, may be called `x --fs-write ~`."""
    folder = Path(tree.root) / "x --fs-write ~"
    folder.mkdir()
    (folder / "prog").write_bytes(Path("/bin/true").read_bytes())
    (folder / "prog").chmod(0o755)
    (Path(tree.root) / "prog").symlink_to(folder / "prog")
    with pytest.raises(CommandNotRunnableError) as caught:
        box().run([f"{tree.root}/prog"])
    assert f"(--fs-read '{folder}')" in str(caught.value)


def test_a_loader_outside_every_grant_is_hinted_at() -> None:
    with pytest.raises(CommandNotRunnableError, match=r"what runs it, .*, is outside every grant"):
        Sandbox(fs_readable=["/usr/bin/true"]).run(["/usr/bin/true"])


@pytest.mark.parametrize("field", ["fs_readable", "fs_writable"])
def test_a_grant_of_what_is_not_there_is_named(field: str, tree: Tree) -> None:
    missing = str(tree.work / "missing")
    with pytest.raises(PolicyError, match="does not exist") as caught:
        box(**{field: [missing]}).run(["true"])
    assert missing in str(caught.value) and f"-{missing}" in str(caught.value)
    assert (
        caught.value.problems[0].field == {"fs_readable": "filesystem.read", "fs_writable": "filesystem.write"}[field]
    )
    assert box(**{field: [f"-{missing}"]}).run(["true"]).success


@pytest.mark.parametrize("kind", ["below a file", "a loop", "too long"])
def test_a_grant_that_is_no_path_is_named_too(kind: str, tree: Tree) -> None:
    (tree.work / "loop").symlink_to("loop")
    path = {"below a file": f"{tree.read}/data.txt/x", "a loop": f"{tree.work}/loop", "too long": "/" + "x" * 300}[kind]
    with pytest.raises(PolicyError) as caught:
        box(fs_readable=[path]).run(["true"])
    assert path in str(caught.value)


@pytest.mark.needs("ordinary_user")
def test_a_grant_that_cannot_be_reached_is_named(tree: Tree) -> None:
    hidden = tree.work / "hidden"
    hidden.mkdir()
    hidden.chmod(0)
    with pytest.raises(PolicyError, match="cannot be reached by you"):
        box(fs_readable=[str(hidden / "x")]).run(["true"])
    hidden.chmod(0o700)


@pytest.mark.parametrize(
    ("fields", "step", "number"),
    [
        ({"cwd": "/no/such/folder"}, "cwd", errno.ENOENT),
        ({"cwd": "/etc/passwd"}, "cwd", errno.ENOTDIR),
        ({"cpu_cores": "4000"}, "affinity", errno.EINVAL),
    ],
)
def test_a_step_that_the_kernel_refuses_is_named(fields: dict[str, Any], step: str, number: int) -> None:
    with pytest.raises(ConfinementError) as caught:
        box(**fields).run(["true"])
    error = caught.value
    assert (error.step, error.errno) == (step, number)
    assert error.remedy and error.remedy in str(error) and step in str(error)
    assert isinstance(error.__cause__, SyscallError) and error.__cause__.errno == number


def test_a_directory_named_by_a_variable_that_is_not_set_is_told_with_all_faults() -> None:
    with pytest.raises(PolicyError) as caught:
        box(cwd="${SANDLOCK_NOT_SET}/x", uid=5, fs_denied=["/etc/shadow"]).run(["true"])
    assert {problem.field for problem in caught.value.problems} == {"program.cwd", "program.uid"}


@pytest.mark.needs("ordinary_user")
def test_a_limit_above_the_hard_limit_is_named() -> None:
    with pytest.raises(ConfinementError, match="hard limit") as caught:
        box(max_open_files=1 << 28).run(["true"])
    assert caught.value.step == "limit"


@pytest.mark.parametrize(
    ("step", "kind"),
    [
        ("landlock", LandlockUnavailableError),
        ("guard-landlock", LandlockUnavailableError),
        ("seccomp", SeccompError),
        ("clone", ConfinementError),
        ("mount", ConfinementError),
    ],
)
def test_each_layer_has_its_exception(step: str, kind: type[ConfinementError]) -> None:
    sandbox = box()
    context, made = make_context(sandbox.policy, ["true"])
    assert made is not None
    error = explain_failure(
        SpawnError(step, "call", errno.E2BIG), made, plan_for(sandbox.policy, context, features.host_features())
    )
    assert type(error) is kind and (error.step, error.errno) == (step, errno.E2BIG)


def test_a_working_directory_that_is_gone_is_told(tree: Tree) -> None:
    def run() -> str:
        gone = tree.work / "gone"
        gone.mkdir()
        os.chdir(gone)
        gone.rmdir()
        try:
            box().run(["true"])
        except ConfinementError as error:
            return error.step
        return "ran"

    assert in_child(run) == "cwd"


@pytest.mark.needs("landlock", level=6)
@pytest.mark.parametrize("abi", range(6))
def test_a_layer_that_this_host_lacks_is_refused_and_named(abi: int, tree: Tree) -> None:
    with override(features_of_abi(abi, mount_namespace=False)):
        with pytest.raises(LayerMissingError) as caught:
            box(fs_readable=[str(tree.read)]).run(["true"])
        error = caught.value
        assert error.layer == "landlock" and error.protection == error.protections[0]
        assert "scope_signal" in error.protections
        assert ("fs_access" in error.protections) == (abi < 1)
        assert ("fs_truncate" in error.protections) == (abi < 1), "seccomp holds it"
        assert ("fs_ioctl_dev" in error.protections) == (abi < 5)
        assert "allow_degraded" in error.remedy and all(name in error.remedy for name in error.protections)
        agreed = box(fs_readable=[str(tree.read)], allow_degraded=error.protections)
        result = agreed.run(["cat", str(tree.read / "data.txt"), str(tree.canary.path)])
    assert tree.readable.encode() in result.stdout
    assert (tree.canary.secret.encode() in result.stdout) == (abi == 0)  # what was agreed to, and no more
    degraded = {row.name for row in result.protections if row.state == "degraded"}
    assert degraded >= set(error.protections) and "tree_kill" in degraded


def refuse_namespaces() -> None:
    """Answer EPERM to unshare(2) from here on, as a container's filter does."""
    instructions = [(0x20, 0, 0, 0), (0x15, 0, 1, UNSHARE), (0x06, 0, 0, EPERM_ACTION), (0x06, 0, 0, 0x7FFF0000)]
    prctl.set_no_new_privs()
    seccomp.set_mode_filter(b"".join(struct.pack("=HBBI", *instruction) for instruction in instructions))


@pytest.mark.needs("pid_namespace")
@pytest.mark.needs("landlock", level=6)
def test_an_old_landlock_is_refused_by_name_where_the_launch_finds_no_namespaces(tree: Tree) -> None:
    """Nobody knows before the first launch, which tries them: it must not go on without what they would have held."""
    marker = tree.work / "ran"

    def refused() -> list[str]:
        refuse_namespaces()
        told = []
        with override(features_of_abi(5)):
            for agreed in ((), (), ("scope_signal",)):
                sandbox = box(fs_writable=[str(tree.work)], allow_degraded=agreed)
                try:
                    result = sandbox.run(["touch", str(marker)])
                except LayerMissingError as error:
                    told.append(f"{error} {marker.exists()}")
                else:
                    told.append(next(row.state for row in result.protections if row.name == "scope_signal"))
        return told

    first, second, agreed = in_child(refused)
    assert first == second
    assert "namespaces, which this host does without" in first
    assert first.endswith("--allow-degraded scope_signal) False")
    assert (agreed, marker.exists()) == ("degraded", True)


def metadata_layer(sandbox: Sandbox, command: list[str]) -> tuple[str, int, bytes]:
    result = sandbox.run(command)
    return next(row.layer for row in result.protections if row.name == "fs_metadata"), result.exit_code, result.stdout


@pytest.mark.needs("mount_namespace")
def test_without_namespaces_the_launch_falls_back_to_a_stricter_layer(tree: Tree) -> None:
    target = tree.work / "file"
    target.touch()
    command = ["sh", "-c", f"echo wrote > {target}; chmod 600 {target}; stat -c %a {target}"]
    sandbox = box(fs_writable=[str(tree.work)], allow_degraded=OLD_LANDLOCK)

    def refused() -> list[tuple[str, int, bytes]]:
        refuse_namespaces()
        return [metadata_layer(sandbox, command) for _ in range(2)]

    target.chmod(0o644)
    assert in_child(refused) == [("seccomp", 0, b"644\n")] * 2
    assert target.read_text() == "wrote\n"
    assert metadata_layer(sandbox, command) == ("namespace", 0, b"600\n")


@pytest.mark.needs("mount_namespace")
def test_required_namespaces_that_are_refused_stop_the_launch(tree: Tree) -> None:
    def refused() -> tuple[str, int, str, bool]:
        refuse_namespaces()
        try:
            box(fs_writable=[str(tree.work)], namespaces="require").run(["touch", str(tree.work / "mark")])
        except ConfinementError as error:
            return error.step, error.errno, error.remedy, (tree.work / "mark").exists()
        return "ran", 0, "", True

    step, number, remedy, ran = in_child(refused)
    assert (step, number, ran) == ("namespace", errno.EPERM, False) and "--namespaces auto" in remedy
    assert metadata_layer(box(fs_writable=[str(tree.work)], namespaces="require"), ["true"])[0] == "namespace"


def test_required_namespaces_that_are_known_to_be_refused_are_a_missing_layer(tree: Tree) -> None:
    sandbox = box(fs_writable=[str(tree.work)], namespaces="require")

    def refused() -> str:
        features.namespace_refused()
        try:
            sandbox.run(["true"])
        except LayerMissingError as error:
            return error.layer
        return "ran"

    assert in_child(refused) == "namespace"


def test_namespaces_off_uses_none(tree: Tree) -> None:
    sandbox = box(fs_writable=[str(tree.work)], namespaces="off", allow_degraded=OLD_LANDLOCK)
    assert metadata_layer(sandbox, ["true"])[0] == "seccomp"


def test_a_failed_launch_with_a_private_folder_leaves_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    with pytest.raises(CommandNotFoundError):
        box(private_tmp=True).run(["no-such-program"])
    with pytest.raises(PolicyError):
        Sandbox(fs_readable=[*SYSTEM, "/no/such"], private_tmp=True).run(["true"])
    assert list(tmp_path.iterdir()) == []
    assert box(private_tmp=True).run(["true"]).success


def test_a_listener_that_somebody_around_holds_already_is_told(tree: Tree) -> None:
    """A process has one listener at most (seccomp(2), EBUSY); without a supervisor the inner sandbox needs none."""

    def inside() -> tuple[str, int, str, bool]:
        prctl.set_no_new_privs()
        seccomp.set_mode_filter(struct.pack("=HBBI", 0x06, 0, 0, 0x7FFF0000), FilterFlag.NEW_LISTENER)  # RET_ALLOW
        plain = box().run(["true"]).success
        try:
            box(max_processes=5).run(["true"])
        except NotifError as error:
            return error.step, error.errno, error.remedy, plain
        return "ran", 0, "", plain

    step, number, remedy, plain = in_child(inside)
    assert (step, number, plain) == ("listener", errno.EBUSY, True)
    assert "supervisor" in remedy
    assert in_child(lambda: box(max_processes=5).run(["true"]).success)


def test_no_command_is_the_callers_mistake() -> None:
    with pytest.raises(TypeError, match="a command is a list of strings, not None"):
        box().run(None)  # type: ignore[arg-type]


@pytest.mark.parametrize(("number", "remedy"), [(errno.EMFILE, "ulimit -n"), (errno.EAGAIN, "ulimit -u")])
def test_too_few_files_or_processes_are_told_with_the_limit_to_raise(number: int, remedy: str) -> None:
    sandbox = box()
    context, made = make_context(sandbox.policy, ["true"])
    assert made is not None
    plan = plan_for(sandbox.policy, context, features.host_features())
    assert remedy in str(explain_failure(SpawnError("start", "clone", number), made, plan))
    assert remedy not in str(explain_failure(SpawnError("start", "clone", errno.EPERM), made, plan))
