"""A file system in user space (FUSE) whose server stops answering when it is told: what a dead file server looks like.

Run as a program it makes namespaces of its own, mounts the file system and runs another one there:

    python file_server.py MOUNTPOINT PROGRAM [ARGUMENT ...]

The program writes `h` to the fd that $FILE_SERVER names to have nothing answered any more, and `g` for all to go on.
Names are remembered by the kernel and attributes are not, so a path is found without the server and stat asks it.
"""

from __future__ import annotations

import ctypes
import errno
import os
import select
import sys
from stat import S_IFDIR, S_IFLNK, S_IFREG
from struct import Struct, pack, unpack_from

__all__: list[str] = []

# linux/fuse.h
_IN, _OUT = Struct("=IIQQIIII"), Struct("=IiQ")
_LOOKUP, _FORGET, _GETATTR, _SETATTR, _READLINK, _OPEN, _READ = 1, 2, 3, 4, 5, 14, 15
_STATFS, _RELEASE, _GETXATTR, _LISTXATTR, _FLUSH, _INIT, _OPENDIR, _READDIR = 17, 18, 22, 23, 25, 26, 27, 28
_RELEASEDIR, _INTERRUPT, _BATCH_FORGET = 29, 36, 42
_LONG = 3600  # seconds that the kernel remembers names for
_NEWNS, _NEWUSER, _REC, _PRIVATE, _NOSUID, _NODEV = 0x20000, 0x10000000, 0x4000, 0x40000, 2, 4
_FILES = {b"file": (2, S_IFREG | 0o755, b"#!/bin/true\n"), b"link": (3, S_IFLNK | 0o777, b"file"),
          b"folder": (4, S_IFDIR | 0o755, b"")}  # fmt: skip
_NODES = {number: (mode, content) for number, mode, content in _FILES.values()} | {1: (S_IFDIR | 0o755, b"")}
_SMALL = 1 << 17


def _attributes(node: int) -> bytes:
    mode, content = _NODES[node]
    return pack("=6Q10I", node, len(content), 1, 0, 0, 0, 0, 0, 0, mode, 1, os.getuid(), os.getgid(), 0, 4096, 0)


def _answer(number: int, node: int, body: bytes) -> bytes | int:
    """Return the answer to one request, or an errno."""
    if number == _INIT:
        return pack("=IIIIHHIIHHI7I", 7, 31, 0, 0, 12, 9, 4096, 1, 0, 0, 0, *[0] * 7)
    if number == _LOOKUP:
        found = _FILES.get(body.rstrip(b"\0")) if node == 1 else None
        if found is None:
            return errno.ENOENT
        return pack("=4Q2I", found[0], 0, _LONG, 0, 0, 0) + _attributes(found[0])
    if number in (_GETATTR, _SETATTR):
        return pack("=QII", 0, 0, 0) + _attributes(node)
    if number in (_READLINK, _READ):
        return _NODES[node][1] if number == _READLINK or not unpack_from("=QQ", body)[1] else b""
    if number in (_OPEN, _OPENDIR):
        return pack("=QII", 0, 0, 0)
    if number == _STATFS:
        return pack("=5Q4I24x", 100, 50, 50, 10, 5, 4096, 255, 4096, 0)
    if number in (_GETXATTR, _LISTXATTR):
        room, value = unpack_from("=I", body)[0], b"value" if number == _GETXATTR else b"user.name\0"
        return value if room else pack("=II", len(value), 0)
    return b"" if number in (_FLUSH, _RELEASE, _RELEASEDIR, _READDIR) else errno.ENOSYS


def serve(device: int, orders: int) -> None:
    """Answer requests, or stop doing so, as ordered; until nobody is there to order."""
    hangs = False
    while True:
        ready = select.select([orders] if hangs else [orders, device], [], [])[0]
        if orders in ready:
            order = os.read(orders, 1)
            if not order:
                return
            hangs = order == b"h"
            continue
        try:
            message = os.read(device, _SMALL)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.EINTR, errno.EAGAIN):
                continue
            return
        _, number, unique, node, *_ = _IN.unpack_from(message)
        if number in (_FORGET, _BATCH_FORGET, _INTERRUPT):
            continue
        answer = _answer(number, node, message[_IN.size :])
        code, data = (-answer, b"") if isinstance(answer, int) else (0, answer)
        os.write(device, _OUT.pack(_OUT.size + len(data), code, unique) + data)


def _mount(place: str) -> int:
    """Mount the file system in a mount namespace of this process's own, and return what its server reads."""
    libc = ctypes.CDLL(None, use_errno=True)
    uid, gid = os.getuid(), os.getgid()

    def check(result: int) -> None:
        if result:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))

    check(libc.unshare(_NEWNS if uid == 0 else _NEWNS | _NEWUSER))
    if uid:
        for name, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
            with open(f"/proc/self/{name}", "w") as file:
                file.write(text)
    check(libc.mount(b"none", b"/", None, _REC | _PRIVATE, None))
    device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    options = f"fd={device},rootmode=40000,user_id={uid},group_id={gid}".encode()
    check(libc.mount(b"server", os.fsencode(place), b"fuse", _NOSUID | _NODEV, options))
    return device


def main() -> None:
    """Mount, serve in a child, and become the program; exit with 77 where no such file system can be mounted."""
    try:
        device = _mount(sys.argv[1])
    except OSError as error:
        print(error, file=sys.stderr)
        sys.exit(77)
    reader, writer = os.pipe()
    if not os.fork():
        os.close(writer)
        serve(device, reader)
        os._exit(0)
    os.close(reader)
    os.close(device)
    os.set_inheritable(writer, True)
    os.environ["FILE_SERVER"] = str(writer)
    os.execv(sys.argv[2], sys.argv[2:])  # noqa: S606 - that is what it is for


if __name__ == "__main__":
    main()
