"""What a thread says about itself: prctl(2), capget(2), capset(2) and personality(2), one typed function each."""

from __future__ import annotations

from sandlock_sys._buffers import writable
from sandlock_sys._call import check
from sandlock_sys._ffi import ffi, lib

__all__ = [
    "clear_ambient",
    "drop_bounding",
    "get_capabilities",
    "get_child_subreaper",
    "get_dumpable",
    "get_name",
    "get_no_new_privs",
    "get_parent_death_signal",
    "get_personality",
    "get_thp_disable",
    "get_tsc",
    "has_bounding",
    "set_capabilities",
    "set_child_subreaper",
    "set_dumpable",
    "set_name",
    "set_no_new_privs",
    "set_parent_death_signal",
    "set_personality",
    "set_thp_disable",
    "set_tsc",
]

# Options of prctl(2), linux/prctl.h
_SET_PDEATHSIG = 1  # 2.1.57
_GET_PDEATHSIG = 2  # 2.3.15
_GET_DUMPABLE = 3  # 2.3.20
_SET_DUMPABLE = 4  # 2.3.20
_SET_NAME = 15  # 2.6.9
_GET_NAME = 16  # 2.6.11
_CAPBSET_READ = 23  # 2.6.25
_CAPBSET_DROP = 24  # 2.6.25
_GET_TSC = 25  # 2.6.26
_SET_TSC = 26  # 2.6.26
_SET_CHILD_SUBREAPER = 36  # 3.4
_GET_CHILD_SUBREAPER = 37  # 3.4
_SET_NO_NEW_PRIVS = 38  # 3.5
_GET_NO_NEW_PRIVS = 39  # 3.5
_SET_THP_DISABLE = 41  # 3.15
_GET_THP_DISABLE = 42  # 3.15
_CAP_AMBIENT = 47  # 4.3
_CAP_AMBIENT_CLEAR_ALL = 4  # 4.3

_QUERY_PERSONALITY = 0xFFFF_FFFF  # personality(2)


def _prctl(name: str, option: int, a: int = 0, b: int = 0) -> int:
    return check(f"prctl {name}", lib.sl_prctl(option, a, b, 0, 0), str(a))


def _prctl_int(name: str, option: int) -> int:
    # These options write an int through their argument.
    memory = bytearray(4)
    check(f"prctl {name}", lib.sl_prctl_buffer(option, writable(memory)))
    return int.from_bytes(memory, "little")


def set_no_new_privs() -> None:
    """Give up setuid, setgid and file capabilities for this thread and all it starts; there is no way back (3.5)."""
    _prctl("PR_SET_NO_NEW_PRIVS", _SET_NO_NEW_PRIVS, 1)


def get_no_new_privs() -> bool:
    """Tell whether this thread has given up gaining privileges (3.5)."""
    return bool(_prctl("PR_GET_NO_NEW_PRIVS", _GET_NO_NEW_PRIVS))


def set_dumpable(value: int) -> None:
    """Set whether others of this user may ptrace this process and own its /proc files: 1 yes, 0 no."""
    _prctl("PR_SET_DUMPABLE", _SET_DUMPABLE, value)


def get_dumpable() -> int:
    """Return 0, 1, or 2 (readable by root only; set by the kernel alone)."""
    return _prctl("PR_GET_DUMPABLE", _GET_DUMPABLE)


def set_parent_death_signal(signal: int) -> None:
    """Get `signal` when the *thread* that created this process ends; 0 for none. Cleared in children by fork."""
    _prctl("PR_SET_PDEATHSIG", _SET_PDEATHSIG, signal)


def get_parent_death_signal() -> int:
    """Return the signal set by `set_parent_death_signal`, or 0."""
    return _prctl_int("PR_GET_PDEATHSIG", _GET_PDEATHSIG)


