"""Trials for the support matrix: each makes a sandbox, attacks or uses it, and tells by the effect what happened.

A trial that attacks has its control in it: the same done bare must work. Everything stays in a folder of the trial's
own and on the loopback.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from machine_bench import PATIENCE_S, PYTHON, SYSTEM, Bench, Seen

from sandlock import Result, Sandbox

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["TRIALS"]


def _text(result: Result) -> str:
    return result.stdout.decode(errors="replace").strip()


def _trouble(result: Result) -> Seen:
    last = result.stderr.decode(errors="replace").strip().splitlines()[-1:]
    return Seen("failed", f"{result.reason} {result.exit_code} {' '.join([_text(result), *last])}"[:300])


def _verdict(*, held: bool, result: Result, how: str = "") -> Seen:
    return Seen("held" if held else "open", how or ("" if held else _text(result)))


def plain(place: Bench) -> Seen:
    """A program runs, with nothing given up."""
    fields = {**place.fields, "fs_readable": SYSTEM}
    result = Sandbox(**fields).run([PYTHON, "-I", "-S", "-c", "print(6 * 7)"], timeout=PATIENCE_S)
    return Seen("works") if _text(result) == "42" else _trouble(result)


def agreed(place: Bench) -> Seen:
    """A program runs, giving up by name what the kernel lacks."""
    result = place.run("print(6 * 7)")
    return Seen("works", ", ".join(place.agreed)) if _text(result) == "42" else _trouble(result)


_ATTEMPT = (
    "import os, sys, socket, signal\ntry:\n  {act}\n  print('won')\nexcept OSError as error: print(error.strerror)"
)


def _attack(place: Bench, act: str, *words: str, **fields: Any) -> Result:
    return place.run(_ATTEMPT.format(act=act), *words, **fields)


def read_outside(place: Bench) -> Seen:
    """A file without a grant is not opened."""
    granted = _attack(place, "print(open(sys.argv[1]).read())", str(place.target))
    if "content" not in _text(granted):
        return _trouble(granted)
    result = _attack(place, "open(sys.argv[1])", str(place.folder / "secret"))
    return _verdict(held="won" not in _text(result), result=result, how=place.layer(result, "fs_access"))


def truncate_outside(place: Bench) -> Seen:
    """A file without a write grant is not truncated."""
    result = _attack(place, "os.truncate(sys.argv[1], 0)", str(place.target))
    held = place.target.read_text() == "content\n"
    place.target.write_text("content\n")
    layer = place.layer(result, "fs_truncate")
    return _verdict(held=held, result=result, how=f"{_text(result)}; {layer}")


def change_mode(place: Bench) -> Seen:
    """The mode of a file without a write grant stays."""
    place.target.chmod(0o644)
    result = _attack(place, "os.chmod(sys.argv[1], 0o600)", str(place.target))
    held = place.target.stat().st_mode & 0o777 == 0o644
    return _verdict(held=held, result=result, how=place.layer(result, "fs_metadata"))


def link_across(place: Bench) -> Seen:
    """A file that may only be read is not linked to where it could be written."""
    result = _attack(place, "os.link(sys.argv[1], 'alias')", str(place.target))
    held = place.target.stat().st_nlink == 1
    (place.folder / "work/alias").unlink(missing_ok=True)
    return _verdict(held=held, result=result, how=place.layer(result, "fs_refer"))


def signal_outside(place: Bench) -> Seen:
    """A process outside is not signalled."""
    with subprocess.Popen(["sleep", "600"]) as outsider:
        result = _attack(place, "os.kill(int(sys.argv[1]), signal.SIGTERM)", str(outsider.pid))
        time.sleep(0.2)
        held = outsider.poll() is None
        outsider.kill()
    return _verdict(held=held, result=result, how=place.layer(result, "scope_signal"))


def abstract_socket(place: Bench) -> Seen:
    """An abstract Unix socket outside is not reached."""
    name = f"\0sandlock-machine-{os.getpid()}"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(name)
        server.listen()
        with socket.socket(socket.AF_UNIX) as control:
            control.connect(name)
        result = _attack(place, "socket.socket(socket.AF_UNIX).connect('\\0' + sys.argv[1])", name[1:])
    return _verdict(held="won" not in _text(result), result=result, how=place.layer(result, "scope_abstract"))


def tree_ends(place: Bench) -> Seen:
    """A daemon does not outlive its run."""
    code = "import os,time\n"
    code += "if not os.fork():\n os.setsid()\n if not os.fork():\n  open('pid','w').write('x'); time.sleep(600)"
    code += "\n os._exit(0)\nwhile not os.path.exists('pid'): time.sleep(0.01)"
    mark = f"outlive-{os.getpid()}-{time.time_ns()}"
    result = place.run(code, mark)
    if not (place.folder / "work/pid").exists():
        return _trouble(result)
    left = [path for path in Path("/proc").glob("[0-9]*/cmdline") if mark.encode() in _read(path)]
    return _verdict(held=not left, result=result, how=place.layer(result, "tree_kill"))


def _read(path: Path) -> bytes:
    with contextlib.suppress(OSError):
        return path.read_bytes()
    return b""


class _Servers:
    """Two TCP servers on the loopback: the one that may be reached, and another."""

    def __enter__(self) -> tuple[int, int]:
        self._sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
        for one in self._sockets:
            threading.Thread(target=self._greet, args=(one,), daemon=True).start()
        return self._sockets[0].getsockname()[1], self._sockets[1].getsockname()[1]

    def __exit__(self, *_: object) -> None:
        for one in self._sockets:
            one.close()

    @staticmethod
    def _greet(server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = server.accept()
                with connection:
                    connection.sendall(b"hello")


_REACH = """import socket, sys
for port in sys.argv[1:]:
    try: print(socket.create_connection(("127.0.0.1", int(port)), timeout=60).recv(9).decode(), end=" ")
    except OSError: print("no", end=" ")
