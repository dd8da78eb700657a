"""From the files that a program used to the grants of a profile: few enough to read, no wider than needed. Pure.

A grant covers everything below it, so a folder is granted only where the program listed it, made names in it, or used
many of its files; and never one that holds more than the program's own business (`is_broad`), nor one that keeps
secrets (`is_sensitive`): there each file is granted by its name.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING

from sandlock_policy.paths import is_below

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

__all__ = ["SYSTEM", "Place", "fold", "is_broad", "is_sensitive"]

SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
"""Folders that hold programs and libraries, and can be read by everyone."""
_MANY = 8  # files of one folder that are named one by one
_BROAD = frozenset(
    "/ /boot /dev /etc /home /media /mnt /opt /proc /root /run /srv /sys /tmp /var /var/lib /var/tmp /var/run".split()
)
_SECRET_PARTS = frozenset(
    ".ssh .gnupg .aws .azure .kube .docker .netrc .pgpass .password-store .mozilla .thunderbird .vault-token gcloud "
    "keyrings google-chrome chromium .git-credentials .npmrc .pypirc shadow gshadow sudoers ssl-private private "
    ".bash_history .zsh_history .python_history .env".split()
)
_SECRET_NAME = re.compile(
    r"(id_(rsa|dsa|ecdsa|ed25519)\w*|.*\.(pem|key|p12|pfx|kdbx|jks)|credentials.*)", re.IGNORECASE
)
_CERTIFICATES = ("/etc/ssl/certs", "/etc/pki", "/etc/ca-certificates", "/usr")  # everyone's
_PROCESS = re.compile(r"/proc/(\d+|self|thread-self)(/|$)")
_STORE = re.compile(r"(/(?:nix|gnu)/store/[^/]+)")


class Place:
    """Where the caller is at home, for what is too broad to grant.

    Attributes:
        home: the home directory, without links, or "".
        known: folders of the programs that ran, which may be granted whole.
        own: folders with sandlock's own profiles, records and branches, which nothing may write in.

    """

    def __init__(self, home: str, known: Sequence[str] = (), own: Sequence[str] = ()) -> None:
        self.home = home
        self.known = tuple(known)
        self.own = tuple(own)


def is_broad(path: str, place: Place) -> bool:
    """Tell whether a folder holds more than one program's business: the home, what is above it, and the like."""
    above = (place.home, *place.own)
    return (
        path in _BROAD or any(folder and is_below(folder, path) for folder in above) or path == f"{place.home}/.config"
    )


def is_sensitive(path: str) -> bool:
    """Tell whether a file looks like one that keeps secrets."""
    if any(is_below(path, folder) for folder in _CERTIFICATES):
        return False
    parts = path.split("/")
    return bool(_SECRET_PARTS & set(parts)) or _SECRET_NAME.fullmatch(parts[-1]) is not None


def fold(
    paths: Iterable[str],
    place: Place,
    *,
    is_folder: Callable[[str], bool],
    exact: bool,
    programs: bool,
) -> tuple[list[str], list[str]]:
    """Return (grants, folders that were left out because a grant of them would be too broad), both sorted.

    Arguments:
        paths: absolute, without links; folders among them were listed, or written in.
        place: whose home it is.
        is_folder: tells what is a folder.
        exact: name every file, whatever their number.
        programs: let the folder that programs and libraries are in stand for each of them.

    """
    granted: set[str] = set()
    left_out: set[str] = set()
    for path in paths:
        whole = _whole(path, place, exact=exact or not programs)
        if whole:
            granted.add(whole)
        elif is_folder(path) and (is_broad(path, place) or is_sensitive(path)):
            left_out.add(path)
        else:
            granted.add(path)
    if not exact:
        granted = _gathered(granted, place)
    kept: list[str] = []
    for path in sorted(granted, key=lambda path: path.split("/")):  # a folder stands before all that is below it
        if not kept or not is_below(path, kept[-1]):
            kept.append(path)
    return kept, sorted(left_out)


def _whole(path: str, place: Place, *, exact: bool) -> str:
    """Return the folder that stands for `path` because of what it is, or ""."""
    if _PROCESS.match(path) or path == "/proc":
        return "/proc"  # the sandbox's own, and the number of a process is another the next time
    if exact:
        return ""
    for folder in (*place.known, *SYSTEM):
        if is_below(path, folder):
            return folder
    store = _STORE.match(path)
    return store[1] if store else ""


def _gathered(granted: set[str], place: Place) -> set[str]:
    """Put a folder in the place of many files of it, from the deepest up."""
    while True:
        counts = Counter(path.rpartition("/")[0] for path in granted if not is_sensitive(path))
        crowded = {
            folder
            for folder, count in counts.items()
            if count > _MANY and folder and not is_broad(folder, place) and not folder.startswith(("/proc", "/sys"))
        }
        if not crowded:
            return granted
        deepest = max(crowded, key=lambda folder: folder.count("/"))
        granted = {path for path in granted if path.rpartition("/")[0] != deepest or is_sensitive(path)} | {deepest}
