"""Look for memory errors, undefined behaviour and data races in the C of sandlock-sys.

    python tools/sanitize.py address [FOLDER [PYTEST OPTIONS]]    the tests, with the extension compiled for it
    python tools/sanitize.py thread                               all who use a deputy at once (sanitize/race.c)
    python tools/sanitize.py fuzz [SECONDS]                       what serves notifications, below a kernel that does
                                                                  what the fuzzer likes (sanitize/fuzz.c); needs clang
    python tools/sanitize.py keep FOLDER                          make sanitize/corpus.txt of what the fuzzer found

`address` does not touch the installed package: a copy of it with the other extension comes first in PYTHONPATH. The
sanitizer is loaded into every Python process of the run, and looks at the buffers of system calls as well
(sanitize/calls.h). The guard program, which has no libc to report with, is stopped by an illegal instruction instead.
Both halves run, as with run_tests.py. The interpreter itself cannot run under ThreadSanitizer: it forks beside threads.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from stage import stage
from workspace import ROOT, load

__all__ = ["CHOSEN", "compile_fuzzer", "compile_race", "main", "unpack"]

HERE = Path(__file__).with_name("sanitize")
CORPUS = HERE / "corpus.txt"  # an input a line, in hexadecimal digits
SOURCES = load()["sandlock-sys"].source / "_csrc"
# What has C under it that reads what a program wrote; one after the other.
CHOSEN = (
    ("packages/sandlock-sys/tests", "-k", "not thousand_launches"),  # what was freed is kept for a while: memory grows
    ("packages/sandlock-notif/tests",),
    ("tests-integration", "-k", "test_files or network or test_paths or test_view or test_outsiders or test_lifetime"),
)
# Not part of what is fuzzed: launches, the probe, what the fuzzer is itself, what knows the interpreter.
_OTHERS = (
    *("child", "guard", "guard_main", "init", "mounts", "network", "relay", "spawn", "view"),
    *("probe", "probe_namespaces", "deputy", "notified", "turn"),
)
_BOTH = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all")
_PLAIN = ("-std=gnu11", "-O1", "-g", "-fno-omit-frame-pointer", "-Wall", "-Wextra", "-Wno-unused-parameter")
_GUARD = ("-fsanitize=undefined", "-fsanitize-undefined-trap-on-error")


def main() -> None:
    """Do what is named first; exit with 1 if something was found."""
    kind, *arguments = sys.argv[1:]
    acts = {"address": _test, "thread": _race, "fuzz": _fuzz, "keep": _keep}
    if kind not in acts:
        sys.exit(f"{kind} is nothing that this looks for; say {', '.join(acts)}")
    acts[kind](arguments)


def _run(*command: str | Path) -> None:
    done = subprocess.run(command, check=False)
    if done.returncode:
        sys.exit(1)


def _test(chosen: list[str]) -> None:
    folder = stage() / "sanitize"
    shutil.rmtree(folder, ignore_errors=True)
    package = folder / "sandlock_sys"
    compiled = shutil.ignore_patterns("__pycache__", "_csrc", "_ffi.abi3.so", "_guard")
    shutil.copytree(load()["sandlock-sys"].source, package, ignore=compiled)
    with tempfile.TemporaryDirectory() as work:
        _build(package, Path(work))
    reports = folder / "reports"
    reports.mkdir()
    _run("chmod", "-R", "a+rX", folder)
    reports.chmod(0o1777)
    environment = os.environ | {"SANDLOCK_SANITIZED": json.dumps(_environment(folder, reports))}
    failed = False
    for arguments in [chosen] if chosen else CHOSEN:
        command = [sys.executable, str(ROOT / "tools" / "run_tests.py"), *arguments, "-o", "timeout=0"]
        failed |= subprocess.run(command, env=environment, check=False).returncode != 0
    for report in sorted(reports.iterdir()):
        print(f"== {report.name}\n{report.read_text(errors='replace')}")
        failed = True
    sys.exit(failed)


def _build(package: Path, work: Path) -> None:
    """Compile extension and guard into `package`."""
    sys.path.insert(0, str(load()["sandlock-sys"].folder))
    import build_native  # lazy: it is on no path, and needs cffi and hatchling

    calls = str(work / "calls.o")
    options = [*_PLAIN, *_BOTH, "-Wno-maybe-uninitialized", "-Wno-missing-field-initializers"]
    build_native.run(
        [*build_native.compiler(), *options, "-c", "-fPIC", f"-I{SOURCES}", str(HERE / "calls.c"), "-o", calls]
    )
    looked_at = [*options, "-include", str(HERE / "calls.h")]
    build_native.build_extension(work, package / "_ffi.abi3.so", looked_at, [calls, "-Wl,--wrap=clone,--wrap=munmap"])
    build_native.build_guard(work, package / "_guard", _GUARD)


def _environment(folder: Path, reports: Path) -> dict[str, str]:
    """What run_tests.py adds to the environment of the tests."""
    found = subprocess.run(["gcc", "-print-file-name=libasan.so"], capture_output=True, text=True, check=True)
    library = Path(found.stdout.strip())
    if not library.is_absolute():
        sys.exit("libasan.so is not there: install gcc's sanitizers (Debian: apt install gcc)")
    common = f"abort_on_error=1:log_path={reports}/report"
    return {
        "PYTHONPATH": str(folder),
        "LD_PRELOAD": str(library.resolve()),
        "PYTHONMALLOC": "malloc",  # each buffer of cffi's is a block of its own, with a border around it
        "ASAN_OPTIONS": f"detect_leaks=0:{common}",  # the interpreter keeps much to its end
        "UBSAN_OPTIONS": f"print_stacktrace=1:{common}",
    }


def compile_race(target: Path) -> None:
    """Compile the program that uses a deputy from many threads."""
    sources = [HERE / "race.c", SOURCES / "deputy.c"]
    _run("gcc", *_PLAIN, "-fsanitize=thread", "-pthread", f"-I{SOURCES}", *sources, "-o", target)


def compile_fuzzer(target: Path, *more: str | Path, compiler: str = "gcc") -> None:
    """Compile what serves notifications, above the fuzzer's kernel; `more` has the loop around it."""
    sources = [HERE / "fuzz.c", *(file for file in SOURCES.glob("*.c") if file.stem not in _OTHERS)]
    included: list[str | Path] = ["-Wno-missing-field-initializers", f"-I{SOURCES}", "-include", HERE / "calls.h"]
    _run(compiler, *_PLAIN, *_BOTH, *included, *more, *sources, "-o", target)


