"""What people write in a profile or behind an option: read, or refused by an error that tells where and why."""

from __future__ import annotations

from collections.abc import Callable

from sandlock_policy import Policy, PolicyError
from sandlock_policy.errors import RuleError
from sandlock_policy.rules.credentials import parse_auth
from sandlock_policy.rules.endpoints import parse_endpoint
from sandlock_policy.rules.http import parse_rule
from sandlock_policy.rules.sizes import parse_size
from sandlock_policy.rules.times import parse_time
from sandlock_testkit.corpus import corpus_tests


def profile(text: str) -> None:
    policy = Policy.from_toml(text)
    assert Policy.from_toml(policy.to_toml()) == policy


TEXTS: dict[str, Callable[[str], object]] = {
    "profile": profile,
    "endpoint": parse_endpoint,
    "http_rule": parse_rule,
    "auth": parse_auth,
    "size": parse_size,
    "time": parse_time,
}


def of_bytes(parse: Callable[[str], object]) -> Callable[[bytes], object]:
    return lambda content: parse(content.decode("utf-8", "surrogateescape"))


PARSERS = {name: of_bytes(parse) for name, parse in TEXTS.items()}

test_the_corpus_is_read_but_for_what_must_be_refused, test_what_grows_from_it_is_read_or_refused = corpus_tests(
    __file__, PARSERS, (PolicyError, RuleError)
)
