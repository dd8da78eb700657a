"""Functions for the tests of clones: a module, so that the template can import it."""

from __future__ import annotations

import os
import sys
import time

loaded: list[object] = []


def load() -> None:
    loaded.append(os.getpid())
    loaded.append(bytearray(8 << 20))


def tell(number: int) -> None:
    print(number, os.environ["CLONE_ID"], len(loaded), loaded[0] != os.getpid(), loaded[0] == os.getppid())


def much(number: int) -> None:
    sys.stdout.write(str(number) * 300_000)


def fail_some(number: int) -> None:
    if number == 1:
        raise ValueError("one fails")
    if number == 2:
        os.kill(os.getpid(), 9)
    if number == 3:
        sys.exit(7)


def broken() -> None:
    raise RuntimeError("cannot load")


def sleep(number: int) -> None:
    time.sleep(1000)


def read_canary(number: int) -> None:
    with open(os.environ["CANARY"]) as file:
        print(file.read())


def fork_more(number: int) -> None:
    made = 0
    try:
        for _ in range(20):
            if os.fork() == 0:
                time.sleep(1000)
            made += 1
    except BlockingIOError:
        print("refused", made)
