"""Landlock: an unprivileged process gives up rights to files, ports and other processes (landlock(7), 5.13).

The rights are plain integers here; `sandlock_sys.constants.landlock` names them.
"""

from __future__ import annotations

from errno import ENOSYS, EOPNOTSUPP, EPERM
from os import fsdecode
from struct import pack

from sandlock_sys._call import check
from sandlock_sys._ffi import ffi, lib
from sandlock_sys.errors import SyscallError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "OPTIONAL",
    "PathRules",
    "abi_version",
    "add_path_fd",
    "add_paths",
    "add_port",
    "create_ruleset",
    "errata",
    "make_ruleset",
    "restrict_self",
    "usable",
]

OPTIONAL = 1 << 63  # SL_LANDLOCK_OPTIONAL in _csrc/landlock.h

_QUERY_VERSION = 1  # LANDLOCK_CREATE_RULESET_VERSION, linux/landlock.h, 5.13
_QUERY_ERRATA = 2  # LANDLOCK_CREATE_RULESET_ERRATA, linux/landlock.h, 6.15
_STEPS = ("", "open", "fstat", "landlock_add_rule", "landlock_create_ruleset")  # SL_LANDLOCK_STEP_* in _csrc/landlock.h


def abi_version() -> int:
    """Return the version of the Landlock interface, or 0 where there is none.

    0 means: not built in (ENOSYS), not enabled at boot (EOPNOTSUPP), or refused by an outer seccomp filter, for which
    container profiles answer EPERM. The number is a claim of the kernel; `sandlock_sys.probe` tries every right.
    """
    result = lib.sl_landlock_query(_QUERY_VERSION)
    return 0 if -result in (ENOSYS, EOPNOTSUPP, EPERM) else check("landlock_create_ruleset", result)


def errata() -> int:
    """Return the mask of fixed Landlock bugs, bit N-1 for erratum N; 0 where the kernel cannot tell (before 6.15)."""
    result = lib.sl_landlock_query(_QUERY_ERRATA)
    return max(result, 0)


def usable() -> tuple[int, int, int]:
    """Return the masks of file rights, network rights and scopes that this kernel takes, found by trying each one.

    Nothing is restricted by it; it costs some 60 microseconds. All are 0 where `abi_version` is.

    Raises:
        SyscallError: "/" cannot be opened, for want of file descriptors for example.

    """
    masks = ffi.new("struct sl_landlock_ruleset *")
    check("open", lib.sl_landlock_usable(masks), "/")
    return masks.handled_fs, masks.handled_net, masks.scoped


def create_ruleset(handled_fs: int, handled_net: int = 0, scoped: int = 0) -> int:
    """Return a new ruleset's fd, close-on-exec, that the caller owns.

    Only what is handled is denied by default; rules then give parts of it back. The attribute structure is passed in
    the smallest size that carries the non-zero masks, so an old kernel sees the structure it knows.

    Arguments:
        handled_fs: LANDLOCK_ACCESS_FS_* bits.
        handled_net: LANDLOCK_ACCESS_NET_* bits (6.7).
        scoped: LANDLOCK_SCOPE_* bits (6.12).

    Raises:
        SyscallError: EINVAL or E2BIG for a bit that this kernel does not know, ENOMSG when all masks are 0.

    """
    result = lib.sl_landlock_create_ruleset(handled_fs, handled_net, scoped)
    if result < 0:
        raise SyscallError(
            "landlock_create_ruleset", -result, f"fs {handled_fs:#x}, net {handled_net:#x}, scoped {scoped:#x}"
        )
    return result


def add_paths(ruleset: int, rules: Sequence[tuple[bytes, int]]) -> None:
    """Grant each `(path, access)`: `access` to the file, or to the directory and everything beneath it.

    One C call opens every path once (O_PATH | O_CLOEXEC, symbolic links followed, relative to the cwd) and closes it
    again. For a path that is not a directory, the rights that only directories have are left out; where nothing
    remains the kernel answers ENOMSG. With `OPTIONAL` in `access`, a path that is not there (ENOENT, ENOTDIR) or cannot
    be reached (EACCES) is left out.

    Raises:
        SyscallError: the first rule that failed; `.call` is the step (open, landlock_add_rule), `.detail` its path.
            The rules before it have been added.
        ValueError: a path is empty or has a NUL in it.

    """
    packed = PathRules(rules)
    failure = ffi.new("struct sl_landlock_failure *")
    result = lib.sl_landlock_add_paths(ruleset, packed.block, packed.accesses, packed.count, failure)
    if result < 0:
        raise SyscallError(_STEPS[failure.step], -result, fsdecode(packed.path(failure.index)))


