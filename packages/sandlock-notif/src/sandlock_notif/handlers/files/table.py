"""The table of file calls: which are served, for what a view needs."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING

from sandlock_notif.dispatch import HandlerTable
from sandlock_notif.errors import NotifError
from sandlock_notif.handlers.files.attributes import Attributes
from sandlock_notif.handlers.files.by_fd import ByFd
from sandlock_notif.handlers.files.cwd import WorkingDirectory
from sandlock_notif.handlers.files.inside import Inside
from sandlock_notif.handlers.files.listing import Listing
from sandlock_notif.handlers.files.looking import Looking
from sandlock_notif.handlers.files.naming import Naming
from sandlock_notif.handlers.files.opening import Opening
from sandlock_notif.handlers.files.running import Running
from sandlock_notif.handlers.files.serving import Files
from sandlock_notif.handlers.files.xattrs import Xattrs
from sandlock_notif.handlers.own_domains import own_domain_traps

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from sandlock_notif.dispatch import Services, Trap
    from sandlock_notif.fs.view import View
    from sandlock_notif.request import Request
    from sandlock_sys.shortcut import Shortcut

__all__ = ["FilesTable"]


class FilesTable(HandlerTable):
    """Serves file calls against a view; nothing is trapped for a view that is the kernel's own.

    Arguments:
        view: which the table owns from now on.
        ordered: list every directory in the order of the names' bytes.
        listed: serve listings where the view differs from the kernel's names. Only for a view that hides nothing may
            it be False.

    """

    name = "files"

    def __init__(self, view: View, *, ordered: bool = False, listed: bool = True) -> None:
        self.view = view
        self.files = Files(view)
        self._inside = Inside(self.files)
        view.copied = self._inside.name_of
        groups = (
            *(group(self.files) for group in (Opening, Looking, Naming, Attributes, Xattrs)),
            *(group(self.files, self._inside) for group in (WorkingDirectory, Running)),
        )
        self._groups = groups
        self._listed = listed and (view.filters or ordered)
        self._listing = Listing(self.files, ordered=ordered)

    def traps(self) -> Sequence[Trap]:
        """Return every call by path, or none; and the listing of directories where names differ."""
        calls: list[Trap] = []
        if self.view.needed:
            calls += [trap for group in self._groups for trap in group.traps()]
            calls += own_domain_traps()
        if self.view.has_cow or self.view.moves:
            calls += ByFd(self.files).traps()
        if self.view.has_cow:
            from sandlock_notif.handlers.files.held import Held  # lazy: with a package that only branches need

            calls += Held(self.files).traps()
        return [*calls, *self._listing.traps()] if self._listed else calls

    def attach(self, services: Services) -> None:
        """Take the root, and look at what is denied.

        Raises:
            NotifError, OSError: something cannot be looked at; then nothing may run.

        """
        self.view.attach(services)
        self.files.attach()

    def shorten(self, shortcut: Shortcut) -> None:
        """Have what the view does not touch served without us."""
        self.view.shorten(shortcut)
        self.files.shortcut = shortcut
        if self.view.has_cow and not shortcut.opens:
            with suppress(NotifError):  # all are blocked, or this is the end
                self.files.lend()

    def look_at_images(self, look: Callable[[Request, Sequence[bytes]], Callable[[int], None]]) -> None:
        """Let `look` (`ExecTable.look_at`) judge and change the programs that are run by the view."""
        self._inside.image_look = look

    def controls(self) -> Mapping[str, Callable[..., None]]:
        """Let paths be denied while the program runs, and that be undone."""
        denials = self.view.denials
        return {
            "deny_path": lambda path: denials.deny(os.fsencode(path)),
            "allow_path": lambda path: denials.allow(os.fsencode(path)),
        }

    async def close(self) -> None:
        """Close every fd."""
        await self._inside.close()
        self.view.close()
