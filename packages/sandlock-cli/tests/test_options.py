"""The parser: what it takes, and what it says about the rest."""

from __future__ import annotations

from typing import Any

import pytest

from sandlock_cli.options import Option, UsageError, parse, run_options, table
from sandlock_policy.fields import FIELDS

RUN = table(run_options())


def run(*words: str) -> tuple[dict[str, Any], list[str]]:
    return parse(list(words), RUN, "run", command=True)


@pytest.mark.parametrize("words", [["-r", "/a"], ["-r/a"], ["--fs-read", "/a"], ["--fs-read=/a"]])
def test_four_ways_to_write_one_value(words: list[str]) -> None:
    assert run(*words, "--", "true") == ({"fs_readable": ["/a"]}, ["true"])


def test_values_of_a_list_add_up_and_of_others_the_last_counts() -> None:
    values, _ = run("-r", "/a", "--fs-read=/b", "-t", "1", "--timeout", "2", "--disable", "fs_refer,net_tcp", "--", "x")
    assert values == {"fs_readable": ["/a", "/b"], "timeout": "2", "disable": ["fs_refer", "net_tcp"]}


def test_a_switch_has_a_spelling_that_sets_and_one_that_clears() -> None:
    assert run("--clean-env", "--no-private-tmp", "x")[0] == {"clean_env": True, "private_tmp": False}
    assert run("--no-clean-env", "--private-tmp", "x")[0] == {"clean_env": False, "private_tmp": True}


def test_short_switches_and_a_value_in_one_word() -> None:
    assert run("-qp", "mine", "x") == ({"quiet": True, "profile": ["mine"]}, ["x"])
    assert run("-qpmine", "x") == ({"quiet": True, "profile": ["mine"]}, ["x"])


def test_the_command_is_left_alone() -> None:
    assert run("-q", "prog", "-q", "--", "--fs-read") == ({"quiet": True}, ["prog", "-q", "--", "--fs-read"])
    assert run("--", "-q", "--") == ({}, ["-q", "--"])
    assert run("-", "-q") == ({}, ["-", "-q"])


def test_without_a_command_options_may_follow_words() -> None:
    option = Option("file", ("--file",), "FILE", "", "")
    assert parse(["show", "a", "--file", "f", "b"], table([option]), "v") == ({"file": "f"}, ["show", "a", "b"])


def test_an_optional_path_is_a_value_and_no_option() -> None:
    assert run("-r", "-/opt", "--fs-read", "-~/x", "y")[0] == {"fs_readable": ["-/opt", "-~/x"]}


def test_an_empty_value_is_a_value() -> None:
    assert run("--fs-read=", "x")[0] == {"fs_readable": [""]}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--fs-raed", "/a"], "unknown option --fs-raed; did you mean '--fs-read'?"),
        (["-Z"], "unknown option -Z"),
        (["-qZ"], "unknown option -Z"),
        (["-r"], "-r needs a value: -r PATH"),
        (["--fs-read", "--net-allow"], "--net-allow follows"),
        (["-r", "--", "true"], "-- follows"),
        (["--quiet=yes"], "--quiet takes no value"),
        (["--fs-rea=/a"], "unknown option --fs-rea"),
    ],
)
def test_what_cannot_be_understood_is_told(words: list[str], said: str) -> None:
    with pytest.raises(UsageError) as caught:
        run(*words)
    assert said in str(caught.value)
    assert caught.value.verb == "run"


def test_every_flag_of_the_policy_is_an_option_of_run() -> None:
    for field in FIELDS:
        for flag in field.flags:
            option, state = RUN[flag]
            assert (option.dest, option.metavar, option.help, state) == (field.name, field.metavar, field.help, True)
        if field.off_flag:
            assert RUN[field.off_flag] == (RUN[field.flags[0]][0], False)


def test_no_spelling_has_two_meanings() -> None:
    spellings = [flag for option in run_options() for flag in (*option.flags, option.off_flag) if flag]
    assert len(spellings) == len(set(spellings))
