"""Every process that ends by itself is seen while it still runs its program, and ends as it would have."""

from __future__ import annotations

import os
from contextlib import suppress

import pytest
from supervision import PYTHON, supervise

from sandlock_notif import Process
from sandlock_notif.handlers.endings import Endings

pytestmark = [pytest.mark.needs("landlock", level=1), pytest.mark.needs("seccomp", level=2)]
FORKS = """
import os
told = []
for number in range(20):
    child = os.fork()
    if not child:
        os._exit(number)
    told.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
print(told == list(range(20)), end="", flush=True)
raise SystemExit(3)
"""


@pytest.mark.parametrize("looks", [True, False])
def test_processes_that_ask_nothing_are_seen_at_their_end(looks: bool) -> None:
    seen: dict[int, str] = {}

    def look(process: Process) -> None:
        with suppress(OSError):
            seen[process.pid] = os.readlink(f"/proc/{process.pid}/exe")
        raise OSError  # whatever happens here, the process ends as it wanted to

    endings = Endings()
    endings.look = look if looks else None
    outcome = supervise([PYTHON, "-c", FORKS], endings)
    assert (outcome.code, outcome.output) == (3, b"True")
    assert list(seen.values()) == [os.path.realpath(PYTHON)] * 21 * looks
