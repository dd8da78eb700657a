"""What runs inside the sandbox of `Sandbox.fork`: initialise once, then a copy-on-write clone for each number.

It is confined when it begins, and so is every clone: all of them are one sandbox, under one set of limits.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["main"]


def main(job_fd: int, report_fd: int, outputs: Sequence[int], main_path: str) -> None:
    """Make the clones and report how each ended.

    Arguments:
        job_fd: where the pickled `(init_fn, work_fn)` comes from.
        report_fd: a line goes there for the template, and one for each clone: its number and its wait status.
        outputs: the standard output of each clone.
        main_path: the host's main script, loaded when the functions are its own; or "".

    """
    from sandlock_runtime.task_worker import load

    for fd in (job_fd, report_fd, *outputs):
        os.set_inheritable(fd, False)
    with os.fdopen(job_fd, "rb") as job:
        init, work = load(job.read(), main_path)
    if init is not None:
        init()
    os.write(report_fd, b"ready\n")
    clones = {_clone(number, fd, [report_fd, *outputs], work): number for number, fd in enumerate(outputs)}
    for fd in outputs:
        os.close(fd)
    while clones:
        pid, status = os.wait()
        if pid in clones:
            os.write(report_fd, b"%d %d\n" % (clones.pop(pid), status))


def _clone(number: int, output: int, others: Sequence[int], work: Callable[[int], object]) -> int:
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        os.dup2(output, 1)
        for fd in others:
            os.close(fd)
        os.environ["CLONE_ID"] = str(number)
        work(number)
        status = 0
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else 0 if error.code is None else 1
    except BaseException:  # noqa: BLE001  # it is told where a program tells such things
        sys.excepthook(*sys.exc_info())
    finally:
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(status & 0xFF)
