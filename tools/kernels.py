"""Run tests under a Debian kernel that is older than this machine's, in a virtual machine over this file system.

    python tools/kernels.py 6.1 tests-integration [PYTEST OPTIONS]
    python tools/kernels.py 6.1 report            what docs/machines/x86_64-6.1.json records, by an ordinary user

Below a kernel whose Landlock is older than a policy asks for, the tests give up by name what it lacks (older_kernel/).
Needs root, Debian and virtme-ng. The kernel's package is unpacked into the stage, never installed. Hardware
virtualisation is used where it works; without it everything takes some ten times as long.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from stage import stage
from workspace import ROOT

__all__ = ["KERNELS", "main"]

_PROGRAMS = ("qemu-system-x86", "busybox-static", "kmod", "udev")
_KVM_TRIAL_S = 60
# A file system that keeps user attributes, which the machine's /tmp does not before Linux 6.6.
_DISK = (
    "truncate -s 512M /tmp/disk && mkfs.ext4 -qF /tmp/disk && modprobe -a loop ext4 && "
    "mount -o loop /tmp/disk /mnt && chmod 777 /mnt"
)


@dataclass(frozen=True, slots=True)
class Kernel:
    """A kernel to boot: the Debian package that depends on its newest build, and what that build promises."""

    package: str
    promised: str


KERNELS = {
    "6.1": Kernel("linux-image-amd64", "landlock=2,seccomp=2,pidfd=2,compiler,ipv4"),
    "6.12": Kernel("linux-image-6.12-amd64", "landlock=6,seccomp=2,pidfd=3,compiler,ipv4"),
}


def main() -> None:
    """Boot the kernel named first, and run the tests named second in it."""
    version, folder, *options = sys.argv[1:]
    if os.geteuid() != 0:
        sys.exit("only root can install the virtual machine and share the file system with it")
    subprocess.run(["apt-get", "update", "-q"], check=True, stdout=subprocess.DEVNULL)
    install = ["apt-get", "install", "-q", "-y", "--no-install-recommends", *_PROGRAMS]
    subprocess.run(install, check=True, stdout=subprocess.DEVNULL)
    image = _unpack(KERNELS[version])
    if folder == "report":
        nobody = [
            "setpriv",
            "--reuid=65534",
            "--regid=65534",
            "--clear-groups",
            "--",
            "env",
            "HOME=/mnt",
            "TMPDIR=/mnt",
        ]
        told = [*nobody, sys.executable, str(ROOT / "tools/machine_report.py"), f"x86_64-{version}"]
        sys.exit(_boot(image, f"{_DISK} && {shlex.join(told)}", accelerated=_kvm_works(image)))
    tests = [sys.executable, str(ROOT / "tools" / "run_tests.py"), folder, "-o", "timeout=900", *options]
    environment = [f"SANDLOCK_REQUIRE={KERNELS[version].promised}", "SANDLOCK_OLDER_KERNEL=1"]
    sys.exit(_boot(image, shlex.join(["env", *environment, *tests]), accelerated=_kvm_works(image)))


def _unpack(kernel: Kernel) -> Path:
    """Fetch and unpack the kernel and its modules; returns the image."""
    told = subprocess.run(["apt-cache", "depends", kernel.package], capture_output=True, text=True, check=True)
    match = re.search(r"Depends: (linux-image-(\S+))", told.stdout)
    if match is None:
        sys.exit(f"{kernel.package} depends on no kernel image:\n{told.stdout}")
    name, release = match.groups()
    folder = stage() / "kernels" / release
    image = folder / "boot" / f"vmlinuz-{release}"
    if not image.exists():
        folder.mkdir(parents=True, exist_ok=True)
        subprocess.run(["apt-get", "download", "-q", name], cwd=folder, check=True)
        for archive in folder.glob("*.deb"):
            subprocess.run(["dpkg", "-x", str(archive), str(folder)], check=True)
            archive.unlink()
        subprocess.run(["depmod", "-b", str(folder), release], check=True)
    return image


def _kvm_works(image: Path) -> bool:
    """Boot once with KVM: inside another virtual machine it may be there, and fail or hang."""
    try:
        return _boot(image, "true", accelerated=True, timeout_s=_KVM_TRIAL_S) == 0
    except subprocess.TimeoutExpired:
        return False


def _boot(image: Path, command: str, *, accelerated: bool, timeout_s: float | None = None) -> int:
    """Run `command` as root in the machine, with the checkout and the stage writable; returns its exit status."""
    machine = ["vng", "--run", str(image), "--force-9p", "--user", "root", "--cpus", "2", "--memory", "4G"]
    machine += [f"--rwdir={ROOT}", f"--rwdir={stage()}", *([] if accelerated else ["--disable-kvm"])]
    done = subprocess.run([*machine, "--", command], stdin=subprocess.DEVNULL, check=False, timeout=timeout_s)
    return done.returncode


if __name__ == "__main__":
    main()
