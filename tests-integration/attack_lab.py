"""What the attacks share: running the same program bare and inside, and reading what it reports.

Every attack is run twice. Bare it must win: a deny test whose attack cannot win proves nothing. Inside it must lose,
and what it was after must be unharmed. What may change with the API is here and nowhere else.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sandlock_arch
from sandlock import Sandbox
from sandlock_testkit.features import level

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

__all__ = [
    "Area",
    "Box",
    "Line",
    "World",
    "alive_with",
    "call",
    "fingerprint",
    "forced_landlock",
    "number",
    "read_lines",
    "reason_of",
]

SHIELDED_BY_SINCE = {  # protection: first Landlock ABI that has it
    "fs_refer": 2,
    "fs_truncate": 3,
    "net_tcp": 4,
    "fs_ioctl_dev": 5,
    "scope_abstract": 6,
    "scope_signal": 6,
}


@dataclass(frozen=True, slots=True)
class Line:
    """What one attack said: the call's result, and the errno when it failed."""

    result: int
    errno: int

    @property
    def won(self) -> bool:
        """Whether the call succeeded."""
        return self.result >= 0


def read_lines(output: bytes) -> dict[str, Line]:
    """The lines `NAME RESULT ERRNO` of an attack program, by name; other text is left out."""
    found = {}
    for line in output.decode("utf-8", "surrogateescape").splitlines():
        words = line.split(" ")
        if len(words) == 3 and words[1].lstrip("-").isdigit() and words[2].isdigit():
            found[words[0]] = Line(int(words[1]), int(words[2]))
    return found


def number(name: str) -> int | None:
    """The number of a system call here, or None where this architecture has no call of that name."""
    return sandlock_arch.native().syscalls.get(name)


def call(name: str, syscall: str | int, *arguments: str | bytes | int) -> list[str]:
    """Words of one call for the program `invoke`: str a path, bytes a struct, `@x` result of call x, `#n` a buffer."""
    nr = syscall if isinstance(syscall, int) else number(syscall)
    assert nr is not None, f"no system call {syscall} on this architecture"
    words = ["--", name, str(nr)]
    for argument in arguments:
        if isinstance(argument, bytes):
            words.append("%" + argument.hex())
        elif isinstance(argument, str) and argument[:1] not in {"@", "#"}:
            words.append("=" + argument)
        else:
            words.append(str(argument))
    return words


@dataclass(frozen=True, slots=True)
class World:
    """How a sandbox is made: with namespaces or not, with the host's Landlock (0) or pretending an older ABI."""

    namespaces: str
    landlock_abi: int = 0

    def __str__(self) -> str:
        return self.namespaces + (f"-abi{self.landlock_abi}" if self.landlock_abi else "")

    def lacks(self) -> list[str]:
        """The protections that the forced ABI, or else the host's own, does not have."""
        abi = self.landlock_abi or level("landlock")
        return [name for name, since in SHIELDED_BY_SINCE.items() if abi < since]

    def missing(self) -> list[str]:
        """Those of them that no other layer holds: seccomp does one, namespaces two more."""
        instead = {"fs_truncate"}
        if self.namespaces != "off" and level("pid_namespace"):
            instead |= {"fs_ioctl_dev", "scope_signal"}
        return [name for name in self.lacks() if name not in instead]


def forced_landlock(abi: int) -> contextlib.AbstractContextManager[object]:
    """Let the runtime believe that the kernel has no newer Landlock than `abi`; 0 leaves it alone."""
    if not abi:
        return contextlib.nullcontext()
    from sandlock_policy.data.landlock import FS_RIGHTS, NET_RIGHTS, SCOPES
    from sandlock_policy.features import HostFeatures
    from sandlock_runtime import features

    def mask(rights: Mapping[str, tuple[int, int, str]]) -> int:
        return sum(bit for bit, first, _ in rights.values() if first <= abi)

    host = features.host_features()
    old = HostFeatures(
        landlock_abi=abi,
        landlock_fs=mask(FS_RIGHTS),
        landlock_net=mask(NET_RIGHTS),
        landlock_scopes=mask(SCOPES),
        user_namespace=host.user_namespace,
        mount_namespace=host.mount_namespace,
        privileged=host.privileged,
        served=host.served,
    )
    return features.override(old)


def reason_of(result: Any) -> str:
    """The reason of a Result as its name in capitals."""
    return str(getattr(result.reason, "name", result.reason)).upper()


