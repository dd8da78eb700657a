"""The kernel's text about processes, which programs have a say in (names, paths): read, or refused by one error."""

from __future__ import annotations

from collections.abc import Callable

from sandlock_sys.errors import ProcParseError
from sandlock_sys.proc.fds import parse_fdinfo
from sandlock_sys.proc.maps import parse_maps
from sandlock_sys.proc.smaps import parse_smaps
from sandlock_sys.proc.stat import parse_stat
from sandlock_sys.proc.status import parse_status
from sandlock_testkit.corpus import corpus_tests

PARSERS: dict[str, Callable[[bytes], object]] = {
    "stat": parse_stat,
    "status": parse_status,
    "maps": parse_maps,
    "smaps": parse_smaps,
    "fdinfo": parse_fdinfo,
}


test_the_corpus_is_read_but_for_what_must_be_refused, test_what_grows_from_it_is_read_or_refused = corpus_tests(
    __file__, PARSERS, (ProcParseError,)
)
