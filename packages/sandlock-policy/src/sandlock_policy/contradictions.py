"""Pairs of fields that contradict each other."""

from __future__ import annotations

from sandlock_policy.errors import Problem
from sandlock_policy.fields import FIELD_BY_NAME

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

__all__ = ["find_contradictions"]


def find_contradictions(values: Mapping[str, Any]) -> list[Problem]:
    """Return a problem for each pair in `values`, the canonical values of the fields that are set."""
    problems: list[Problem] = []

    def conflict(name: str, reason: str, remedy: str) -> None:
        problems.append(Problem(FIELD_BY_NAME[name].path, repr(values[name]), reason, remedy))

    def is_set(name: str) -> bool:
        return bool(name in values and values[name] != FIELD_BY_NAME[name].default)

    if not is_set("workdir") and not is_set("image"):
        for name in ("max_disk", "fs_storage", "on_exit", "on_error"):
            if is_set(name):
                conflict(name, f"{name} is about the branch of workdir, and there is no workdir", "set workdir as well")
    if is_set("chroot") and is_set("image"):
        conflict("chroot", "chroot and image are both the root", "keep one")
    if is_set("workdir") and is_set("image"):
        conflict("workdir", "an image is its own copy-on-write folder", "show the folder inside with fs_mount")
    for name in ("on_exit", "on_error"):
        if is_set("image") and values.get(name) in ("keep", "defer") + (("commit",) if name == "on_error" else ()):
            conflict(name, "writes to an image are discarded", "show a folder with fs_mount for what is to stay")
    for one, other in (("http_ca", "http_key"), ("http_key", "http_ca")):
        if is_set(one) and not is_set(other):
            conflict(one, f"{one} is of no use without {other}", f"set {other} as well")
    if is_set("http_ca_out") and values["http_ca_out"] in {
        path.removeprefix("-") for path in values.get("http_inject_ca", ())
    }:
        conflict("http_ca_out", "it would be written over the bundle of http_inject_ca", "name a new file")
    if is_set("net_refresh") and not is_set("net_allow"):
        conflict("net_refresh", "there is no allowed name to resolve again", "set net_allow as well")
    if is_set("max_disk") and values.get("namespaces") == "require":
        conflict("max_disk", "bytes are counted where the supervisor shows the branch", 'allow namespaces="auto"')
    if values.get("namespaces") == "off":
        for name in ("uid", "gid"):
            if is_set(name):
                conflict(name, f"{name} is mapped in a user namespace, and namespaces are off", "drop one of them")
    if not is_set("private_tmp"):
        for name, value in values.get("env", {}).items():
            if value is not None and value.startswith("${TMPDIR}"):
                reason = f"{name} stands for the private temporary directory, and there is none"
                remedy = f"set private_tmp as well, or give {name} another value"
                problems.append(Problem(f"program.env.{name}", value, reason, remedy))
    for name, source in values.get("credentials", {}).items():
        variable = source.removeprefix("env:")
        if variable != source and variable in values.get("env", {}):
            reason = f"the program would see the credential {name} in {variable}"
            problems.append(Problem(f"program.env.{variable}", "", reason, f"leave {variable} out of env"))
    _find_overlaps(values, problems)
    _find_unknown_credentials(values, problems)
    return problems


def _find_overlaps(values: Mapping[str, Any], problems: list[Problem]) -> None:
    """Add what is named by two fields that mean the opposite."""
    pairs = (
        ("fs_denied", "fs_readable", "both denied and granted"),
        ("fs_denied", "fs_writable", "both denied and granted"),
        ("extra_deny_syscalls", "extra_allow_syscalls", "both denied and allowed"),
        ("disable", "allow_degraded", "both switched off and allowed to be weaker"),
        ("fs_denied", "fs_mount", "both denied and mounted"),
        ("fs_denied", "fs_mount_ro", "both denied and mounted"),
        ("fs_mount", "fs_mount_ro", "mounted twice"),
    )
    for one, other, fault in pairs:
        second = {str(name).rstrip("/") for name in values.get(other, ())}
        for index, name in enumerate(values.get(one, ())):
            if str(name).rstrip("/") in second:
                path = FIELD_BY_NAME[one].path
                problems.append(Problem(f"{path}[{index}]", str(name), f"{name} is {fault}", "keep one of them"))


def _find_unknown_credentials(values: Mapping[str, Any], problems: list[Problem]) -> None:
    """Add the rules that attach a credential which is not declared."""
    rules = values.get("http_auth", ())
    if not rules:
        return
    from sandlock_policy.rules.credentials import parse_auth  # lazy: few policies have credentials

    known = values.get("credentials", {})
    for index, rule in enumerate(rules):
        if rule is not None and (name := parse_auth(rule).credential) not in known:
            remedy = f"declare it: {name} = 'env:VARIABLE' in http.credentials (--credential {name}=env:VARIABLE)"
            problems.append(Problem(f"http.auth[{index}]", rule, f"there is no credential {name!r}", remedy))
