"""Boot Debian's kernel for another architecture in an emulated machine, with a Debian root of its own, for the report.

    python tools/emulated.py aarch64            print the report (docs/machines/aarch64-6.1.json) of an ordinary user
    python tools/emulated.py riscv64 SCRIPT     run a shell script as root instead; the sources are below /code

Needs root, Debian, an environment with cffi (build_native.py runs in it) and half an hour of a shared processor.
Nothing foreign is installed here: packages are unpacked into the stage, with an apt state of its own. The root is
Debian's minbase with Python, unpacked and not configured, which the trials do not miss.
"""

from __future__ import annotations

import gzip
import os
import re
import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

from stage import stage
from workspace import ROOT

__all__ = ["TARGETS", "Target", "main"]


@dataclass(frozen=True, slots=True)
class Target:
    """A machine to emulate: what it runs, and what makes and boots that.

    Attributes:
        debian, suite: Debian's name of the architecture, and the release.
        updated: with its security updates; otherwise the kernel is that of the last point release.
        python: of that release.
        emulator, compiler: Debian packages; `machine`: the words that start the first.
        console: where the kernel writes.
        wheels: from PyPI, where it has them for this machine; `packages`: from Debian otherwise.
        label: of the record.

    """

    debian: str
    suite: str
    updated: bool
    python: str
    emulator: str
    compiler: str
    machine: tuple[str, ...]
    console: str
    wheels: tuple[str, ...]
    packages: tuple[str, ...]
    label: str


TARGETS = {
    "aarch64": Target(
        "arm64",
        "bookworm",
        True,
        "3.11",
        "qemu-system-arm",
        "gcc-aarch64-linux-gnu",
        ("qemu-system-aarch64", "-M", "virt", "-cpu", "max,pauth-impdef=on"),
        "ttyAMA0",
        ("cffi", "pycparser", "pyelftools", "h11", "cryptography"),
        (),
        "aarch64-6.1",
    ),
    "riscv64": Target(
        "riscv64",
        "trixie",
        False,
        "3.13",
        "qemu-system-misc",
        "gcc-riscv64-linux-gnu",
        ("qemu-system-riscv64", "-M", "virt"),
        "ttyS0",
        (),
        ("python3-cffi-backend", "python3-pyelftools", "python3-h11", "python3-cryptography"),
        "riscv64-6.12",
    ),
}
_HERE = (
    "qemu-system-common",
    "opensbi",
    "debootstrap",
    "busybox-static",
    "kmod",
    "e2fsprogs",
)
_INSIDE = ("python3", "python3-dev", "iproute2", "mount", "procps", "strace", "util-linux", "passwd")
_MODULES = ("virtio_pci", "virtio_blk", "crc32c-generic", "ext4", "overlay")
_MIRROR = "http://deb.debian.org/debian"
_INIT = """\
#!/bin/sh
b=/bin/busybox
$b mount -t proc proc /proc; $b mount -t devtmpfs dev /dev
for m in /modules/*; do $b insmod $m; done
$b mount -t ext4 /dev/vda /root; $b mount -t ext4 -o ro /dev/vdb /root/code
$b mount --move /dev /root/dev; $b umount /proc
exec $b switch_root /root /usr/sbin/init-machine
"""
_START = """\
#!/bin/sh
export PATH=/usr/bin:/bin:/usr/sbin:/sbin HOME=/root LANG=C.UTF-8 PYTHONDONTWRITEBYTECODE=1
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t tmpfs -o mode=1777 run /run
mkdir -p /dev/pts /dev/shm; mount -t devpts -o mode=620,ptmxmode=666 pts /dev/pts; mount -t tmpfs shm /dev/shm
chmod 1777 /tmp; ip link set lo up
export PYTHONPATH=$(echo /code/packages/*/src | tr ' ' ':')
cd /tmp; sh /code/script
echo o >/proc/sysrq-trigger; sleep 9
"""
_REPORT = """\
setpriv --reuid=1001 --regid=1001 --clear-groups -- python3 /code/tools/machine_report.py LABEL >/tmp/report
echo "== report"; cat /tmp/report; echo "== end"
"""


