"""Requests are handed out and answered in C: whatever the handlers do, nothing is lost, leaked or answered twice."""

from __future__ import annotations

import errno
import gc
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from sandlock_sys import notif, pidfd, prctl, seccomp
from sandlock_sys.constants.seccomp import Action, FilterFlag
from sandlock_sys.turn import Notified, Turn

pytestmark = [pytest.mark.needs("seccomp", level=2), pytest.mark.needs("pidfd", level=2)]

AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7, "riscv64": 0xC00000F3}[os.uname().machine]
GO = object()
SECOND_NS = 1_000_000_000


class Call(Notified):
    __slots__ = ("listener",)
    listener: object


class Given:
    def __init__(self, value: Any) -> None:
        self.value = value


class Caller:
    """A child whose every `getpriority(0, n)`, n from 0, is notified; `results()` tells what the calls returned."""

    def __init__(self, pid: int, listener: int, number: int, results: Callable[[], list[int]]) -> None:
        self.pid, self.listener, self.number, self.results = pid, listener, number, results
        self.arch = AUDIT_ARCH

    def turn(self, *hurried: int) -> Turn:
        turn = Turn(self.listener, self.arch, Call, GO, Given, hurried)
        turn.begin(1000, 20 * SECOND_NS)
        return turn

    def serve(self, turn: Turn, *handlers: Callable[[Any], object], answer: tuple[int, ...] = ()) -> Any:
        return turn.serve({self.number: handlers}, self, 10 * SECOND_NS, 10 * SECOND_NS, *answer)


@pytest.fixture
def calling(filter_for: Any, child: Any, numbers: dict[str, int]) -> Callable[[int], Any]:
    @contextmanager
    def start(count: int) -> Iterator[Caller]:
        reader, writer = os.pipe()

        def one(number: int) -> int:
            try:
                return os.getpriority(os.PRIO_PROCESS, number)
            except OSError as error:
                return 1000 + (error.errno or 0)

        def in_child() -> None:
            prctl.set_no_new_privs()
            listener = seccomp.set_mode_filter(filter_for("getpriority", Action.USER_NOTIF), FilterFlag.NEW_LISTENER)
            os.write(writer, b"%d\n" % listener)
            os.write(writer, repr([one(number) for number in range(count)]).encode())

        with child(in_child) as pid, os.fdopen(reader, "rb", buffering=0) as stream:
            os.close(writer)
            number = b""
            while not number.endswith(b"\n"):
                byte = stream.read(1)
                assert byte, "the child has failed"
                number += byte
            process = pidfd.open_pidfd(pid)
            listener = pidfd.getfd(process, int(number))
            os.close(process)

            def results() -> list[int]:
                return [int(one) for one in stream.read().decode()[1:-1].split(",")]

            try:
                yield Caller(pid, listener, numbers["getpriority"], results)
            finally:
                os.close(listener)

    return start


def test_values_and_the_kernels_own_answer_are_given_without_the_caller(calling: Any) -> None:
    seen = []

    def handler(call: Call) -> object:
        seen.append((call.args[:2], call.int_arg(1), call.nr, call.arch, call.tid, call.listener))
        return GO if call.int_arg(1) == 2 else Given(call.int_arg(1))

    with calling(4) as caller:
        turn = caller.turn()
        assert caller.serve(turn, handler) is None
        assert turn.hung_up
        first, second, third, fourth = caller.results()
        assert (first, second, fourth) == (20, 19, 17)
        assert third in (0, 1000 + errno.ESRCH), "the nice of process 2, or nobody has this number here"
        assert (turn.served, turn.asked(caller.number), turn.asked(-1), turn.asked(1 << 40)) == (4, 4, 0, 0)
        assert [one[:2] for one in seen] == [((0, number), number) for number in range(4)]
        assert {one[2:] for one in seen} == {(caller.number, caller.arch, caller.pid, caller)}


