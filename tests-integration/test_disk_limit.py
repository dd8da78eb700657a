"""max_disk: a branch holds no more than it may, by whatever call it is filled (FS-23)."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from sandlock import PolicyError, Result, Sandbox

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = [pytest.mark.needs("landlock", level=3)]

LIMIT = 1 << 20
SYSTEM = ["/usr", "-/bin", "-/sbin", "-/lib", "-/lib64", "-/etc/ld.so.cache", "/dev/urandom"]
PRELUDE = """
import ctypes, errno, mmap, os, sys, threading
MIB = 1 << 20
def refused(act):
    try:
        act()
    except OSError as error:
        return errno.errorcode[error.errno]
    return "done"
fd = os.open("new", os.O_RDWR | os.O_CREAT, 0o600)
"""
WAYS = {
    "write": "print(refused(lambda: os.write(fd, bytes(2 * MIB))))",
    "pwrite64": "print(refused(lambda: os.pwrite(fd, bytes(2 * MIB), 4096)))",
    "writev": "print(refused(lambda: os.writev(fd, [bytes(MIB), bytes(MIB)])))",
    "pwritev": "print(refused(lambda: os.pwritev(fd, [bytes(MIB), bytes(MIB)], 0)))",
    "fallocate": "print(refused(lambda: os.posix_fallocate(fd, 0, 2 * MIB)))",
    "sendfile": "print(refused(lambda: os.sendfile(fd, os.open('/big', os.O_RDONLY), 0, 2 * MIB)))",
    "copy_file_range": "print(refused(lambda: os.copy_file_range(os.open('/big', os.O_RDONLY), fd, 1 << 62)))",
    "splice": """
r, w = os.pipe()
threading.Thread(target=lambda: os.write(w, bytes(2 * MIB)), daemon=True).start()
print(refused(lambda: os.splice(r, fd, 2 * MIB)))
""",
    "pieces": """
print(refused(lambda: [os.write(fd, bytes(64 << 10)) for _ in range(64)]))
""",
    "threads": """