@dataclass(slots=True)
class Box:
    """Runs programs bare and inside, in one world."""

    program: Callable[[str], str]
    world: World
    work: Path
    readable: list[str] = field(default_factory=list)

    def fields(self, **fields: Any) -> dict[str, Any]:
        """Policy fields: the programs and what is `readable` may be read, `work` written, nothing else granted."""
        chosen: dict[str, Any] = {
            "fs_readable": [os.path.dirname(self.program("invoke")), *self.readable],
            "fs_writable": [str(self.work)],
            "cwd": str(self.work),
            "namespaces": self.world.namespaces,
            "clean_env": True,
        }
        if self.world.missing():
            chosen["allow_degraded"] = self.world.missing()
        chosen.update(fields)
        return chosen

    @contextlib.contextmanager
    def sandbox(self, **fields: Any) -> Iterator[Sandbox]:
        """A Sandbox of this world, made while its conditions hold."""
        with forced_landlock(self.world.landlock_abi), Sandbox(**self.fields(**fields)) as made:
            yield made

    def inside(
        self,
        *command: str,
        timeout: float | None = 20,
        input: bytes | None = None,  # noqa: A002 - the name that Sandbox.run has
        **fields: Any,
    ) -> Any:
        """Run `program, arguments...` in a sandbox; the Result."""
        with self.sandbox(**fields) as sandbox:
            return sandbox.run([self.program(command[0]), *command[1:]], timeout=timeout, input=input)

    def bare(self, *command: str, timeout: float = 20, **options: Any) -> subprocess.CompletedProcess[bytes]:
        """Run the same without a sandbox, in a session of its own."""
        options.setdefault("stdin", subprocess.DEVNULL)
        return subprocess.run(
            [self.program(command[0]), *command[1:]],
            capture_output=True,
            timeout=timeout,
            check=False,
            cwd=options.pop("cwd", self.work),
            start_new_session=True,
            **options,
        )

    def lines(self, *command: str, **fields: Any) -> dict[str, Line]:
        """What the program reports from inside; it must have ended by itself."""
        result = self.inside(*command, **fields)
        assert result.exit_code == 0, (result.exit_code, reason_of(result), result.stdout, result.stderr)
        return read_lines(result.stdout)

    def bare_lines(self, *command: str, **options: Any) -> dict[str, Line]:
        """What it reports bare."""
        done = self.bare(*command, **options)
        assert done.returncode == 0, (done.returncode, done.stdout, done.stderr)
        return read_lines(done.stdout)

    def degraded(self, result: Any) -> set[str]:
        """The protections that a result says were not active."""
        return {
            entry.name for entry in result.protections if str(getattr(entry.state, "name", entry.state)) != "active"
        }


@dataclass(frozen=True, slots=True)
class Area:
    """A folder with one of everything: `file`, `other`, `empty/`, `full/inner`, `link -> file`."""

    path: Path

    @classmethod
    def make(cls, path: Path) -> Area:
        """Make it anew."""
        path.mkdir(exist_ok=True)
        for name in ("file", "other"):
            (path / name).write_text(f"{name} of {path.name}\n")
        (path / "empty").mkdir()
        (path / "full").mkdir()
        (path / "full" / "inner").write_text("inner\n")
        (path / "link").symlink_to("file")
        return cls(path)

    def at(self, name: str) -> str:
        """The path of one of them as text."""
        return str(self.path / name)


def fingerprint(folder: Path | str) -> str:
    """A hash of everything below a folder that a process may change, access times excepted."""
    digest = hashlib.sha256()
    for base, folders, files in os.walk(folder):
        folders.sort()
        for name in [".", *sorted(folders), *sorted(files)]:
            path = os.path.join(base, name)
            found = os.lstat(path)
            parts: list[object] = [path, found.st_mode, found.st_uid, found.st_gid, found.st_ino, found.st_mtime_ns]
            parts.append(None if stat.S_ISDIR(found.st_mode) else found.st_nlink)
            if stat.S_ISREG(found.st_mode):
                parts.append(Path(path).read_bytes())
                parts.append([(key, os.getxattr(path, key)) for key in sorted(os.listxattr(path))])
            elif stat.S_ISLNK(found.st_mode):
                parts.append(os.readlink(path))
            digest.update(repr(parts).encode())
    return digest.hexdigest()


def alive_with(mark: str) -> dict[int, str]:
    """Living processes, zombies and ourselves excepted, with `mark` in their arguments or environment, by pid."""
    found = {}
    for name in filter(str.isdigit, os.listdir("/proc")):
        pid = int(name)
        if pid == os.getpid():
            continue
        try:
            words = Path("/proc", name, "cmdline").read_bytes()
            state = Path("/proc", name, "stat").read_text(errors="replace").rpartition(")")[2].split()[0]
            with contextlib.suppress(PermissionError):
                words += Path("/proc", name, "environ").read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if mark.encode() in words and state not in {"Z", "X"}:
            found[pid] = words.replace(b"\0", b" ").decode(errors="replace")[:200]
    return found