def test_the_first_outcome_that_is_not_none_counts_and_none_of_all_lets_it_go(calling: Any) -> None:
    asked = []

    def first(call: Call) -> object:
        asked.append(1)
        return Given(7) if call.int_arg(1) == 0 else None

    def second(call: Call) -> object:
        asked.append(2)
        return Given(9) if call.int_arg(1) == 1 else None

    with calling(3) as caller:
        assert caller.serve(caller.turn(), first, second) is None
        assert caller.results()[:2] == [13, 11]
        assert asked == [1, 1, 2, 1, 2]


@pytest.mark.parametrize("outcome", ["nonsense", 5, (), GO.__class__, Given(1 << 63), Given("text"), Given(None)])
def test_an_outcome_that_is_no_answer_is_handed_to_the_caller_who_answers(calling: Any, outcome: object) -> None:
    with calling(2) as caller:
        turn = caller.turn()
        request, asked, given = caller.serve(turn, lambda call: outcome if call.int_arg(1) == 0 else Given(3))
        assert asked == 1
        assert isinstance(given, Exception) if isinstance(outcome, Given) else given is outcome
        assert notif.id_valid(caller.listener, request.id)
        assert caller.serve(turn, lambda _: Given(3), answer=(request.id, 0, errno.EXDEV, 0)) is None
        assert caller.results() == [1000 + errno.EXDEV, 17]


def test_what_is_raised_is_handed_out_with_its_trace_and_the_turn_goes_on(calling: Any) -> None:
    class Odd(BaseException):
        pass

    def raising(_: Call) -> object:
        raise Odd("no")

    with calling(2) as caller:
        turn = caller.turn()
        request, asked, error = caller.serve(turn, lambda _: None, raising, lambda _: Given(1))
        assert (asked, type(error)) == (2, Odd)
        assert error.__traceback__.tb_frame.f_code is raising.__code__
        assert caller.serve(turn, lambda _: Given(4), answer=(request.id, 5, 0, 0)) is None
        assert caller.results() == [15, 16]


def test_nobodys_number_and_another_architecture_are_the_callers(calling: Any) -> None:
    with calling(2) as caller:
        turn = caller.turn()
        request, asked, outcome = turn.serve({caller.number + 1: (len,)}, None, 10 * SECOND_NS, 0)
        assert (asked, outcome, request.nr) == (-1, None, caller.number)
        other = Turn(caller.listener, caller.arch ^ 1, Call, GO, Given, ())
        other.begin(10, 20 * SECOND_NS)
        request, asked, outcome = caller.serve(other, len, answer=(request.id, 3, 0, 0))
        assert (asked, outcome, turn.asked(caller.number), other.asked(caller.number)) == (-1, None, 0, 0)
        assert caller.serve(turn, answer=(request.id, 3, 0, 0)) is None


def test_a_dead_id_an_unknown_one_and_a_second_answer_do_no_harm(calling: Any) -> None:
    with calling(1) as caller:
        turn = caller.turn()
        request, _, _ = caller.serve(turn, lambda _: "mine")
        nothing = turn.serve({}, None, 0, 0, 1234567, 1, 0, 0)
        assert nothing is None, "nobody waits for this one"
        os.kill(caller.pid, signal.SIGKILL)
        until = time.monotonic() + 20
        while notif.id_valid(caller.listener, request.id) and time.monotonic() < until:
            time.sleep(0.001)
        assert caller.serve(turn, len, answer=(request.id, 1, 0, 0)) is None
        assert turn.hung_up


def test_a_task_killed_by_its_own_handler_is_passed_over(calling: Any) -> None:
    def handler(call: Call) -> object:
        os.kill(call.tid, signal.SIGKILL)
        until = time.monotonic() + 20
        while notif.id_valid(call.listener.listener, call.id) and time.monotonic() < until:  # type: ignore[attr-defined]
            time.sleep(0.001)
        return Given(1)

    with calling(3) as caller:
        turn = caller.turn()
        assert caller.serve(turn, handler) is None
        assert (turn.hung_up, turn.served) == (True, 1)


