"""What is denied is denied wherever it is mounted too (FS-05), for paths that are found in one step as well."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import mkdtemp

import pytest

from sandlock_testkit.needs import lacks

pytestmark = [
    pytest.mark.needs("seccomp", level=2),
    pytest.mark.needs("landlock", level=3),
    pytest.mark.needs("pidfd", level=2),
]

# In a mount namespace of its own: `secret` is mounted at `alias`, a folder inside at `inside`, a file inside at `one`.
MOUNTS = """
mount --make-rprivate / && mount --bind "$1/secret" "$1/alias" && mount --bind "$1/secret/inner" "$1/inside" \
    && mount --bind "$1/secret/inner/file" "$1/one" || exit 77
shift
exec "$@"
"""

SUPERVISOR = """
import asyncio, os, sys
from pathlib import Path
from file_calls import program
from supervision import supervise
from sandlock_notif.fs.view import View
from sandlock_notif.handlers.files.table import FilesTable

base, denied, code, live = Path(sys.argv[1]), os.fsencode(sys.argv[1] + "/" + sys.argv[2]), sys.argv[3], sys.argv[4]
view = View(live=True) if live else View(denied=[denied])

async def deny(*_):
    while not (base / "ready").exists():
        await asyncio.sleep(0.01)
    if live:
        view.denials.deny(denied)
    (base / "go").touch()

grants = [(b"/", 1 | 4 | 8), (os.fsencode(base), (1 << 16) - 1)]
outcome = supervise(program(code, str(base)), FilesTable(view), grants=grants, while_running=deny)
assert not [event for event in outcome.events if event.kind == "fault"], outcome.events
assert outcome.supervisor.shortly
print(outcome.output.decode())
"""

CODE = """
import time
base = sys.argv[2]
def told(path, at=None):
    def read():
        fd = os.open(path, os.O_RDONLY, dir_fd=at)
        return os.read(fd, 9).decode()
    answers = []
    for look in (lambda: os.stat(path, dir_fd=at).st_size, lambda: os.access(path, os.R_OK, dir_fd=at), read):
        try: answers.append(look())
        except OSError as error: answers.append(errno.errorcode[error.errno])
    return answers
paths = ["secret/file", "alias/file", "secret/inner/file", "alias/inner/file", "inside/file", "inside/deep/file", "one"]
held = {}
for name in ("secret/inner", "alias/inner", "inside", "inside/deep"):
    try: held[name] = os.open(base + "/" + name, os.O_RDONLY)
    except OSError: pass
open(base + "/ready", "w").close()
while not os.path.exists(base + "/go"): time.sleep(0.01)
found = {path: told(base + "/" + path) for path in [*paths, "open/file"]}
found.update({name + " held": told("file", fd) for name, fd in held.items()})
print(json.dumps(found))
"""


@pytest.fixture
def base() -> Iterator[Path]:
    folder = Path(mkdtemp(prefix="sandlock-aliases-"))
    for name in ("secret/inner/deep", "alias", "inside", "open"):
        (folder / name).mkdir(parents=True)
    for name in ("secret/file", "secret/inner/file", "secret/inner/deep/file", "open/file"):
        (folder / name).write_text("canary")
    (folder / "one").touch()
    yield folder
    shutil.rmtree(folder)


def answers(base: Path, denied: str, *, live: bool) -> dict[str, list[object]]:
    """What the program is told of each path."""
    rooted = ["unshare", *(["-U", "-r"] if os.geteuid() else []), "-m", "sh", "-ec", MOUNTS, "sh", str(base)]
    inside = [sys.executable, "-c", SUPERVISOR, str(base), denied, CODE, "live" if live else ""]
    here = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    done = subprocess.run(
        [*rooted, *inside], capture_output=True, check=False, timeout=60, env={**os.environ, "PYTHONPATH": here}
    )
    if done.returncode == 77 or done.stderr.startswith(b"unshare"):
        lacks("user_namespace", "no mount can be made here")
    assert done.returncode == 0, os.fsdecode(done.stderr)
    return json.loads(done.stdout)  # type: ignore[no-any-return]


OPEN, DENIED = [6, True, "canary"], ["EACCES", False, "EACCES"]


@pytest.mark.parametrize("denied", ["secret", "alias"])
def test_fs_05_a_denied_folder_is_denied_where_it_or_a_part_of_it_is_mounted(base: Path, denied: str) -> None:
    found = answers(base, denied, live=False)
    assert found.pop("open/file") == OPEN
    assert {path: answer for path, answer in found.items() if answer != DENIED} == {}
    assert len(found) == 7


def test_fs_05_so_is_one_that_is_denied_later_from_folders_that_are_open_already(base: Path) -> None:
    found = answers(base, "secret", live=True)
    assert found.pop("open/file") == OPEN
    assert {path: answer for path, answer in found.items() if answer != DENIED} == {}
    assert len(found) == 11
