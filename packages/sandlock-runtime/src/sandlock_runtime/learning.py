"""From what a program was seen to use to a profile that lets it do that again, and what a person should know of it."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sandlock_cow.errors import BranchStorageError
from sandlock_cow.late import late_mark
from sandlock_cow.storage import default_storage
from sandlock_policy.model import Policy
from sandlock_policy.paths import is_below
from sandlock_policy.profile.store import profile_folder
from sandlock_runtime.images.hold import cache_folder
from sandlock_runtime.interpreters import interpreters_of
from sandlock_runtime.learned_network import network_rules
from sandlock_runtime.learned_paths import SYSTEM, Place, fold, is_broad, is_sensitive
from sandlock_runtime.registry import folders

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from sandlock_notif.observed import Observed

__all__ = ["Learned", "observing_policy", "own_folders", "propose"]

_SCRATCH = re.compile(r".*/sandlock-[0-9a-f]{16}(/|$)")
_TEMPORARY = ("/tmp", "/var/tmp", "/dev/shm")  # noqa: S108  # named, not used
_POWERFUL = re.compile(
    r"docker|podman|containerd|dbus|bus$|systemd|ssh|agent|x11-unix|wayland|libvirt|crio", re.IGNORECASE
)
_SHOWN = 5  # paths that a note names


@dataclass(slots=True)
class Learned:
    """What came of watching a program.

    Attributes:
        policy: grants what it was seen to use.
        notes: what the policy leaves out, what it includes that deserves a look; one sentence each.

    """

    policy: Policy
    notes: list[str] = field(default_factory=list)


def observing_policy(env: Mapping[str, str | None], timeout_s: float | None) -> Policy:
    """Return the policy that a program is watched under: its user's own files and network, in a sandbox all the same.

    The environment is clean and the temporary directory private, as they will be under the profile.
    """
    return Policy(
        fs_readable=("/",),
        fs_writable=("/",),
        private_tmp=True,
        net_allow=("*", "icmp://*"),
        net_allow_bind=("0-65535",),
        unix_allow=("/",),
        env=dict(env),
        timeout=timeout_s,
    )


def _branches() -> tuple[str, ...]:
    try:
        return (default_storage(),)
    except BranchStorageError:  # nobody says where the home is: there are none
        return ()


def own_folders() -> tuple[str, ...]:
    """Return where profiles, branches, images and the records of runs are kept, without links; some may be missing."""
    places = [os.path.dirname(place) for place in (profile_folder(), *_branches(), cache_folder())]
    return tuple(os.path.realpath(place) for place in (*places, *folders()))


def propose(
    seen: Observed, place: Place, env: Mapping[str, str | None], names: Mapping[str, Iterable[str]], *, exact: bool
) -> Learned:
    """Return a profile for what was seen.

    Arguments:
        seen: the record of the run.
        place: whose home, and the folders of the programs that ran.
        env: variables that the profile sets or passes on.
        names: host name -> its addresses, of the names that the program asked for or was told.
        exact: name every file, whatever their number.

    """
    notes: list[str] = []
    written, scratch = _written(seen, place, notes, exact=exact)
    readable = _readable(seen, place, written, notes, exact=exact)
    use = network_rules(seen, names)
    notes += use.notes
    policy = Policy(
        fs_readable=_spelt(readable, place, notes),
        fs_writable=_spelt(written, place, notes),
        private_tmp=scratch,
        net_allow=use.allow,
        net_allow_bind=use.bind,
        unix_allow=_spelt(_sockets(seen, notes), place, notes),
        env=dict(env),
    )
    if seen.lost:
        notes.append(f"{seen.lost} uses were too many to be kept: the profile lacks them")
    return Learned(policy, notes)


def _written(seen: Observed, place: Place, notes: list[str], *, exact: bool) -> tuple[list[str], bool]:
    """Return the write grants, and whether the private temporary directory was used."""
    paths: set[str] = set()
    compiled, lost, kept_out = False, [], []
    used = list(seen.writes) + list(seen.made)
    scratch = any(_SCRATCH.match(path) for path in used)
    for path in seen.writes:
        if not _SCRATCH.match(path) and not is_below(path, "/proc"):
            paths.add(path)
    for folder, made in seen.made.items():
        if _SCRATCH.match(folder) or any(_SCRATCH.match(f"{folder}/{name}") for name in made):
            continue
        if folder in _TEMPORARY:
            notes.append(f"it makes files in {folder} itself, not in TMPDIR: the profile lets it write all of {folder}")
            paths.add(folder)
        elif is_broad(folder, place) or folder in SYSTEM or is_sensitive(folder):
            there = [f"{folder.rstrip('/')}/{name}" for name in made if os.path.lexists(f"{folder}/{name}")]
            paths.update(there)
            lost += [f"{folder.rstrip('/')}/{name}" for name in made if not os.path.lexists(f"{folder}/{name}")]
            kept_out += there
        else:
            paths.add(folder)
    own = [path for path in paths if any(is_below(path, one) or is_below(one, path) for one in place.own)]
    paths.difference_update(own)
    _note(notes, own, "is, or holds, sandlock's own files, which say how others are confined: it is not granted")
    # Compiled modules are run by every other Python too: who may write them runs code outside of the sandbox.
    for path in [path for path in paths if "__pycache__" in path.split("/")]:
        compiled = True
        paths.discard(path)
    grants, _ = fold(paths, place, is_folder=os.path.isdir, exact=exact, programs=False)
    if compiled:
        notes.append("compiled Python modules (__pycache__) are not granted for writing: every other Python runs them")
    _note(notes, lost, "was made and removed in a folder too broad to grant")
    _note(notes, kept_out, "is granted by its name only, because its folder is too broad: it cannot be replaced")
    late = [f"{path} ({reason})" for path in grants if (reason := late_mark(os.fsencode(path.lstrip("/")), None))]
    _note(notes, late, "runs later outside the sandbox, and may be written")
    return grants, scratch


def _readable(seen: Observed, place: Place, written: list[str], notes: list[str], *, exact: bool) -> list[str]:
    used = {path for path in seen.reads if not _SCRATCH.match(path)}
    for program in seen.runs:
        used.update((program, *interpreters_of(program)))
    used = {path for path in used if not any(is_below(path, grant) for grant in written)}
    grants, left_out = fold(used, place, is_folder=os.path.isdir, exact=exact, programs=True)
    _note(notes, left_out, "was listed, and is not granted: everything below it could be read then (-r grants it)")
    _note(notes, [path for path in grants if is_sensitive(path)], "looks like a secret, and may be read")
    _note(notes, [path for path in grants if path.startswith("/dev/pts/")], "is the terminal of this one run")
    return grants


def _sockets(seen: Observed, notes: list[str]) -> list[str]:
    own = {f"{folder}/{name}" for folder, made in seen.made.items() for name in made}
    found = sorted(path for path in seen.sockets if path not in own and not _SCRATCH.match(path))
    _note(notes, [path for path in found if _POWERFUL.search(path)], "may act for the program outside the sandbox")
    return found


def _spelt(paths: Iterable[str], place: Place, notes: list[str]) -> tuple[str, ...]:
    """Return paths as a profile has them: `~` for the home, `-` before a file, which may be missing the next time."""
    spelt, odd, moved = [], [], []
    for path in paths:
        if "${" in path or not path.isprintable():
            odd.append(ascii(path))
            continue
        # What was seen had no links in it: the program has put one there since, and a grant would be of where it leads.
        if os.path.realpath(path) != path and not any(is_below(path, folder) for folder in SYSTEM):
            moved.append(path)
            continue
        below_home = place.home not in ("", "/") and path.startswith(f"{place.home}/")
        text = f"~{path[len(place.home) :]}" if below_home else path
        spelt.append(text if os.path.isdir(path) else f"-{text}")
    _note(notes, odd, "cannot be written in a profile")
    _note(notes, moved, "has become a link, or lies behind one, since it was used: it is not granted")
    return tuple(spelt)


def _note(notes: list[str], paths: list[str], said: str) -> None:
    notes += [f"{path} {said}" for path in sorted(paths)[:_SHOWN]]
    if len(paths) > _SHOWN:
        notes.append(f"and {len(paths) - _SHOWN} more, of which the same holds")