def test_a_turn_is_bounded_by_number_and_time(calling: Any) -> None:
    with calling(9) as caller:
        turn = caller.turn()
        turn.begin(3, 20 * SECOND_NS)
        assert caller.serve(turn, lambda _: Given(1)) is None
        assert turn.served == 3
        assert caller.serve(turn, lambda _: Given(1)) is None
        assert turn.served == 3, "it is over until the next begins"
        turn.begin(100, 20_000_000)

        def slow(_: Call) -> object:
            time.sleep(0.03)
            return Given(1)

        assert caller.serve(turn, slow) is None
        assert turn.served == 4
        turn.begin(100, 20 * SECOND_NS)
        assert caller.serve(turn, lambda _: Given(1)) is None
        assert (turn.served, turn.hung_up) == (9, True)


def test_a_handler_cannot_serve_and_may_change_the_table(calling: Any) -> None:
    with calling(2) as caller:
        turn = caller.turn()
        table: dict[int, tuple[Callable[[Any], object], ...]] = {}

        def handler(_: Call) -> object:
            table.clear()
            gc.collect()
            with pytest.raises(RuntimeError, match="being taken"):
                turn.serve(table, None, 0, 0)
            return None

        table[caller.number] = (handler, lambda _: Given(2))
        del handler
        request, asked, _ = turn.serve(table, None, 10 * SECOND_NS, 10 * SECOND_NS)
        assert asked == -1, "the second call finds nobody"
        assert turn.serve(table, None, 10 * SECOND_NS, 0, request.id, 2, 0, 0) is None
        assert caller.results() == [18, 18]


def test_nothing_is_leaked(calling: Any) -> None:
    def handler(call: Call) -> object:
        number = call.int_arg(1)
        if number % 4 == 1:
            raise ValueError(call.args)
        return (GO, None, Given(number % 40), Given("text"))[number % 4]

    with calling(4000) as caller:
        turn = caller.turn()
        found = caller.serve(turn, handler)
        before = -1
        while found is not None:
            if found[0].int_arg(1) == 1001:
                gc.collect()
                before = sys.getallocatedblocks()
            turn.begin(1000, 20 * SECOND_NS)
            found = caller.serve(turn, handler, answer=(found[0].id, 0, errno.EPERM, 0))
        assert turn.hung_up
        gc.collect()
        assert before >= 0, "0 where the blocks are the C library's"
        assert sys.getallocatedblocks() - before < 200


@pytest.mark.parametrize(
    "words",
    [(3, 1, int, GO, Given, ()), (3, 1, Call, GO, GO, ()), (3, 1, Call, GO, Given, tuple(range(9))), (3, 1, Call), ()],
)
def test_a_turn_of_anything_else_is_refused(words: Any) -> None:
    with pytest.raises((TypeError, ValueError)):
        Turn(*words)


def test_bad_words_are_refused_and_nothing_is_answered(calling: Any) -> None:
    assert Notified().args == (0,) * 6
    with pytest.raises(IndexError):
        Notified().int_arg(6)
    with pytest.raises(IndexError):
        Notified().int_arg(-1)
    with calling(1) as caller:
        turn = caller.turn()
        request, _, _ = caller.serve(turn, lambda _: "mine")
        bad: list[Any] = [(), ([], 0, 0, 0), ({}, 0, 0), ({}, 0, "", 0)]
        for words in (*bad, ({}, 0, 0, 0, -1, 0, 0, 0), ({}, 0, 0, 0, 1 << 65, 0, 0, 0)):
            with pytest.raises((TypeError, OverflowError)):
                turn.serve(*words)
        assert notif.id_valid(caller.listener, request.id)
        assert turn.serve({}, None, 0, 0, request.id, 0, 0, 1 << 30) == -errno.EINVAL, "a flag that no kernel knows"
        assert notif.id_valid(caller.listener, request.id)
        assert caller.serve(turn, answer=(request.id, 1, 0, 0)) is None
