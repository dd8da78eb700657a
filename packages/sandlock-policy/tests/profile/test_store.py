"""Named profiles come from files that nobody else could have written."""

from __future__ import annotations

import os
import pathlib
import stat

import pytest

from sandlock_policy import Policy, PolicyError
from sandlock_policy.profile.store import (
    ProfileError,
    delete_profile,
    list_profiles,
    load_profile,
    load_profile_file,
    profile_folder,
    save_profile,
)


@pytest.fixture
def folder(tmp_path: pathlib.Path) -> str:
    path = tmp_path / "profiles"
    path.mkdir(mode=0o700)
    (path / "web.toml").write_text("[limits]\ntimeout = 3\n[filesystem]\nread = ['data']\n")
    (path / "web.toml").chmod(0o644)
    return str(path)


def test_a_profile_is_loaded_by_name_and_its_paths_start_beside_it(folder: str) -> None:
    assert load_profile("web", folder) == Policy(timeout=3, fs_readable=[f"{folder}/data"])


@pytest.mark.parametrize("name", ["", ".", "..", "../web", "a/b", "/etc/passwd", "web.toml\0", "-web", "a\nb", "~"])
def test_a_name_is_a_single_path_component(folder: str, name: str) -> None:
    for call in (load_profile, delete_profile):
        with pytest.raises(PolicyError):
            call(name, folder)
    with pytest.raises(PolicyError):
        save_profile(name, Policy(), folder)
    assert os.listdir(folder) == ["web.toml"]


def test_a_profile_that_does_not_exist_is_an_error_with_a_suggestion(folder: str) -> None:
    with pytest.raises(ProfileError, match="did you mean 'web'"):
        load_profile("wbe", folder)
    with pytest.raises(ProfileError, match="there are web"):
        load_profile("zzzz", folder)
    with pytest.raises(ProfileError, match="there are none in"):
        load_profile("web", f"{folder}/nowhere")
    with pytest.raises(ProfileError, match="there is no such profile"):
        load_profile_file(f"{folder}/nowhere.toml")


@pytest.mark.parametrize("mode", [0o664, 0o646, 0o666, 0o620])
def test_a_file_that_others_can_write_is_not_believed(folder: str, mode: int) -> None:
    load_profile("web", folder)
    os.chmod(f"{folder}/web.toml", mode)
    with pytest.raises(ProfileError, match="can be changed by others"):
        load_profile("web", folder)


def test_a_link_is_not_followed(folder: str) -> None:
    os.symlink(f"{folder}/web.toml", f"{folder}/link.toml")
    load_profile("web", folder)
    with pytest.raises(ProfileError, match="is a symbolic link"):
        load_profile("link", folder)


def test_what_is_not_a_regular_file_is_refused_without_waiting(folder: str) -> None:
    os.mkfifo(f"{folder}/fifo.toml", 0o600)
    os.mkdir(f"{folder}/dir.toml", 0o700)
    for name in ("fifo", "dir"):
        with pytest.raises(ProfileError, match="is not a regular file"):
            load_profile(name, folder)


def test_a_file_of_another_user_is_not_believed(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    load_profile("web", folder)
    if os.geteuid() == 0:
        os.chown(f"{folder}/web.toml", 12345, -1)
    else:  # only root can give a file away, but whoever runs this can be somebody else
        monkeypatch.setattr(os, "geteuid", lambda: 12345)
    with pytest.raises(ProfileError, match="belongs to user"):
        load_profile("web", folder)


def test_a_file_that_is_too_large_or_not_utf8_is_refused(folder: str) -> None:
    for content, reason in ((b"#" * (1 << 20) + b"\n", "is larger than"), (b"# \xff", "is not UTF-8 at byte 2")):
        with open(f"{folder}/odd.toml", "wb") as file:
            file.write(content)
        os.chmod(f"{folder}/odd.toml", 0o600)
        with pytest.raises(ProfileError, match=reason):
            load_profile("odd", folder)


def test_an_error_in_a_profile_names_the_file(folder: str) -> None:
    with open(f"{folder}/web.toml", "a", encoding="utf-8") as file:
        file.write("[limits2]\n")
    with pytest.raises(PolicyError) as caught:
        load_profile("web", folder)
    assert caught.value.__notes__ == [f"in the profile {folder}/web.toml"]


def test_saving_makes_a_private_file_that_loads(tmp_path: pathlib.Path) -> None:
    folder = str(tmp_path / "new" / "profiles")
    path = save_profile("p", Policy(timeout=3), folder)
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    assert stat.S_IMODE(os.stat(folder).st_mode) == 0o700
    assert load_profile("p", folder) == Policy(timeout=3)
    save_profile("p", Policy(timeout=4), folder)
    assert load_profile("p", folder) == Policy(timeout=4)
    assert os.listdir(folder) == ["p.toml"]


def test_saving_replaces_a_link_and_leaves_what_it_leads_to(folder: str, tmp_path: pathlib.Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("untouched")
    os.symlink(victim, f"{folder}/p.toml")
    save_profile("p", Policy(timeout=3), folder)
    assert victim.read_text() == "untouched"
    assert load_profile("p", folder) == Policy(timeout=3)


def test_profiles_are_listed_and_deleted(folder: str) -> None:
    save_profile("b", Policy(), folder)
    assert list_profiles(folder) == ["b", "web"]
    delete_profile("b", folder)
    assert list_profiles(folder) == ["web"]
    with pytest.raises(ProfileError, match="there is no profile 'b'"):
        delete_profile("b", folder)
    assert list_profiles(f"{folder}/nowhere") == []


def test_the_folder_follows_the_xdg_convention() -> None:
    assert profile_folder({"HOME": "/h"}) == "/h/.config/sandlock/profiles"
    assert profile_folder({"HOME": "/h", "XDG_CONFIG_HOME": "/x"}) == "/x/sandlock/profiles"
    assert profile_folder({"HOME": "/h", "XDG_CONFIG_HOME": "x"}) == "/h/.config/sandlock/profiles"
