"""A named run's control socket: another process of the same user has the run checkpointed by the one that launched it.

Only the launcher can: it is the tracer that the kernel lets in wherever tracing is restricted to descendants, and its
supervisor knows which tasks wait for an answer. The socket lies beside the run's entry, in a folder of mode 0700.

Safety: whoever asks must be of the same user, and not confined where the launcher is not: a sandboxed program that got
hold of the socket could otherwise have the memory of another written where it can read it.
"""

from __future__ import annotations

import json
import os
import socket
import struct
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from sandlock_runtime.errors import NotRunningError, SandboxError

if TYPE_CHECKING:
    from collections.abc import Callable

    from sandlock_checkpoint import Tracker
    from sandlock_policy import Policy
    from sandlock_runtime.life import Life

__all__ = ["Control", "ask", "socket_of"]

_LONGEST = 1 << 16
_MOST = 50  # of what stands against a checkpoint, so that the answer fits
_PATIENCE_S = 5.0  # for a peer that connects and says nothing
_CREDENTIALS = struct.Struct("iII")  # struct ucred
_PEER_PIDFD = 77  # SO_PEERPIDFD, asm-generic/socket.h, 6.5
_KEYS: dict[str, type | tuple[type, ...]] = {
    "folder": str, "leave": str, "allow": list, "compression": str, "parent": (str, type(None)), "track": bool,
}  # fmt: skip


def socket_of(entry: str) -> str:
    """Return the path of the socket that belongs to the entry in the file `entry`."""
    return f"{entry.removesuffix('.json')}.sock"


class Control:
    """Listens for one run, in a thread of its own, until `close`.

    Arguments:
        path: of the socket; nothing is there yet.
        life: of the run.
        policy: of the run.

    """

    def __init__(self, path: str, life: Life, policy: Policy) -> None:
        self._path = path
        self._life = life
        self._policy = policy
        self._busy = threading.Lock()
        self._tracker: Tracker | None = None  # from the first checkpoint that asks for it to the end of the run
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
        try:
            _by_folder(path, self._socket.bind)
            os.chmod(path, 0o600)
            self._socket.listen(4)
        except BaseException:
            self._socket.close()
            raise
        threading.Thread(target=self._serve, name="sandlock-control", daemon=True).start()

    def close(self) -> None:
        """Listen no longer; who is being answered gets the answer first."""
        with suppress(OSError):
            os.unlink(self._path)
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)  # ends the accept of the thread
        with self._busy:
            self._socket.close()
            if self._tracker is not None:
                self._tracker.close()

    def _serve(self) -> None:
        while True:
            try:
                peer, _ = self._socket.accept()
            except OSError:  # closed
                return
            with self._busy, peer, suppress(OSError):
                peer.settimeout(_PATIENCE_S)
                answer = self._answer(peer)
                peer.send(json.dumps(answer).encode("ascii"))

    def _answer(self, peer: socket.socket) -> dict[str, Any]:
        question = peer.recv(_LONGEST)  # first: closed with something unread, the socket would lose the answer too
        refusal = _refusal(peer)
        if refusal:
            return {"error": refusal}
        try:
            wanted = json.loads(question)
        except (ValueError, RecursionError):
            return {"error": "the question is no JSON"}
        if not isinstance(wanted, dict) or set(wanted) != set(_KEYS):
            return {"error": "the question has other keys than this version knows"}
        if any(not isinstance(wanted[key], kind) for key, kind in _KEYS.items()):
            return {"error": "the question has values of the wrong type"}
        try:
            return self._checkpoint(wanted)
        except Exception as error:  # noqa: BLE001  # whatever it is: the run goes on, and who asked is told
            listed = [[one.name, one.kind, one.reason] for one in getattr(error, "unsupported", ())[:_MOST]]
            return {"error": str(error) or type(error).__name__, "unsupported": listed}

    def _checkpoint(self, wanted: dict[str, Any]) -> dict[str, Any]:
        from sandlock_checkpoint import Tracker, image  # lazy: few runs are checkpointed
        from sandlock_runtime.capturing import checkpoint_life  # lazy: as above

        if wanted["track"] and self._tracker is None:
            self._tracker = Tracker()
        taken = checkpoint_life(
            self._life, self._policy, None,
            allow=[str(name) for name in wanted["allow"]], leave=wanted["leave"], name=self._policy.name or "",
            tracker=self._tracker,
        )  # fmt: skip
        digest = image.save(taken, wanted["folder"], compression=wanted["compression"], parent=wanted["parent"])
        untracked = self._tracker.untracked if self._tracker is not None else {}
        return {"digest": digest, "pid": self._life.pid, "untracked": list(untracked.items())[:_MOST]}


