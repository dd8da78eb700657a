"""Run one folder of tests with the interpreter of this environment: as root, and again as an ordinary user.

    python tools/run_tests.py packages/sandlock-arch/tests [PYTEST OPTIONS]

The tests are copied to the stage first, so that they see the installed wheels and nothing of the checkout. Run by an
ordinary user, only that user's half runs. One JUnit file per half is left in build/results.
"""

from __future__ import annotations

import json
import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from stage import RESULTS, is_reachable, stage
from summary import read
from workspace import ROOT

__all__ = ["main", "promised_commands", "within_time"]

USER = "sandlock-test"  # an account of ours: a human's is never used
# Suites whose halves run one after the other: their tests measure. All others wait more than they compute.
ALONE = ("packages/sandlock-sys/tests",)
COMMANDS = Path(__file__).with_name("test_commands.txt")
# What the CI machine has: a test that needs one of these fails there where it would be skipped elsewhere.
PROMISED_ON_CI = (
    "landlock=7,seccomp=2,pidfd=3,user_namespace,mount_namespace,pid_namespace,ptrace,write_notes,compiler,ipv4,"
    "two_cpus"
)
# Stands in for the report of a run that ended before it wrote one, so that it counts as a failure.
_CRASHED = '<testsuites><testsuite><testcase name="run"><error/></testcase></testsuite></testsuites>\n'


def main() -> None:
    """Run both halves; exit with 1 if one failed."""
    folder, options = sys.argv[1], sys.argv[2:]
    if not any((ROOT / folder).rglob("test_*.py")):
        RESULTS.mkdir(parents=True, exist_ok=True)
        (RESULTS / f"{folder.replace('/', '-')}.xml").write_text(_CRASHED)
        sys.exit(f"{folder} holds no test")
    work = _copy(ROOT / folder)
    accounts = [pwd.getpwuid(os.geteuid())]
    if os.geteuid() == 0:
        accounts.append(_ordinary_user())
        if not is_reachable(Path(sys.prefix)):
            sys.exit(f"{sys.prefix} is closed to {USER}; nox must make its environments in the stage (noxfile.py)")
    else:
        print(f"run by {accounts[0].pw_name}: the half of the tests that runs as root is left out", flush=True)
    if len(accounts) > 1 and folder not in ALONE:
        with ThreadPoolExecutor(len(accounts)) as pool:
            statuses = list(pool.map(lambda account: _run(work, folder, account, options, held=True), accounts))
    else:
        statuses = [_run(work, folder, account, options) for account in accounts]
    sys.exit(any(statuses))


def _copy(folder: Path) -> Path:
    """Copy tests and pytest's settings to the stage; returns the root of the copy."""
    work = stage() / "runs" / folder.relative_to(ROOT).as_posix().replace("/", "-")
    shutil.rmtree(work, ignore_errors=True)
    shutil.copytree(folder, work / folder.relative_to(ROOT), ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", work)
    shutil.copytree(ROOT / "docs", work / "docs")  # a hole is closed or listed, an option exists: some tests read that
    for page in (ROOT / "README.md", *ROOT.glob("packages/*/README.md")):
        (work / page.relative_to(ROOT)).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(page, work / page.relative_to(ROOT))
    subprocess.run(["chmod", "-R", "a+rX", str(work)], check=True)
    return work


def _ordinary_user() -> pwd.struct_passwd:
    try:
        return pwd.getpwnam(USER)
    except KeyError:
        subprocess.run(["useradd", "--create-home", "--user-group", "--shell", "/bin/sh", USER], check=True)
        return pwd.getpwnam(USER)


def _run(work: Path, folder: str, account: pwd.struct_passwd, options: list[str], *, held: bool = False) -> int:
    """Run one half; with `held` its output is printed at the end, in one piece."""
    label = (
        os.environ.get("SANDLOCK_TEST_LABEL", "")
        + f"{folder.removeprefix('packages/').removesuffix('/tests')}-{'root' if account.pw_uid == 0 else 'user'}"
    )
    if not held:
        print(f"== {label}", flush=True)
    with tempfile.TemporaryDirectory(prefix="sandlock-", dir="/tmp") as temporary:  # short: sun_path has 108 bytes
        os.chmod(temporary, 0o755)  # noqa: S103 -- programs that a test compiles must be reachable by others
        os.chown(temporary, account.pw_uid, account.pw_gid)
        report = Path(temporary, "report.xml")
        command = [sys.executable, "-m", "pytest", "-c", str(work / "pyproject.toml"), "--rootdir", str(work)]
        command += [
            "-p",
            "no:cacheprovider",
            f"--junitxml={report}",
            f"--basetemp={temporary}/t",
            "-o",
            f"junit_suite_name={label}",
        ]
        done = subprocess.run(
            [*_as(account), *command, str(work / folder), *within_time(), *options],
            cwd=work,
            env=_environment(account, temporary),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE if held else None,
            stderr=subprocess.STDOUT if held else None,
            text=True,
            errors="replace",
            check=False,
        )
        if held:
            print(f"== {label}\n{done.stdout}", flush=True)
        RESULTS.mkdir(parents=True, exist_ok=True)
        if report.exists():
            shutil.copyfile(report, RESULTS / f"{label}.xml")
        else:
            (RESULTS / f"{label}.xml").write_text(_CRASHED)
    if within_time():  # pytest calls it a failure when that is over; what ran is what counts
        return int(not 0 <= done.returncode <= 1 or read(RESULTS / f"{label}.xml")[0].failed > 0)
    return done.returncode


def within_time() -> list[str]:
    """The option that ends a half after a test, when its time is over (tools/kernels.py)."""
    seconds = os.environ.get("SANDLOCK_TEST_SECONDS", "")
    return [f"--session-timeout={seconds}"] if seconds else []


def promised_commands() -> list[str]:
    """The programs that tools/check.sh installs, as features that a test can need: `command:NAME`."""
    rows = [line.split() for line in COMMANDS.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    return [f"command:{row[0]}" for row in rows if row]


def _as(account: pwd.struct_passwd) -> list[str]:
    """The command that becomes `account`; nothing else is dropped, no_new_privs above all: setting it is our job."""
    if account.pw_uid == os.geteuid():
        return []
    return ["setpriv", f"--reuid={account.pw_uid}", f"--regid={account.pw_gid}", "--clear-groups", "--"]


def _environment(account: pwd.struct_passwd, temporary: str) -> dict[str, str]:
    """The same small environment for everyone: what a test needs it sets itself."""
    environment = {
        "PATH": f"{Path(sys.executable).parent}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": account.pw_dir,
        "USER": account.pw_name,
        "LOGNAME": account.pw_name,
        "LANG": "C.UTF-8",
        "TMPDIR": temporary,
        "HYPOTHESIS_STORAGE_DIRECTORY": f"{temporary}/hypothesis",
    }
    passed_on = {
        name: os.environ[name] for name in ("CI", "SANDLOCK_REQUIRE", "SANDLOCK_LANDLOCK_ABI") if name in os.environ
    }
    if "SANDLOCK_OLDER_KERNEL" in os.environ:  # tools/kernels.py
        passed_on["PYTHONPATH"] = str(ROOT / "tools" / "older_kernel")
    if "SANDLOCK_SANITIZED" in os.environ:  # tools/sanitize.py
        passed_on |= json.loads(os.environ["SANDLOCK_SANITIZED"])
    if passed_on.get("CI"):
        passed_on.setdefault("SANDLOCK_REQUIRE", ",".join([PROMISED_ON_CI, *promised_commands()]))
    return environment | passed_on


if __name__ == "__main__":
    main()
