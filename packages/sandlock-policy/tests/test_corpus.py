"""What people write in a profile or behind an option: read, or refused by an error that tells where and why."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandlock_policy import Policy, PolicyError
from sandlock_policy.errors import RuleError
from sandlock_policy.rules.credentials import parse_auth
from sandlock_policy.rules.endpoints import parse_endpoint
from sandlock_policy.rules.http import parse_rule
from sandlock_policy.rules.sizes import parse_size
from sandlock_policy.rules.times import parse_time
from sandlock_testkit.corpus import REFUSED, grown, seeds

CORPUS = Path(__file__).parent / "corpus"


def profile(text: str) -> None:
    policy = Policy.from_toml(text)
    assert Policy.from_toml(policy.to_toml()) == policy


PARSERS: dict[str, Callable[[str], object]] = {
    "profile": profile,
    "endpoint": parse_endpoint,
    "http_rule": parse_rule,
    "auth": parse_auth,
    "size": parse_size,
    "time": parse_time,
}


def fault(name: str, content: bytes) -> str:
    """Return why an input is refused, "" where it is read."""
    try:
        PARSERS[name](content.decode("utf-8", "surrogateescape"))
    except (PolicyError, RuleError) as error:
        return str(error)
    return ""


@pytest.mark.parametrize("name", PARSERS)
def test_the_corpus_is_read_but_for_what_must_be_refused(name: str) -> None:
    for file, content in seeds(CORPUS / name).items():
        assert bool(fault(name, content)) is file.startswith(REFUSED), file


@pytest.mark.parametrize("name", PARSERS)
@given(data=st.data())
def test_what_grows_from_it_is_read_or_refused(name: str, data: st.DataObject) -> None:
    fault(name, data.draw(grown(CORPUS / name)))