def ask(entry: str, host: int, wanted: dict[str, Any]) -> dict[str, Any]:
    """Have the run checkpointed whose entry is in the file `entry`, and return the answer.

    Arguments:
        entry: of the run.
        host: the process that launched it.
        wanted: folder, leave, allow, compression, parent and track.

    Raises:
        NotRunningError: nobody listens there.
        SandboxError: somebody else does.

    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC) as own:
        try:
            _by_folder(socket_of(entry), own.connect)
        except OSError as error:
            raise NotRunningError(f"process {host}, which launched it, does not listen: {error.strerror}") from error
        pid, uid, _ = _CREDENTIALS.unpack(own.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
        if (pid, uid) != (host, os.geteuid()):
            raise SandboxError(f"process {pid} of user {uid} listens in the place of process {host}, which launched it")
        try:
            own.send(json.dumps(wanted).encode("ascii"))
            answer = own.recv(_LONGEST)
        except ConnectionError:  # EPIPE, ECONNRESET
            answer = b""
    if not answer:
        raise NotRunningError(f"process {host} ended before it answered")
    found: dict[str, Any] = json.loads(answer)
    return found


def _by_folder(path: str, call: Callable[[str], None]) -> None:
    """Call with a name for `path` that is short: a socket's has 107 bytes at most (unix(7))."""
    folder, name = os.path.split(path)
    fd = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        call(f"/proc/self/fd/{fd}/{name}")
    finally:
        os.close(fd)


def _refusal(peer: socket.socket) -> str:
    """Return why the peer may not ask, "" when it may."""
    pid, uid, _ = _CREDENTIALS.unpack(peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    if uid != os.geteuid() or not pid:
        return "you are another user"
    try:
        theirs, ours = _confinement(pid), _confinement(os.getpid())
    except (OSError, ValueError, KeyError):
        return "it cannot be seen who you are"
    if not _same_process(peer):
        return "it cannot be seen who you are"
    # Each filter, and the promise of no new privileges, stays with a process for ever: more of them is a sandbox.
    return (
        "you are confined, and the run's launcher is not"
        if any(a > b for a, b in zip(theirs, ours, strict=True))
        else ""
    )


def _confinement(pid: int) -> tuple[int, int, int]:
    with open(f"/proc/{pid}/status", "rb") as status:
        fields = dict(line.split(b":", 1) for line in status)
    # Seccomp_filters is in 5.9.
    return int(fields[b"NoNewPrivs"]), int(fields[b"Seccomp"]), int(fields.get(b"Seccomp_filters", b"0"))


def _same_process(peer: socket.socket) -> bool:
    """Whether the peer lives, so that its number was its own all the time; taken for granted before Linux 6.5."""
    try:
        pidfd = peer.getsockopt(socket.SOL_SOCKET, _PEER_PIDFD)
    except OSError as error:
        from errno import ENOPROTOOPT

        return error.errno == ENOPROTOOPT
    from sandlock_sys import pidfd as pidfds

    try:
        return not pidfds.wait(pidfd, 0.0)
    finally:
        os.close(pidfd)
