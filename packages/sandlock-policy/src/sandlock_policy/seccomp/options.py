"""What a policy asks of seccomp. LEAN."""

from __future__ import annotations

from sandlock_policy.record import record

__all__ = ["FilterOptions"]


@record(frozen=True, slots=True)
class FilterOptions:
    """What a policy asks of the filter. The defaults are the strictest.

    Attributes:
        tcp: TCP sockets may be made; Landlock decides the ports. Without it no IP socket may.
        listen: listen(2) may be called.
        unix_sockets: Unix sockets of every kind may be made.
        served_network: the supervisor decides about sockets, so whoever compiles the filter brings their rules.
        deny_metadata: mode, owner, times, attributes and flags of files stay as they are.
        served_metadata: a supervisor decides about mode, owner, times and attributes; flags stay as they are.
        deny_truncate: files are truncated by who may write them alone; for a Landlock that has no right for it.
        deny_input_signals: nobody is signalled about input; for a Landlock without the signal scope.
        deny_given_sockets: a socket that the program was given is neither connected nor bound; for a Landlock without
            ports, where it can make none but Unix pairs.
        extra_deny: names of system calls and groups; they are denied whatever else is said.
        extra_allow: names of system calls and groups that are denied otherwise, and may be lifted.
        own_layout: a process may say where its heap, stack and arguments are, as one that is restored must.
        watched: the supervisor is asked about the one userfaultfd(2) by which a checkpoint's tracker watches memory;
            without a supervisor it stays denied.

    """

    tcp: bool = False
    listen: bool = False
    unix_sockets: bool = False
    served_network: bool = False
    deny_metadata: bool = True
    served_metadata: bool = False
    deny_truncate: bool = False
    deny_input_signals: bool = False
    deny_given_sockets: bool = False
    extra_deny: tuple[str, ...] = ()
    extra_allow: tuple[str, ...] = ()
    own_layout: bool = False
    watched: bool = False
