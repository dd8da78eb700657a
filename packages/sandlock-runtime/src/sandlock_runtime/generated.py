"""The content of files that a run sees in place of the host's."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from sandlock_policy.view import HOSTNAME, HOSTS, PROCESSOR_FILES, RESOLVER
from sandlock_runtime.processors import processor_file

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sandlock_policy import Policy
    from sandlock_policy.view import View
    from sandlock_runtime.web import Web

__all__ = ["Generated"]


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

    def is_shown(self, path: str) -> bool:
        """Tell whether the file at `path`, inside, is there, or has to be."""
        return path in self._policy.http_inject_ca or os.path.exists((self._view.root or "") + path)

    def content(self, path: str) -> bytes:
        """Return what the file at `path`, inside, says.

        Raises:
            PolicyError: a bundle cannot have the CA's certificate.

        """
        if path in PROCESSOR_FILES:
            return processor_file(path, self._policy.num_cpus or 1)
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
