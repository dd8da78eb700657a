"""Run tests under a Debian kernel that is older than this machine's, in a virtual machine over this file system.

    python tools/kernels.py 6.1                   both of what follows, every suite of SUITES within its time
    python tools/kernels.py 6.1 report            what docs/machines/x86_64-6.1.json records, by an ordinary user
    python tools/kernels.py 6.1 tests-integration [PYTEST OPTIONS]
    python tools/kernels.py host                  the same on this kernel, its Landlock used as Linux 6.1's (ABI 2)

The report must make the claims of its record: which degradations are named, what is held, what is refused. With
`--record` the record is written instead, and `tools/gen_support_matrix.py` makes the support matrix of it.

Below a kernel whose Landlock is older than a policy asks for, the tests give up by name what it lacks (older_kernel/).
Needs root, Debian and virtme-ng. The kernel's package is unpacked into the stage, never installed. Hardware
virtualisation is used where it works; without it everything takes some ten times as long.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from machine_compare import differences
from stage import RESULTS, stage
from workspace import ROOT

__all__ = ["KERNELS", "SUITES", "main", "suites_script"]

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


# What runs without further words, and how many seconds each half of it may take: two hours in all, and the report's
# half an hour. What has not run by then is left out, and the closing counts say how many did. Those that meet the
# kernel most come first; the suites of policy and arch compute alone, and of the rest only a few tests ask the kernel.
SUITES = (
    ("packages/sandlock-sys/tests", 600),
    ("packages/sandlock-runtime/tests", 1200),
    ("packages/sandlock-cli/tests", 900),
    ("packages/sandlock-notif/tests", 1200),
    ("tests-integration", 1800),
    ("packages/sandlock-checkpoint/tests", 900),
    ("packages/sandlock-cow/tests", 600),
)
_NOBODY = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--", "env")
_MACHINES = ROOT / "docs" / "machines"


def main() -> None:
    """Boot the kernel named first, or take this one, and do what the words behind it say."""
    version, *words = sys.argv[1:]
    record = "--record" in words
    words = [word for word in words if word != "--record"]
    script = []
    RESULTS.mkdir(parents=True, exist_ok=True)
    report = RESULTS / f"machine-{version}.json"
    if not words or words[0] == "report":
        report.unlink(missing_ok=True)
        script.append(_report_script(version, report))
    if not words or words[0] != "report":
        script.append(suites_script(version, words))
    if version == "host":
        status = subprocess.run(["sh", "-c", "; ".join(script)], check=False).returncode
    else:
        status = _boot_and_run(version, "; ".join([_DISK, *script]))
    if not words or words[0] == "report":
        status |= _judge(version, report, record=record)
    sys.exit(status)


def _label(version: str) -> str:
    """The name of a kernel's record."""
    kernel = ".".join(platform.release().split(".")[:2]) if version == "host" else version
    return f"{platform.machine()}-{kernel}"


def _report_script(version: str, target: Path) -> str:
    """The command that leaves a report in `target`; home and TMPDIR are on the disk that keeps user attributes."""
    folder = ["HOME=/mnt", "TMPDIR=/mnt"] if version != "host" else ["HOME=/tmp"]
    told = shlex.join([*_NOBODY, *folder, sys.executable, str(ROOT / "tools/machine_report.py"), _label(version)])
    return f"{told} >{shlex.quote(str(target))}"


def suites_script(version: str, words: list[str]) -> str:
    """The command that runs a suite, or all of SUITES; its status is 0 if no test failed."""
    promised = KERNELS["6.1" if version == "host" else version].promised
    environment = {"SANDLOCK_REQUIRE": promised, "SANDLOCK_OLDER_KERNEL": "1", "SANDLOCK_TEST_LABEL": f"{version}-"}
    if version == "host":
        environment["SANDLOCK_LANDLOCK_ABI"] = "2"
    lines = ["failed=0"]
    for folder, seconds in [(words[0], 0)] if words else SUITES:
        bound = {"SANDLOCK_TEST_SECONDS": str(seconds)} if seconds else {}
        pairs = [f"{name}={value}" for name, value in {**environment, **bound}.items()]
        tests = [sys.executable, str(ROOT / "tools" / "run_tests.py"), folder, "-o", "timeout=900", *words[1:]]
        lines.append(f"{shlex.join(['env', *pairs, *tests])} || failed=1")
    return "; ".join([*lines, "( exit $failed )"])


def _judge(version: str, report: Path, *, record: bool) -> int:
    """Compare a report with its record, or make it the record; returns 1 if they differ."""
    found = json.loads(report.read_text(encoding="utf-8") or "{}") if report.exists() else {}
    if not found:
        print(f"{version}: there is no report", flush=True)
        return 1
    target = _MACHINES / f"{_label(version)}.json"
    if record:
        target.write_text(report.read_text(encoding="utf-8"), encoding="utf-8")
        return 0
    if not target.exists():
        print(f"{version}: no record of this kernel to compare with ({target.relative_to(ROOT)})", flush=True)
        return 0
    told = differences(json.loads(target.read_text(encoding="utf-8")), found)
    print("\n".join([*told, f"{version}: {len(told)} claims differ from {target.relative_to(ROOT)}"]), flush=True)
    return int(bool(told))


def _boot_and_run(version: str, script: str) -> int:
    """Run `script` as root below an older kernel."""
    if os.geteuid() != 0:
        sys.exit("only root can install the virtual machine and share the file system with it")
    subprocess.run(["apt-get", "update", "-q"], check=True, stdout=subprocess.DEVNULL)
    install = ["apt-get", "install", "-q", "-y", "--no-install-recommends", *_PROGRAMS]
    subprocess.run(install, check=True, stdout=subprocess.DEVNULL)
    image = _unpack(KERNELS[version])
    return _boot(image, script, accelerated=_kvm_works(image))


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
    machine += ["--append", "mitigations=off"]  # the page tables are not changed at every call: TCG loses much by it
    machine += [f"--rwdir={ROOT}", f"--rwdir={stage()}", *([] if accelerated else ["--disable-kvm"])]
    done = subprocess.run([*machine, "--", command], stdin=subprocess.DEVNULL, check=False, timeout=timeout_s)
    return done.returncode


if __name__ == "__main__":
    main()
