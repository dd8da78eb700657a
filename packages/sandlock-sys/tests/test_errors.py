"""Exceptions carry the facts."""

from __future__ import annotations

import errno
import pickle
import signal

import pytest

from sandlock_sys import landlock
from sandlock_sys._call import check, refusal, restarting
from sandlock_sys.errors import ProcParseError, SyscallError


def test_a_syscall_error_is_an_os_error_with_call_errno_and_detail() -> None:
    error = SyscallError("landlock_restrict_self", errno.EPERM, "fd 3")
    assert isinstance(error, OSError)
    assert (error.call, error.errno, error.strerror, error.detail) == (
        "landlock_restrict_self",
        errno.EPERM,
        "Operation not permitted",
        "fd 3",
    )
    assert str(error) == "landlock_restrict_self (fd 3): Operation not permitted (errno 1)"


@pytest.mark.parametrize(
    "error", [SyscallError("open", errno.ENOENT, "/x"), ProcParseError("maps", 3, b"\xff", "not a mapping")]
)
def test_exceptions_survive_pickling(error: Exception) -> None:
    copy = pickle.loads(pickle.dumps(error))  # noqa: S301 - made in this line
    assert (type(copy), str(copy), vars(copy)) == (type(error), str(error), vars(error))


def test_check_passes_values_and_raises_negated_errnos() -> None:
    assert check("x", 7) == 7
    with pytest.raises(SyscallError) as caught:
        check("x", -errno.EBADF, "fd 9")
    assert caught.value.errno == errno.EBADF
    assert (refusal(-errno.EPERM), refusal(5)) == (errno.EPERM, 0)


def test_restarting_goes_on_after_eintr_and_lets_handlers_raise() -> None:
    answers = iter([-errno.EINTR, -errno.EINTR, 5])
    assert restarting(lambda: next(answers)) == 5

    def interrupted() -> int:
        signal.raise_signal(signal.SIGINT)
        return -errno.EINTR

    with pytest.raises(KeyboardInterrupt):
        restarting(interrupted)


def test_a_real_refusal_names_the_call() -> None:
    with pytest.raises(SyscallError, match="landlock_add_rule") as caught:
        landlock.add_path_fd(-1, -1, 1)
    assert caught.value.errno == errno.EBADF
