"""What is copied from a child's memory or out of its files: understood, or answered with an errno, and nothing else."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from contextlib import suppress
from errno import EINVAL
from functools import partial

from sandlock_notif.content.dns import parse_question
from sandlock_notif.content.interfaces import LOOPBACK, answer
from sandlock_notif.errors import Refusal
from sandlock_notif.fs.loader import interpreter_of
from sandlock_notif.handlers.network.addresses import bind_target, connect_target, send_target
from sandlock_notif.handlers.network.messages import MESSAGE_SIZE, parse_control, parse_message
from sandlock_notif.handlers.network.unix import parse_unix
from sandlock_notif.program import parse_first_line
from sandlock_notif.sockaddr import parse_endpoint
from sandlock_testkit.corpus import corpus_tests


def sockaddr(raw: bytes) -> None:
    """Every reader of an address is asked; each may refuse what is none of its own."""
    raw = raw[:128]  # as much as is copied
    parse_endpoint(raw)
    with suppress(Refusal):
        parse_unix(raw)
    for domain in (socket.AF_INET, socket.AF_INET6):
        for read in (
            partial(connect_target, stream=True),
            partial(connect_target, stream=False),
            send_target,
            bind_target,
        ):
            with suppress(Refusal):
                read(domain, raw)


def message(raw: bytes) -> None:
    parse_message(raw[:MESSAGE_SIZE].ljust(MESSAGE_SIZE, b"\0"))  # exactly so much is copied


def netlink(raw: bytes) -> None:
    replies = answer(raw, (LOOPBACK,), 99)
    assert sum(map(len, replies)) <= 4096 + 512 * len(raw)


def loader(raw: bytes) -> None:
    with open(os.memfd_create("program"), "w+b") as file:
        file.write(raw)
        file.flush()
        interpreter_of(file.fileno())


def answered(parse: Callable[[bytes], object]) -> Callable[[bytes], None]:
    """Of a parser that says ValueError, which whoever asks it answers."""

    def asked(raw: bytes) -> None:
        try:
            parse(raw)
        except ValueError as error:
            raise Refusal(EINVAL) from error

    return asked


PARSERS: dict[str, Callable[[bytes], object]] = {
    "sockaddr": sockaddr,
    "message": message,
    "control": lambda raw: list(parse_control(raw)),
    "dns": answered(parse_question),
    "netlink": netlink,
    "first_line": answered(parse_first_line),
    "loader": loader,
}


test_the_corpus_is_read_but_for_what_must_be_refused, test_what_grows_from_it_is_read_or_refused = corpus_tests(
    __file__, PARSERS, (Refusal,)
)