def set_child_subreaper(enable: bool) -> None:
    """Become, or stop being, the parent of descendants whose own parent ended (3.4)."""
    _prctl("PR_SET_CHILD_SUBREAPER", _SET_CHILD_SUBREAPER, int(enable))


def get_child_subreaper() -> bool:
    """Tell whether this process is a child subreaper (3.4)."""
    return bool(_prctl_int("PR_GET_CHILD_SUBREAPER", _GET_CHILD_SUBREAPER))


def set_name(name: bytes) -> None:
    """Name this thread; the kernel keeps 15 bytes.

    Raises:
        ValueError: the name is longer, or has a NUL in it.

    """
    if len(name) > 15 or b"\0" in name:
        raise ValueError(f"a thread's name has at most 15 bytes and no NUL: {name!r}")
    check("prctl PR_SET_NAME", lib.sl_prctl_buffer(_SET_NAME, writable(bytearray(name.ljust(16, b"\0")))))


def get_name() -> bytes:
    """Return the name of this thread."""
    memory = bytearray(16)
    check("prctl PR_GET_NAME", lib.sl_prctl_buffer(_GET_NAME, writable(memory)))
    return bytes(memory).split(b"\0", 1)[0]


def set_thp_disable(disable: bool) -> None:
    """Turn transparent huge pages off, or on again, for this process and its children, across exec (3.15)."""
    _prctl("PR_SET_THP_DISABLE", _SET_THP_DISABLE, int(disable))


def get_thp_disable() -> bool:
    """Tell whether transparent huge pages are off for this process (3.15)."""
    return bool(_prctl("PR_GET_THP_DISABLE", _GET_THP_DISABLE))


def set_tsc(mode: int) -> None:
    """Set PR_TSC_ENABLE or PR_TSC_SIGSEGV: whether this thread may read the time stamp counter (x86; else EINVAL)."""
    _prctl("PR_SET_TSC", _SET_TSC, mode)


def get_tsc() -> int:
    """Return PR_TSC_ENABLE or PR_TSC_SIGSEGV (x86; elsewhere EINVAL)."""
    return _prctl_int("PR_GET_TSC", _GET_TSC)


def has_bounding(capability: int) -> bool:
    """Tell whether CAP_* number `capability` is in the bounding set; EINVAL for one that this kernel lacks."""
    return bool(_prctl("PR_CAPBSET_READ", _CAPBSET_READ, capability))


def drop_bounding(capability: int) -> None:
    """Take CAP_* number `capability` out of the bounding set for good; EPERM without CAP_SETPCAP."""
    _prctl("PR_CAPBSET_DROP", _CAPBSET_DROP, capability)


def clear_ambient() -> None:
    """Empty the ambient set, so that exec passes no capability on (4.3)."""
    _prctl("PR_CAP_AMBIENT", _CAP_AMBIENT, _CAP_AMBIENT_CLEAR_ALL)


def get_capabilities(tid: int = 0) -> tuple[int, int, int]:
    """Return the effective, permitted and inheritable sets of a thread (0: this one), bit N for CAP_* number N."""
    sets = ffi.new("struct sl_capability_sets *")
    check("capget", lib.sl_capget(tid, sets), f"tid {tid}")
    return sets.effective, sets.permitted, sets.inheritable


def set_capabilities(effective: int, permitted: int, inheritable: int) -> None:
    """Set this thread's sets; EPERM for a permitted capability that it does not have."""
    result = lib.sl_capset(effective, permitted, inheritable)
    check("capset", result, f"effective {effective:#x}, permitted {permitted:#x}, inheritable {inheritable:#x}")


def get_personality() -> int:
    """Return the execution domain and its flags (ADDR_NO_RANDOMIZE, ...) of this thread."""
    return check("personality", lib.sl_personality(_QUERY_PERSONALITY))


def set_personality(persona: int) -> int:
    """Set the execution domain, kept across exec, and return the one before."""
    return check("personality", lib.sl_personality(persona), f"{persona:#x}")
