"""A plan, told to a person: which layer enforces what, and what does not hold."""

from __future__ import annotations

from sandlock_policy.data import landlock
from sandlock_policy.data.protections import PROTECTIONS
from sandlock_policy.plan import Plan

__all__ = ["explain", "explain_text"]


def explain(plan: Plan) -> list[tuple[str, str, str]]:
    """Return rows (what, state or layer, detail): first the protections, then the grants, then limits."""
    rows = []
    for protection in plan.protections:
        state = protection.layer if protection.state == "active" else f"{protection.state.upper()}"
        what = PROTECTIONS[protection.name][0]
        rows.append((protection.name, state, f"{what}: {protection.detail}" if protection.detail else what))
    rows += [("field", "supervisor", name) for name in plan.needs_supervisor]
    rows += _explain_grants(plan)
    rows += _explain_limits(plan)
    return rows


def explain_text(plan: Plan) -> str:
    """Return the rows of `explain` as aligned text, one line each, ending in a newline."""
    rows = explain(plan)
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    lines = [f"{what:<{widths[0]}}  {state:<{widths[1]}}  {detail}".rstrip() for what, state, detail in rows]
    return "\n".join(lines) + "\n"


def _explain_grants(plan: Plan) -> list[tuple[str, str, str]]:
    rows = []
    for path, access, required in plan.fs_rules:
        if access & landlock.FS_WRITE_FILE:
            what = "write"
        elif access & landlock.READ:
            what = "read"
        else:
            what = "link and rename"
        rows.append((what, "landlock", _printable(path) + ("" if required else " (if it is there)")))
    if plan.private_tmp:
        rows.append(("write", "landlock", "a private temporary directory, named by TMPDIR"))
    if plan.handled_net:
        for right, bit in (("connect", landlock.NET_CONNECT_TCP), ("bind", landlock.NET_BIND_TCP)):
            ports = [str(port) for port, access in plan.port_rules if access & bit]
            if not plan.handled_net & bit:
                rows.append((right, "-", "every TCP port"))
            elif ports:
                rows.append((right, "landlock", f"TCP ports {', '.join(ports)}"))
    return rows


def _explain_limits(plan: Plan) -> list[tuple[str, str, str]]:
    limits = {4: "core dumps (bytes)", 7: "open files"}  # RLIMIT_*, asm-generic/resource.h
    rows = [("limit", "rlimit", f"{limits[resource]}: {hard}") for resource, _, hard in plan.rlimits]
    if plan.affinity is not None:
        rows.append(("limit", "affinity", f"cores {', '.join(map(str, plan.affinity))}"))
    if plan.max_cpu is not None:
        rows.append(("limit", "guard", f"{plan.max_cpu} % of one core for the whole tree"))
    if plan.timeout_s is not None:
        rows.append(("limit", "guard", f"{plan.timeout_s:g} s, then SIGTERM, and SIGKILL {plan.grace_s:g} s later"))
    rows.append(("start", "-", f"in {_printable(plan.cwd)} with {', '.join(sorted(plan.env)) or 'no variables'}"))
    return rows


def _printable(text: str) -> str:
    return text if text.isprintable() else ascii(text)[1:-1]