fds = [os.open(f"t{n}", os.O_WRONLY | os.O_CREAT, 0o600) for n in range(8)]
gate, said = threading.Barrier(8), []
def fill(fd):
    gate.wait()
    said.append(refused(lambda: os.write(fd, bytes(MIB * 3 // 5))))
threads = [threading.Thread(target=fill, args=[fd]) for fd in fds]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
assert said.count("done") <= 1, said
print("ENOSPC" if "ENOSPC" in said else said)
""",
    "unnamed": """
fd = os.open(".", os.O_RDWR | os.O_TMPFILE, 0o600)
print(refused(lambda: [os.write(fd, bytes(64 << 10)) for _ in range(64)]))
""",
    "unlinked": """
held = []
def more():
    fd = os.open("again", os.O_WRONLY | os.O_CREAT, 0o600)
    os.write(fd, bytes(MIB // 2))
    held.append(os.open("again", os.O_RDONLY))
    os.close(fd)
    os.unlink("again")
print(refused(lambda: [more() for _ in range(8)]))
""",
    "empty": """
print(refused(lambda: [os.close(os.open(f"e{n}", os.O_WRONLY | os.O_CREAT)) for n in range(5000)]))
""",
    "copied": "print(refused(lambda: os.open('large', os.O_RDWR)))",
    "hole": """
os.ftruncate(fd, 64 * MIB)
print(refused(lambda: mmap.mmap(fd, 64 * MIB)).replace("ENOMEM", "ENOSPC"))
""",
    "hole_later": """
os.ftruncate(fd, 4096)
mapped = mmap.mmap(fd, 4096)
print(refused(lambda: os.ftruncate(fd, 64 * MIB)))
""",
    "protect": """
os.ftruncate(fd, 64 * MIB)
print(refused(lambda: mmap.mmap(fd, 64 * MIB, prot=mmap.PROT_READ)).replace("ENOMEM", "ENOSPC"))
""",
    "clone": """
import fcntl
print(refused(lambda: fcntl.ioctl(fd, 0x40049409, os.open("large", os.O_RDONLY))).replace("ENOTSUP", "ENOSPC"))
""",
    "vector": """
import struct
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.argtypes = [ctypes.c_long, ctypes.c_ulong, ctypes.c_void_p, ctypes.c_ulong]
block = ctypes.create_string_buffer(2 * MIB)
pairs = struct.pack("=QQ", ctypes.addressof(block), 2 * MIB)
numbers = {"x86_64": 20, "aarch64": 66, "riscv64": 66}  # the kernel sees 32 bits of how many there are: one
assert libc.syscall(numbers[os.uname().machine], fd, pairs, (1 << 32) + 1) == -1
print(errno.errorcode[ctypes.get_errno()])
""",
    "bytes": """
print(refused(lambda: [os.pwrite(fd, b"x", n * 8192) for n in range(600)]))
""",
    "far": """
os.ftruncate(fd, 4096)
mapped = mmap.mmap(fd, 4096)
said = {
    refused(lambda: os.pwrite(fd, b"x", 64 * MIB)),
    refused(lambda: os.pwritev(fd, [b"x"], 64 * MIB)),
    refused(lambda: os.copy_file_range(os.open("small", os.O_RDONLY), fd, 1, 0, 64 * MIB)),
    refused(lambda: os.truncate("new", 64 * MIB)),
    refused(lambda: (os.lseek(fd, 64 * MIB, 0), os.write(fd, b"x"))),
}
print(*said)
""",
    "attribute": """
def more(number):
    fd = os.open(f"x{number}", os.O_CREAT | os.O_RDONLY, 0o600)
    os.setxattr(fd, "user.big", bytes(3000))
    os.close(fd)
print(refused(lambda: [more(number) for number in range(300)]))
""",
    "folder_attribute": """
def more(number):
    os.mkdir(f"x{number}")
    fd = os.open(f"x{number}", os.O_RDONLY)
    os.setxattr(fd, "user.big", bytes(3000))
    os.close(fd)
print(refused(lambda: [more(number) for number in range(300)]))
""",
    "queued": """
libc = ctypes.CDLL(None, use_errno=True)
context = ctypes.c_ulong(0)
numbers = {"x86_64": 206, "aarch64": 0, "riscv64": 0}
assert libc.syscall(numbers[os.uname().machine], 8, ctypes.byref(context)) == -1
print(errno.errorcode[ctypes.get_errno()].replace("ENOSYS", "ENOSPC"))
""",
}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    work = tmp_path / "work"
    work.mkdir()
    (work / "small").write_text("small\n")
    (work / "large").write_bytes(bytes(2 << 20))
    return work


def run(tree: Path, code: str, **fields: Any) -> Result:
    big = tree.parent / "big"
    big.write_bytes(bytes(2 << 20))
    fields = {"max_disk": LIMIT, "on_exit": "keep", "on_error": "keep", **fields}
    box = Sandbox(
        workdir=str(tree), cwd=str(tree), fs_storage=str(tree.parent / "storage"),
        fs_readable=[*SYSTEM, sys.base_prefix, str(big)], fs_writable=["-/dev/null"], **fields,
    )  # fmt: skip
    return box.run([os.path.realpath(sys.executable), "-I", "-c", PRELUDE + code.replace("/big", str(big))], timeout=60)


def held(result: Result) -> int:
    """Return the bytes that a branch that was kept takes on the disk."""
    assert result.branch
    upper = Path(result.branch, "upper")
    return sum(os.lstat(path).st_blocks * 512 for path in upper.rglob("*"))


@pytest.mark.parametrize("way", WAYS)
def test_fs23_a_branch_is_not_filled_past_its_limit(tree: Path, way: str) -> None:
    result = run(tree, WAYS[way])
    assert result.stdout == b"ENOSPC\n", result.stderr.decode()
    assert held(result) <= LIMIT
    if way in ("write", "pieces"):
        assert any(denial.errno == 28 for denial in result.denials), result.denials


def test_what_fits_is_written_and_committed(tree: Path) -> None:
    code = """
os.write(fd, bytes(MIB // 4))
os.pwritev(fd, [bytes(MIB // 4)], MIB // 4)
mapped = mmap.mmap(fd, MIB // 2)
mapped[:5] = b"first"
other = os.open("small", os.O_RDWR)
print(os.copy_file_range(fd, other, 1000, 0, 6))
for _ in range(100):  # what goes makes room
    os.close(os.open("passing", os.O_WRONLY | os.O_CREAT))
    with open("passing", "wb") as file:
        file.write(bytes(MIB // 4))
    os.unlink("passing")
r, w = os.pipe()
os.write(w, b"pipes are nobody's disk")
"""
    result = run(tree, code, on_exit="commit")
    assert result.success, result.stderr.decode()
    assert result.stdout == b"1000\n"
    assert (tree / "new").read_bytes()[:6] == b"first\0" and (tree / "new").stat().st_size == LIMIT // 2
    assert (tree / "small").stat().st_size == 1006


def test_only_the_branch_is_counted(tree: Path) -> None:
    code = """
with open(os.environ["TMPDIR"] + "/x", "wb") as file:
    file.write(bytes(3 * MIB))
print(os.path.getsize(os.environ["TMPDIR"] + "/x") // MIB)
"""
    assert run(tree, code, private_tmp=True).stdout == b"3\n"


def test_a_program_that_races_itself_past_a_question_ends(tree: Path) -> None:
    """Between the question and the call the fd becomes another file: that is seen, and bounded."""
    code = """
null = os.open("/dev/null", os.O_WRONLY)
flip = os.dup(null)
stop = False
def turn():
    while not stop:
        os.dup2(fd, flip)
        os.dup2(null, flip)
threading.Thread(target=turn, daemon=True).start()
import time
end, block = time.monotonic() + 5, bytes(4 * MIB)
while time.monotonic() < end:
    try:
        os.pwrite(flip, block, 0)
        os.lseek(fd, 0, 2)
    except OSError:
        pass
stop = True
"""
    result = run(tree, code)
    assert held(result) <= LIMIT + LIMIT // 8 + (16 << 20) + (8 << 20)


def test_the_limit_and_required_namespaces_contradict(tree: Path) -> None:
    with pytest.raises(PolicyError, match=r"limits\.disk"):
        Sandbox(workdir=str(tree), max_disk="1M", namespaces="require")


def test_not08_a_program_that_cannot_be_looked_at_writes_nothing_uncounted(
    tree: Path, compile_c: Callable[..., Path]
) -> None:
    """Who may be executed and not read is not dumpable: what its fds lead to is hidden from an ordinary user."""
    built = compile_c(
        "#include <unistd.h>\nchar block[1 << 20];\n"
        "int main(void) { for (int i = 0; i < 4; i++) if (write(1, block, sizeof block) < 0) return 3; return 0; }"
    )
    program = tree.parent / "unreadable"
    shutil.copy(built, program)
    program.chmod(0o111)
    box = Sandbox(
        workdir=str(tree), cwd=str(tree), fs_storage=str(tree.parent / "storage"), max_disk=LIMIT,
        on_exit="keep", on_error="keep", fs_readable=[*SYSTEM, str(program)],
    )  # fmt: skip
    result = box.run(["/bin/sh", "-c", f"exec {program} >new"], timeout=60)
    assert result.exit_code == 3, result
    assert held(result) <= LIMIT