class PathRules:
    """Rules for paths as C takes them, for rulesets that are made again and again; they cannot change.

    Raises ValueError for a path that is empty or has a NUL byte in it.
    """

    __slots__ = ("accesses", "block", "count")

    def __init__(self, rules: Sequence[tuple[bytes, int]]) -> None:
        paths = [path for path, _ in rules]
        # One block of strings that end with NUL: one inside a path would shift all later paths to others' rights.
        self.block = b"\0".join(paths)
        self.count = len(paths)
        if paths and (self.block.count(b"\0") != len(paths) - 1 or b"" in paths):
            raise ValueError(f"a path is empty or has a NUL byte in it: {paths!r}")
        self.accesses = pack(f"={len(rules)}Q", *[access for _, access in rules])

    def with_rule(self, path: bytes, access: int) -> PathRules:
        """Return these rules and one more."""
        one = PathRules([(path, access)])
        more = PathRules(())
        more.block = self.block + b"\0" + one.block if self.count else one.block
        more.accesses = self.accesses + one.accesses
        more.count = self.count + 1
        return more

    def path(self, index: int) -> bytes:
        """Return the path of rule `index`, or b"" where there is none."""
        return self.block.split(b"\0")[index] if index < self.count else b""


def make_ruleset(handled_fs: int, handled_net: int, scoped: int, rules: PathRules) -> int:
    """Return the fd of a new ruleset with `rules`, as `create_ruleset` and `add_paths` make it, in one call.

    Raises:
        SyscallError: as those; `.call` tells the step, and `.detail` the path. Nothing is left open.

    """
    failure = ffi.new("struct sl_landlock_failure *")
    result = lib.sl_landlock_make_ruleset(
        handled_fs, handled_net, scoped, rules.block, rules.accesses, rules.count, failure
    )
    if result < 0:
        step = _STEPS[failure.step]
        if step == "landlock_create_ruleset":
            raise SyscallError(step, -result, f"fs {handled_fs:#x}, net {handled_net:#x}, scoped {scoped:#x}")
        raise SyscallError(step, -result, fsdecode(rules.path(failure.index)))
    return result


def add_path_fd(ruleset: int, path_fd: int, access: int) -> None:
    """Grant `access` to what `path_fd` (O_PATH is enough) refers to; the fd stays the caller's.

    Raises:
        SyscallError: EINVAL for an unhandled right or a directory right on a file, EBADFD for an fd without a path
            (a pipe, a socket, a memfd), ENOMSG for no access at all.

    """
    check("landlock_add_rule", lib.sl_landlock_add_path_fd(ruleset, path_fd, access), f"fd {path_fd}")


def add_port(ruleset: int, port: int, access: int) -> None:
    """Grant LANDLOCK_ACCESS_NET_* `access` for TCP `port`; port 0 to bind means any port the kernel chooses (6.7)."""
    check("landlock_add_rule", lib.sl_landlock_add_port(ruleset, port, access), f"port {port}")


def restrict_self(ruleset: int, flags: int = 0) -> None:
    """Put the calling thread, and all it starts from now on, into a new domain of `ruleset`; there is no way back.

    Other threads of the process stay as they are, unless LANDLOCK_RESTRICT_SELF_TSYNC is in `flags` (7.0).

    Raises:
        SyscallError: EPERM without no_new_privs or CAP_SYS_ADMIN, E2BIG after 16 nested domains, EINVAL for a flag
            that this kernel does not know.

    """
    check("landlock_restrict_self", lib.sl_landlock_restrict_self(ruleset, flags), f"fd {ruleset}, flags {flags:#x}")