def _race(_: list[str]) -> None:
    with tempfile.TemporaryDirectory() as work:
        compile_race(Path(work, "race"))
        _run(Path(work, "race"))


def unpack(folder: Path) -> None:
    """Write the inputs of the corpus into files of their own."""
    for number, line in enumerate(CORPUS.read_text().split()):
        (folder / f"{number:04}").write_bytes(bytes.fromhex(line))


def _clang() -> str:
    found = next((name for name in ("clang", "clang-19", "clang-14") if shutil.which(name)), None)
    return found or sys.exit("there is no clang: install it (Debian: apt install clang libclang-rt-14-dev)")


def _fuzz(arguments: list[str]) -> None:
    seconds = int(arguments[0]) if arguments else 300
    folder = stage() / "fuzzed"
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "found").mkdir(parents=True)
    unpack(folder / "found")
    compile_fuzzer(folder / "fuzz", "-fsanitize=fuzzer", compiler=_clang())
    options = [f"-max_total_time={seconds}", "-max_len=1024", "-timeout=10", f"-artifact_prefix={folder}/"]
    _run(folder / "fuzz", folder / "found", *options, "-verbosity=0", "-print_final_stats=1")
    print(f"nothing was found; `python tools/sanitize.py keep {folder / 'found'}` keeps what got further")


def _keep(arguments: list[str]) -> None:
    with tempfile.TemporaryDirectory() as work:
        compile_fuzzer(Path(work, "fuzz"), "-fsanitize=fuzzer", compiler=_clang())
        few = Path(work, "few")
        few.mkdir()
        _run(Path(work, "fuzz"), "-set_cover_merge=1", few, arguments[0])
        CORPUS.write_text("".join(sorted(file.read_bytes().hex() + "\n" for file in few.iterdir())))


if __name__ == "__main__":
    main()
