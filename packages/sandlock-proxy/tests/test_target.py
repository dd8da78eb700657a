"""NET-18: one normal form of a path, the same for rules and for the server."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandlock_proxy.errors import Refusal
from sandlock_proxy.target import parse_target


@pytest.mark.parametrize(
    ("given_form", "path", "components"),
    [
        ("/", "/", ("",)),
        ("/v1/items", "/v1/items", ("v1", "items")),
        ("/v1/", "/v1/", ("v1", "")),
        ("/v1/../admin", "/admin", ("admin",)),
        ("/../../x", "/x", ("x",)),
        ("/a/./b/..", "/a/", ("a", "")),
        ("/a/b/.", "/a/b/", ("a", "b", "")),
        ("//admin", "/admin", ("admin",)),
        ("///a//b", "/a/b", ("a", "b")),
        ("/%7Euser", "/~user", ("~user",)),
        ("/%e2%82%ac", "/%E2%82%AC", ("€",)),
        ("/a%20b", "/a%20b", ("a b",)),
        ("/a%3fb", "/a%3Fb", ("a?b",)),
        ("/a|b{c}", "/a%7Cb%7Bc%7D", ("a|b{c}",)),
        ("/a%2Bb+c", "/a%2Bb+c", ("a+b+c",)),
        ("/.well-known/x", "/.well-known/x", (".well-known", "x")),
        ("/...", "/...", ("...",)),
        ("/a%2ejson", "/a.json", ("a.json",)),
    ],
)
def test_each_form_has_one_meaning(given_form: str, path: str, components: tuple[str, ...]) -> None:
    target = parse_target(given_form.encode())
    assert (target.path, target.components) == (path, components)


@pytest.mark.parametrize(
    "attack",
    [
        "/v1/%2e%2e/admin", "/v1/.%2e/admin", "/v1/%2E./admin", "/v1/..;/admin", "/v1/..;x=1/admin", "/v1/;/admin",
        "/v1/%252e%252e/admin", "/v1/..%2fadmin", "/v1/..%5cadmin", "/v1\\..\\admin", "/v1/%00", "/v1/%0d%0aX:1",
        "/v1/%c0%ae%c0%ae/admin", "/v1/%e0%80%ae/admin", "/v1/%ff", "/v1/%", "/v1/%2", "/v1/%zz", "/v1/%+f", "/v1/%7f",
        "/v1/#x", "/v1?x#y", "*", "v1", "",
    ],
)  # fmt: skip
def test_what_servers_read_differently_is_refused(attack: str) -> None:
    with pytest.raises(Refusal) as caught:
        parse_target(attack.encode())
    assert caught.value.status == 400


def test_the_query_stays_as_it_is() -> None:
    target = parse_target(b"/a/../b?x=%2e%2e/&y=%2F;z")
    assert (target.path, target.query, target.text) == ("/b", "x=%2e%2e/&y=%2F;z", "/b?x=%2e%2e/&y=%2F;z")
    assert parse_target(b"/b?").text == "/b?"


def test_parameters_are_judged_with_and_without() -> None:
    target = parse_target(b"/admin;x=1/secret%3by")
    assert target.components == ("admin;x=1", "secret;y")
    assert target.plain == ("admin", "secret")


@given(st.text(alphabet="/.%2ecfEF5;\\?a~+|", max_size=24))
def test_the_normal_form_is_stable_and_has_no_way_up(text: str) -> None:
    try:
        target = parse_target(f"/{text}".encode())
    except Refusal:
        return
    again = parse_target(target.text.encode())
    assert again == target
    assert not {".", ".."} & {*target.components, *target.plain}
    assert "//" not in target.path
    assert "" not in target.components[:-1]
