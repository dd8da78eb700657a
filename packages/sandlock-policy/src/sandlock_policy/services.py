"""Unix sockets whose servers do outside what they are asked: whoever reaches one is hardly confined any more."""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["service_at", "services_of"]

# What a path ends with or holds, and whose socket it is then.
_ENDS = (
    ("/docker.sock", "Docker"), ("/podman.sock", "Podman"), ("/containerd.sock", "containerd"), ("/crio.sock", "CRI-O"),
    ("/bus", "D-Bus"), ("/system_bus_socket", "D-Bus"),
    ("/keyring/ssh", "ssh-agent"), ("/S.gpg-agent.ssh", "ssh-agent"),
)  # fmt: skip
_PARTS = (
    ("/systemd/", "systemd"), ("/.X11-unix/", "X11"), ("/ssh-agent", "ssh-agent"), ("SSH_AUTH_SOCK", "ssh-agent"),
)  # fmt: skip


def service_at(path: str) -> str | None:
    """Return whose socket `path` is by its name, or None where the name says nothing."""
    for end, service in _ENDS:
        if path.endswith(end):
            return service
    for part, service in _PARTS:
        if part in path:
            return service
    return "ssh-agent" if "/ssh-" in path and "/agent." in path else None


def services_of(paths: Iterable[str]) -> str:
    """Return a sentence that names the services behind `paths`, "" where there are none that are known."""
    found = [f"{service} ({path})" for path in paths if (service := service_at(path))]
    return f"what these do outside for whoever asks, the program can have done: {', '.join(found)}" if found else ""
