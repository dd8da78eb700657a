# Typed face of the module that `_csrc/turn.c` is; `sandlock_sys.turn` loads it.

from collections.abc import Callable, Mapping
from typing import Any, final

# What the kernel tells of a system call that waits for its answer. The thread id is in the supervisor's pid namespace,
# and 0 for a task outside it. Of no use unless a `Turn` made it: all numbers are 0 then.
class Notified:
    @property
    def id(self) -> int: ...
    @property
    def tid(self) -> int: ...
    @property
    def nr(self) -> int: ...
    @property
    def arch(self) -> int: ...
    @property
    def instruction_pointer(self) -> int: ...
    @property
    def args(self) -> tuple[int, ...]: ...
    def int_arg(self, index: int, /) -> int: ...

# Serves one listener, in any thread but in one at a time, and not from within one of its own handlers. `kind` is made
# of `Notified`, and gets the attribute `listener`, whatever `serve` was given; an outcome that is `go` lets the kernel
# run the call, one of the class `returning` has a `value` that the call returns. After a `go` for one of the at most
# eight numbers in `hurried` nothing is waited for.
@final
class Turn:
    hung_up: bool
    served: int
    def __new__(
        cls, listener: int, arch: int, kind: type[Notified], go: object, returning: type, hurried: tuple[int, ...], /
    ) -> Turn: ...
    # Take at most `requests`, for `ns` nanoseconds, until this is called again; return the end on the monotonic clock.
    def begin(self, requests: int, ns: int, /) -> int: ...
    # Serve by the `Shortcut` whose memory has this address and is kept by the caller; 0: by none.
    def use(self, shortcut: int, /) -> None: ...
    # How often the handlers of this number were asked.
    def asked(self, number: int, /) -> int: ...
    # Take requests, ask their handlers, in order until one returns something else than None, and answer with `go` or a
    # value. Wait `first_wait_ns` for the first, `wait_ns` for each that follows an answer. Given four more arguments,
    # answer with them first (id, value, positive errno, flags).
    #
    # Returns None when there is nothing to take or the turn is over, or no task is left (`hung_up`); minus an errno of
    # the kernel's; or a request that waits for its answer: with the number of handlers that were asked, -1 where there
    # are none, and what the last one returned or raised.
    def serve(
        self,
        handlers: Mapping[int, tuple[Callable[[Any], object], ...]],
        listener: object,
        first_wait_ns: int,
        wait_ns: int,
        notification: int = ...,
        value: int = ...,
        error: int = ...,
        flags: int = ...,
        /,
    ) -> tuple[Any, int, object] | int | None: ...
