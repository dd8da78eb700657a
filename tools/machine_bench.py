"""The place where a trial of the support matrix works, and what it may tell."""

from __future__ import annotations

import contextlib
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sandlock import LayerMissingError, Result, Sandbox, SandlockError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["PATIENCE_S", "PYTHON", "SYSTEM", "Bench", "Seen", "bench", "try_one"]

SYSTEM = ["/usr", "-/bin", "-/sbin", "-/lib", "-/lib64", "-/etc/ld.so.cache", "-/etc/alternatives", "-/dev/urandom"]
PYTHON = "/usr/bin/python3"
PATIENCE_S = 120.0  # for one run, on a machine that is emulated and shared


@dataclass(frozen=True, slots=True)
class Seen:
    """What a trial showed: `held`, `works`, `open` (the attack won), `refused` (by a typed error), `failed`."""

    state: str
    how: str = ""


@dataclass(slots=True)
class Bench:
    """Where a trial works: a folder with `read/file` (granted for reading), `work/` (for writing), `secret`."""

    folder: Path
    agreed: tuple[str, ...] = ()
    fields: dict[str, Any] = field(default_factory=dict)

    @property
    def target(self) -> Path:
        """A file of ours that may be read and nothing else."""
        return self.folder / "read" / "file"

    def sandbox(self, **fields: Any) -> Sandbox:
        """A sandbox that agrees to go without what is missing here."""
        readable = [*SYSTEM, str(self.folder / "read"), *fields.pop("more", ())]
        given = {"fs_readable": readable, "fs_writable": [str(self.folder / "work"), "-/dev/null"], **fields}
        given.setdefault("cwd", str(self.folder / "work"))
        return Sandbox(allow_degraded=self.agreed, **self.fields, **given)

    def run(self, code: str, *words: str, **fields: Any) -> Result:
        """Run Python code in it."""
        with self.sandbox(**fields) as made:
            return made.run([PYTHON, "-I", "-S", "-c", code, *words], timeout=PATIENCE_S)

    def layer(self, result: Result, name: str) -> str:
        """Which layer held protection `name`, or that it was degraded."""
        row = next(row for row in result.protections if row.name == name)
        return row.layer if row.state == "active" else f"{row.state}: {row.detail or row.layer}"


@contextlib.contextmanager
def bench(**fields: Any) -> Iterator[Bench]:
    """A bench in a temporary folder."""
    with tempfile.TemporaryDirectory(prefix="sandlock-machine-") as name:
        folder = Path(name)
        for part in ("read", "work", "root", "tree"):
            (folder / part).mkdir()
        for path in (folder / "read/file", folder / "secret", folder / "tree/file"):
            path.write_text("content\n")
        made = Bench(folder, (), fields)
        with contextlib.suppress(SandlockError):
            try:
                made.run("")
            except LayerMissingError as error:
                made.agreed = tuple(error.protections)
        yield made


def try_one(trial: Callable[[Bench], Seen], place: Bench) -> Seen:
    """Run one trial; what is refused by a typed error is a finding, anything else that is raised a failure.

    Where more than what a plain run lacks is missing, it is given up too, and named in the finding.
    """
    given_up = ""
    try:
        try:
            return trial(place)
        except LayerMissingError as error:
            if set(error.protections) <= set(place.agreed) or trial.__name__ == "plain":
                raise
            given_up = f"giving up {', '.join(error.protections)}"
            place.agreed = (*place.agreed, *error.protections)
            seen = trial(place)
            return Seen(seen.state, "; ".join(filter(None, [given_up, seen.how])))
    except SandlockError as error:
        first = str(error).splitlines()
        return Seen("refused", f"{type(error).__name__}: {' '.join(line.strip() for line in first)}")
    except Exception as error:  # noqa: BLE001 - a crash is what this looks for
        return Seen("failed", f"{type(error).__name__}: {error}")
