"""The content of files that a run sees in place of the host's."""

from __future__ import annotations

import os

from sandlock_policy.view import HOSTNAME, HOSTS, LOADAVG, MASKED, MEMINFO, PROCESSOR_FILES, RESOLVER
from sandlock_runtime.processors import boot_s, processor_file, shown_processors

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sandlock_policy import Policy
    from sandlock_policy.view import View
    from sandlock_runtime.web import Web

__all__ = ["Generated"]

_MASKED = {path: (os.fsencode(path), b"") for path in MASKED}


class Generated:
    """Makes the files of one run.

    Arguments:
        policy, view: of the run.
        names: the addresses of the policy's host names.
        web: the HTTP proxy, whose CA goes into bundles.

    """

    def __init__(self, policy: Policy, view: View, names: Mapping[str, Sequence[str]], web: Web | None) -> None:
        self._policy = policy
        self._view = view
        self._names = names
        self._web = web

    def overlays(self) -> list[tuple[bytes, bytes]]:
        """Return (path inside, content) of the files that are there, or have to be.

        Raises:
            PolicyError: a bundle cannot have the CA's certificate.

        """
        view = self._view
        root = view.root or ""
        # A /proc of its own has what every other one has.
        own_proc = "" if view.pid_namespace and os.path.isdir(root + "/proc") else root
        shown = []
        for path in view.files:
            masked = _MASKED.get(path)
            if masked is not None:
                if os.access(own_proc + path, os.R_OK):  # a mount costs some 30 us, and who cannot read needs none
                    shown.append(masked)
            elif path in self._policy.http_inject_ca or os.path.exists(
                (own_proc if path.startswith("/proc/") else root) + path
            ):
                shown.append((os.fsencode(path), self.content(path)))
        return shown

    def content(self, path: str) -> bytes:
        """Return what the file at `path`, inside, says.

        Raises:
            PolicyError: a bundle cannot have the CA's certificate.

        """
        if path in PROCESSOR_FILES:
            return processor_file(path, shown_processors(self._policy), boot_s(self._policy))
        if path == LOADAVG:
            return b"0.00 0.00 0.00 1/1 2\n"
        if path == MEMINFO:
            from sandlock_notif.content.machine import meminfo_text  # lazy: only max_memory has another one

            assert self._policy.max_memory is not None  # noqa: S101  # the view names the file only then
            there = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
            return meminfo_text(min(self._policy.max_memory, there), 0)
        name = os.fsencode(self._view.hostname or "")
        if path == HOSTNAME:
            return name + b"\n"
        if path in (HOSTS, RESOLVER):
            from sandlock_notif.content.hosts import hosts_file, resolver_file  # lazy: only network rules have names

            if path == RESOLVER:
                return resolver_file(self._policy)
            return hosts_file(self._policy, self._names) + (b"127.0.1.1\t%s\n" % name if name else b"")
        assert self._web is not None  # noqa: S101  # what remains are bundles for its CA
        return self._web.bundle(path, self._view.root)
