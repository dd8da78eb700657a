"""The audit: what is in it, that nothing is lost or leaked, and that the program cannot reach it."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import pytest

from sandlock_notif import Event
from sandlock_policy import Policy, PolicyError, preset
from sandlock_runtime import ConfinementError, Sandbox, host_features
from sandlock_runtime.audit import AuditLog, refuse_tampering, write_grants
from sandlock_runtime.prepare import make_context, plan_for

if TYPE_CHECKING:
    from pathlib import Path

    from sandlock_policy import Plan


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="ascii").splitlines()]


def plan(policy: Policy) -> Plan:
    context, _ = make_context(policy, None)
    return plan_for(policy, context, host_features())


def test_the_file_is_private_and_each_event_is_one_line_without_loss(tmp_path: Path) -> None:
    path = tmp_path / "audit"
    log = AuditLog(path, Policy())
    log(Event("denied", "openat", 7, 13, "a\nb", {"path": b"/x\xff\n", "argv": ("a", "--token", "t")}))
    log.close()
    (line,) = lines(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert (line["schema"], line["event"], line["syscall"], line["tid"], line["error"]) == (
        1, "denied", "openat", 7, "EACCES",
    )  # fmt: skip
    assert os.fsencode(line["detail"]["path"]) == b"/x\xff\n"
    assert line["detail"]["argv"] == ["a", "--token", "***"]
    assert line["time"].endswith("Z")


def test_it_is_appended_to(tmp_path: Path) -> None:
    path = tmp_path / "audit"
    for _ in range(2):
        log = AuditLog(path, Policy())
        log.start(["true"])
        log.fail(ConfinementError("x", "y"))
    assert [line["event"] for line in lines(path)] == ["start", "failed", "start", "failed"]


def make_public(path: Path) -> None:
    path.write_text("")
    path.chmod(0o644)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (make_public, "read by others"),
        (lambda path: os.mkfifo(path, 0o600), "no such device"),
        (lambda path: path.mkdir(), "directory"),
        (lambda path: path.symlink_to("elsewhere"), "symbolic links"),
    ],
)
def test_what_is_no_private_file_of_ours_is_refused(tmp_path: Path, make: Any, said: str) -> None:
    path = tmp_path / "audit"
    make(path)
    with pytest.raises(ConfinementError, match=said):
        AuditLog(path, Policy())
    assert not (tmp_path / "elsewhere").exists()


def test_a_pipe_with_a_reader_is_no_file_either(tmp_path: Path) -> None:
    path = tmp_path / "audit"
    os.mkfifo(path, 0o600)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        with pytest.raises(ConfinementError, match="no regular file"):
            AuditLog(path, Policy())
    finally:
        os.close(reader)


def test_past_its_bound_events_are_counted_and_the_end_is_still_told(tmp_path: Path) -> None:
    path = tmp_path / "audit"
    log = AuditLog(path, Policy(), max_bytes=1000)
    for number in range(50):
        log(Event("denied", "openat", number))
    log.fail(ConfinementError("x", "y"))
    told = lines(path)
    assert told[-1]["event"] == "failed"
    assert 0 < len(told) < 10
    assert log.lost == 50 - (len(told) - 1)
    log(Event("denied"))
    assert len(lines(path)) == len(told), "what comes late is counted, not written"


@pytest.mark.needs("landlock", level=1)
def test_a_sandbox_tells_every_event_and_keeps_counting(tmp_path: Path) -> None:
    path = tmp_path / "audit"
    policy = preset("default").replace(max_processes=1)
    log = AuditLog(path, policy)
    events: list[Event] = []

    def audit(event: Event) -> None:
        events.append(event)
        log(event)

    result = Sandbox(policy, audit=audit).run(["sh", "-c", "(echo x) || exit 3"])
    log.end(result)
    assert not result.success
    told = lines(path)
    assert [line["event"] for line in told] == ["denied"] * len(events) + ["end"]
    assert len(events) == sum(denial.count for denial in result.denials) == told[-1]["denials"] > 0


@pytest.mark.needs("landlock", level=1)
def test_a_listener_that_raises_changes_no_verdict_and_no_count() -> None:
    def audit(event: Event) -> None:
        raise RuntimeError(event.kind)

    result = Sandbox(preset("default"), max_processes=1, audit=audit).run(["sh", "-c", "(echo x) || exit 3"])
    assert result.stdout == b""
    assert result.denials


@pytest.mark.needs("landlock", level=1)
def test_a_listener_alone_makes_no_supervisor() -> None:
    result = Sandbox(preset("default"), audit=print).run(["true"])
    assert result.success
    assert result.usage.notifications == 0


def test_a_record_that_the_program_could_write_is_refused(tmp_path: Path) -> None:
    for name in ("in", "out", "tree"):
        (tmp_path / name).mkdir()
    (tmp_path / "link").symlink_to("in")
    granted = plan(Policy(fs_writable=[str(tmp_path / "in")]))
    for path in ("in/audit", "link/audit", "link/../in/audit"):
        with pytest.raises(PolicyError, match="its own record"):
            refuse_tampering(granted, str(tmp_path / path))
    refuse_tampering(granted, str(tmp_path / "out/audit"))


@pytest.mark.needs("mount_namespace")
def test_write_grants_are_those_of_the_host_and_not_what_a_branch_covers(tmp_path: Path) -> None:
    tree, other = tmp_path / "tree", tmp_path / "other"
    (tree / "sub").mkdir(parents=True)
    other.mkdir()
    grants = write_grants(plan(Policy(fs_writable=[str(tree / "sub"), str(other)], workdir=str(tree))))
    assert grants == [str(other)]
    mounted = plan(Policy(fs_mount={str(tree): str(other)}, fs_mount_ro={str(tree / "sub"): "/usr"}))
    assert write_grants(mounted) == [str(other)]
