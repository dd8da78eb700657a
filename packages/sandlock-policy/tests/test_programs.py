"""A program brings the folder it was installed in, and never the home directory."""

from __future__ import annotations

import pytest

from sandlock_policy.programs import program_folders

HOME = "/home/me"


def folders(program: str, files: set[str], links: dict[str, str] | None = None, home: str = HOME) -> tuple[str, ...]:
    return program_folders(
        program, home, exists=files.__contains__, realpath=lambda path: (links or {}).get(path, path)
    )


@pytest.mark.parametrize(
    ("program", "files", "links", "expected"),
    [
        ("/usr/bin/python3", set(), {}, ()),
        ("/usr/bin/python3", {"/usr/pyvenv.cfg"}, {"/usr/bin/python3": "/usr/bin/python3.12"}, ()),
        # a virtual environment of the system's Python
        ("/home/me/p/.venv/bin/python", {"/home/me/p/.venv/pyvenv.cfg"},
         {"/home/me/p/.venv/bin/python": "/usr/bin/python3.12"}, ("/home/me/p/.venv",)),
        # one of a Python of pyenv, and a script in it
        ("/v/bin/pytest", {"/v/pyvenv.cfg", "/home/me/.pyenv/versions/3.12/lib/python3.12"},
         {"/v/bin/python": "/home/me/.pyenv/versions/3.12/bin/python3.12"}, ("/v", "/home/me/.pyenv/versions/3.12")),
        ("/home/me/.pyenv/shims/python", {"/home/me/.pyenv/libexec/pyenv"}, {}, ("/home/me/.pyenv",)),
        ("/home/me/miniconda3/bin/python", {"/home/me/miniconda3/conda-meta"}, {}, ("/home/me/miniconda3",)),
        ("/home/me/.nvm/versions/node/v20/bin/node", {"/home/me/.nvm/versions/node/v20/lib/node_modules"}, {},
         ("/home/me/.nvm/versions/node/v20",)),
        # an installed tool, reached through a link
        ("/home/me/.local/bin/black", {"/home/me/.local/share/uv/tools/black/pyvenv.cfg"},
         {"/home/me/.local/bin/black": "/home/me/.local/share/uv/tools/black/bin/black"},
         ("/home/me/.local/share/uv/tools/black",)),
        ("/opt/tool/bin/x", set(), {}, ("/opt/tool",)),
        ("/usr/local/bin/code", set(), {"/usr/local/bin/code": "/opt/code/bin/code"}, ("/opt/code",)),
        ("/opt/x", set(), {}, ()),
        ("/work/a.out", set(), {}, ()),
    ],
)  # fmt: skip
def test_each_kind_of_installation_is_found(
    program: str, files: set[str], links: dict[str, str], expected: tuple[str, ...]
) -> None:
    assert folders(program, files, links) == expected


@pytest.mark.parametrize("mark", ["pyvenv.cfg", "lib/node_modules", "conda-meta", "libexec/pyenv"])
@pytest.mark.parametrize("program", ["/home/me/bin/python", "/home/bin/python", "/bin2/python", "/home/me/shims/x"])
def test_the_home_directory_and_what_holds_it_is_never_taken(program: str, mark: str) -> None:
    folder = program.rsplit("/", 2)[0] or "/"
    assert folders(program, {f"{folder}/{mark}", f"/{mark}"}) == ()


def test_links_that_lead_in_a_circle_end() -> None:
    assert folders("/v/bin/python", {"/v/pyvenv.cfg"}, {"/v/bin/python": "/v/bin/python"}) == ("/v",)
