"""From what a policy asks of seccomp to the program the kernel runs. LEAN.

`data/syscall_groups.py` says what is denied and why, `default.py` chooses from it, `compile.py` makes the program. The
programs for the common options lie compiled in `data/compiled_filters.py`: loading the rules and compiling them takes
2 ms, an eighth of an interpreter's start. A test proves that these programs are what the compiler makes.
"""

from __future__ import annotations

from binascii import a2b_base64

from sandlock_policy.data.compiled_filters import FILTERS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from sandlock_arch import Architecture
    from sandlock_policy.errors import Problem
    from sandlock_policy.seccomp.options import FilterOptions

__all__ = ["check_names", "compile_filter", "describe_filter"]

_CACHE_SIZE = 64
_cache: dict[tuple[str, FilterOptions], bytes] = {}


def compile_filter(arch: Architecture | str, options: FilterOptions) -> bytes:
    """Return the filter for `options` as an array of struct sock_filter; the same options are compiled once.

    `arch` may be a name, so that nothing of the architecture is loaded where the filter lies compiled.

    Raises `PolicyError` for names in `extra_deny` and `extra_allow` that are unknown or may not be lifted.
    """
    name = arch if isinstance(arch, str) else arch.name
    key = (name, options)
    program = _cache.get(key)
    if program is None:
        program = _precompiled(name, options)
        if program is None:
            # Imported here because the common filters need neither the rules nor the compiler.
            from sandlock_arch import get
            from sandlock_policy.seccomp.compile import compile_spec
            from sandlock_policy.seccomp.default import default_spec

            program = compile_spec(get(arch) if isinstance(arch, str) else arch, default_spec(options))
        if len(_cache) >= _CACHE_SIZE:
            _cache.clear()
        _cache[key] = program
    return program


def _precompiled(arch: str, options: FilterOptions) -> bytes | None:
    if options.listen or options.unix_sockets or options.extra_deny or options.extra_allow:
        return None
    if options.served_network or options.served_metadata:
        return None
    if options.own_layout or options.deny_truncate or options.deny_input_signals or options.deny_given_sockets:
        return None
    text = FILTERS.get((arch, options.tcp, options.deny_metadata))
    return None if text is None else a2b_base64(text)


def check_names(extra_deny: Sequence[str], extra_allow: Sequence[str]) -> tuple[Problem, ...]:
    """Return what is wrong with these names: unknown ones, and groups that would open the sandbox."""
    # Imported here because most policies name no system call.
    from sandlock_policy.seccomp.names import problems_of

    return problems_of(extra_deny, extra_allow)


def describe_filter(options: FilterOptions) -> list[tuple[str, str, str, str]]:
    """Return the filter as rows (system call, condition, action, reason), in the order the rules are tried.

    Raises `PolicyError` as `compile_filter` does.
    """
    # Imported here because only documentation and --explain ask.
    from sandlock_policy.seccomp.default import default_spec
    from sandlock_policy.seccomp.describe import rows

    return rows(default_spec(options))