"""


def _reach(place: Bench, rule: str) -> Seen:
    with _Servers() as (good, other):
        result = place.run(_REACH, str(good), str(other), net_allow=[rule.format(port=good)])
    told = _text(result)
    if told == "hello no":
        return Seen("held", place.layer(result, "net_tcp"))
    return Seen("open", told) if told.endswith("hello") else _trouble(result)


def ports(place: Bench) -> Seen:
    """TCP by port alone: `net_allow=["tcp://:PORT"]`."""
    return _reach(place, "tcp://:{port}")


def endpoints(place: Bench) -> Seen:
    """TCP by address and port: `net_allow=["tcp://127.0.0.1:PORT"]`."""
    return _reach(place, "tcp://127.0.0.1:{port}")


def _says(place: Bench, expected: str, code: str, **fields: Any) -> Seen:
    result = place.run(code, **fields)
    return Seen("works", place.layer(result, "fs_metadata")) if _text(result) == expected else _trouble(result)


def other_root(place: Bench) -> Seen:
    """`chroot` with mounts."""
    root = place.folder / "root"
    folders = [path for path in ("/usr", "/bin", "/lib", "/lib64") if os.path.isdir(path)]
    mounts = [f"{path}:{path}" for path in folders if not os.path.islink(path)]
    if not (root / "mark").exists():  # it is tried again where something has to be given up
        (root / "dev").mkdir()
        (root / "dev/null").touch()
        for path in folders:
            if os.path.islink(path):
                (root / path[1:]).symlink_to(os.readlink(path))
            else:
                (root / path[1:]).mkdir()
        (root / "mark").write_text("inside\n")
    result = place.run(
        "import os; print(open('/mark').read().strip(), os.path.exists('/proc'))",
        chroot=str(root),
        fs_mount_ro=mounts,
        fs_readable=["/"],
        fs_writable=[],
        cwd="/",
    )
    return Seen("works", place.layer(result, "fs_metadata")) if _text(result) == "inside False" else _trouble(result)


def branch(place: Bench) -> Seen:
    """`workdir`: writes go to a branch."""
    tree = place.folder / "tree"
    fields: dict[str, Any] = {"workdir": str(tree), "fs_storage": str(place.folder / "storage"), "on_exit": "abort"}
    seen = _says(place, "new", "open('file','w').write('new'); print(open('file').read())", cwd=str(tree), **fields)
    if seen.state == "works" and (tree / "file").read_text() != "content\n":
        return Seen("open", "the real file was changed")
    return seen


def processes(place: Bench) -> Seen:
    """`max_processes`."""
    code = "import os,time\nn=0\n"
    code += "while n<9:\n try:\n  if not os.fork(): time.sleep(60)\n  n+=1\n except OSError: break\nprint(n)"
    return _says(place, "3", code, max_processes=4)


def memory(place: Bench) -> Seen:
    """`max_memory`."""
    result = place.run("import time\nx = bytearray(400 << 20)\ntime.sleep(60)\nprint('kept')", max_memory="128M")
    return Seen("works") if str(result.reason) == "MEMORY" else _trouble(result)


def clock(place: Bench) -> Seen:
    """`time_start`."""
    return _says(place, "2001", "import time; print(time.gmtime().tm_year)", time_start="2001-02-03T04:05:06Z")


def randomness(place: Bench) -> Seen:
    """`random_seed`."""
    told = [_text(place.run("import os; print(os.urandom(8).hex())", random_seed=7)) for _ in range(2)]
    return Seen("works") if told[0] and told[0] == told[1] else Seen("failed", " ".join(told))


def host_name(place: Bench) -> Seen:
    """`name` and `num_cpus`."""
    code = "import os; print(os.uname().nodename, os.cpu_count())"
    return _says(place, "guest 1", code, name="guest", num_cpus=1)


def own_proc(place: Bench) -> Seen:
    """/proc without the processes of others."""
    code = "import os, sys; print(any(n == sys.argv[1] for n in os.listdir('/proc')))"
    result = place.run(code, str(os.getpid()), more=["/proc"])
    return _verdict(held=_text(result) == "False", result=result, how=place.layer(result, "fs_access"))


_COUNTING = """import sys
number = 0
for line in iter(sys.stdin.readline, ""):
    number += 1
    print(number, line.strip(), flush=True)