def main() -> None:
    """Make what is missing of the machine, boot it, and print what it says."""
    if os.geteuid() != 0:
        sys.exit("only root can unpack a root file system with its owners")
    name, *scripts = sys.argv[1:]
    target = TARGETS[name]
    work = stage() / name
    work.mkdir(parents=True, exist_ok=True)
    script = Path(scripts[0]).read_text(encoding="utf-8") if scripts else _REPORT.replace("LABEL", target.label)
    _run("apt-get", "install", "-q", "-y", "--no-install-recommends", *_HERE, target.emulator, target.compiler)
    kernel = _kernel(work, target)
    if not (work / "root.ext4").exists():
        _root(work, target)
    _initrd(work, kernel)
    _code(work, target, script)
    _boot(work, target, next(kernel.glob("boot/vmlinu[xz]-*")))


def _run(*command: str | Path, **options: str | Path | dict[str, str]) -> None:
    subprocess.run(command, check=True, stdout=sys.stderr, **options)  # type: ignore[call-overload]  # cwd and env only


def _kernel(work: Path, target: Target) -> Path:
    """Unpack the kernel that linux-image-ARCHITECTURE depends on now."""
    state = work / "apt"
    for part in ("lists/partial", "cache/archives/partial"):
        (state / part).mkdir(parents=True, exist_ok=True)
    (state / "status").touch()
    key = f"[arch={target.debian} signed-by=/usr/share/keyrings/debian-archive-keyring.gpg]"
    suites = f"deb {key} {_MIRROR} {target.suite} main\n"
    if target.updated:
        suites += f"deb {key} {_MIRROR}-security {target.suite}-security main\n"
    (state / "sources").write_text(suites)
    (state / "conf").write_text(
        f'APT::Architecture "{target.debian}"; APT::Architectures {{"{target.debian}";}};\n'
        f'Dir::State "{state}"; Dir::State::status "{state}/status"; Dir::Cache "{state}/cache";\n'
        f'Dir::Etc::sourcelist "{state}/sources"; Dir::Etc::sourceparts "-";\n'
    )
    environment = {**os.environ, "APT_CONFIG": str(state / "conf")}
    _run("apt-get", "update", "-q", env=environment)
    told = subprocess.run(
        ["apt-cache", "depends", f"linux-image-{target.debian}"],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    match = re.search(r"Depends: linux-image-(\S+)", told)
    if match is None:
        sys.exit(f"linux-image-{target.debian} depends on no kernel image:\n{told}")
    folder = work / "kernel" / match[1]
    if not folder.exists():
        folder.mkdir(parents=True)
        _run("apt-get", "download", "-q", f"linux-image-{match[1]}", cwd=folder, env=environment)
        _run("dpkg", "-x", next(folder.glob("*.deb")), folder)
        if not (folder / "lib").exists():
            (folder / "lib").symlink_to("usr/lib")  # since Debian 13 nothing is left there, and depmod looks there
        _run("depmod", "-b", folder, match[1])
    return folder


def _root(work: Path, target: Target) -> None:
    """Unpack a Debian with /usr merged, a user, and the wheels."""
    fetched, root = work / "fetched", work / "root"
    include = ",".join([*_INSIDE, *target.packages])
    options = [f"--arch={target.debian}", "--foreign", "--variant=minbase", f"--include={include}"]
    _run("debootstrap", *options, target.suite, fetched, _MIRROR)
    for folder in ("usr/bin", "usr/sbin", "usr/lib", "code", "home/user"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for name in ("bin", "sbin", "lib"):
        (root / name).symlink_to(f"usr/{name}")
    for archive in sorted(fetched.glob("var/cache/apt/archives/*.deb")):
        # tar keeps the links bin, sbin and lib; dpkg -x would put folders in their place
        _run("sh", "-c", 'dpkg --fsys-tarfile "$1" | tar -x --keep-directory-symlink -C "$2"', "sh", archive, root)
    for name, own in (("passwd", "user:x:1001:1001::/home/user:/bin/sh"), ("group", "user:x:1001:")):
        master = (root / f"usr/share/base-passwd/{name}.master").read_text()
        (root / "etc" / name).write_text(f"{master}{own}\n")
    os.chown(root / "home/user", 1001, 1001)
    wheels = work / "wheels"
    if target.wheels:
        version = f"--python-version={target.python}"
        wanted = ["--only-binary=:all:", f"--platform=manylinux2014_{work.name}", version, "--no-deps"]
        _run(sys.executable, "-m", "pip", "download", "-q", *wanted, "-d", wheels, *target.wheels)
    for wheel in wheels.glob("*.whl"):
        with zipfile.ZipFile(wheel) as content:
            content.extractall(root / "usr/lib/python3/dist-packages")
    start = root / "usr/sbin/init-machine"
    start.write_text(_START)
    start.chmod(0o755)
    _image(root, work / "root.ext4", "1500M")


def _image(folder: Path, image: Path, size: str) -> None:
    image.unlink(missing_ok=True)
    _run("truncate", "-s", size, image)
    _run("mkfs.ext4", "-q", "-d", folder, image)


def _initrd(work: Path, kernel: Path) -> None:
    """Pack busybox, which dpkg -x finds in the fetched root's own architecture, and the modules that reach a disk."""
    folder = work / "initrd"
    shutil.rmtree(folder, ignore_errors=True)
    for name in ("bin", "modules", "dev", "proc", "root"):
        (folder / name).mkdir(parents=True)
    environment = {**os.environ, "APT_CONFIG": str(work / "apt/conf")}
    if not (work / "busybox").exists():
        (work / "busybox").mkdir()
        _run("apt-get", "download", "-q", "busybox-static", cwd=work / "busybox", env=environment)
        _run("dpkg", "-x", next((work / "busybox").glob("*.deb")), work / "busybox")
    shutil.copy(next((work / "busybox").glob("**/bin/busybox")), folder / "bin/busybox")
    (folder / "bin/sh").symlink_to("busybox")
    inserted: list[str] = []
    for module in _MODULES:
        command = ["modprobe", "-d", str(kernel), "-S", kernel.name, "--show-depends", module]
        told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        inserted += re.findall(r"insmod (\S+)", told)
    for number, path in enumerate(dict.fromkeys(inserted)):
        shutil.copy(path, folder / "modules" / f"{number:02}-{Path(path).name}")
    (folder / "init").write_text(_INIT)
    (folder / "init").chmod(0o755)
    packed = subprocess.run(
        ["sh", "-c", "find . | busybox cpio -o -H newc"], cwd=folder, check=True, stdout=subprocess.PIPE
    ).stdout
    (work / "initrd.gz").write_bytes(gzip.compress(packed, 1))


def _code(work: Path, target: Target, script: str) -> None:
    """Make the disk with the sources, the extension built for the machine, and the script."""
    folder = work / "code"
    shutil.rmtree(folder, ignore_errors=True)
    for name in ("packages", "tools", "tests-integration", "docs"):
        shutil.copytree(
            ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "_ffi.abi3.so", "_guard")
        )
    built = folder / "packages/sandlock-sys"
    headers = work / "root/usr/include"
    program = (
        "import sys; from pathlib import Path; sys.path.insert(0, sys.argv[1]); import build_native as b; "
        "b.python_include = lambda: Path(sys.argv[2], sys.argv[3]); b.build()"
    )
    compiler = f"{work.name}-linux-gnu-gcc -idirafter {headers}"
    _run(sys.executable, "-c", program, built, headers, f"python{target.python}", env={**os.environ, "CC": compiler})
    (folder / "script").write_text(script)
    _run("chmod", "-R", "a+rX", folder)
    _image(folder, work / "code.ext4", "300M")


def _boot(work: Path, target: Target, image: Path) -> None:
    """Run the machine on a copy of the root; its console is our output."""
    _run("cp", "--sparse=always", work / "root.ext4", work / "running.ext4")
    machine = [*target.machine, "-smp", "2", "-m", "2G"]
    machine += ["-accel", "tcg,thread=multi", "-nographic", "-no-reboot", "-nic", "none"]
    machine += ["-kernel", str(image), "-initrd", str(work / "initrd.gz")]
    machine += ["-append", f"console={target.console} quiet panic=-1"]
    for name, options in (("running", ""), ("code", ",readonly=on")):
        machine += ["-drive", f"file={work}/{name}.ext4,format=raw,if=none,id={name}{options}"]
        machine += ["-device", f"virtio-blk-pci,drive={name}"]
    done = subprocess.run(["nice", "-n", "15", *machine], stdin=subprocess.DEVNULL, check=False)
    (work / "running.ext4").unlink()
    sys.exit(done.returncode)


if __name__ == "__main__":
    main()