"""


def checkpoint(place: Bench) -> Seen:
    """A CPython is saved, ended and goes on in another sandbox."""
    return _saved(place, [PYTHON, "-I", "-S", "-c", _COUNTING])


def checkpoint_small(place: Bench) -> Seen:
    """A small C program (cat) is saved, ended and goes on."""
    return _saved(place, ["/bin/cat"])


def _saved(place: Bench, command: list[str]) -> Seen:
    from sandlock import PIPE

    image = place.folder / f"image-{time.time_ns()}"

    def say(process: Any, line: bytes) -> str:
        process.stdin.write(line + b"\n")
        process.stdin.flush()
        told: bytes = process.stdout.readline()
        return told.decode().strip()

    with place.sandbox() as made:
        process = made.popen(command, stdin=PIPE, stdout=PIPE)
        first = say(process, b"one")
        with made.checkpoint() as taken:
            taken.save(image)
        process.kill()
    with place.sandbox() as made:
        again = made.restore(image, stdin=PIPE, stdout=PIPE)
        second = say(again, b"two")
        again.kill()
    expected = [("1 one", "2 two"), ("one", "two")]
    return Seen("works") if (first, second) in expected else Seen("failed", f"{first!r} {second!r}")


TRIALS: tuple[Callable[[Bench], Seen], ...] = (
    plain,
    agreed,
    read_outside,
    truncate_outside,
    change_mode,
    link_across,
    signal_outside,
    abstract_socket,
    tree_ends,
    ports,
    endpoints,
    other_root,
    branch,
    own_proc,
    host_name,
    processes,
    memory,
    clock,
    randomness,
    checkpoint_small,
    checkpoint,
)
