"""What the words of a command mention: paths, hosts and ports, and signals. Nothing here is certain."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field

__all__ = ["Mentions", "PathMention", "read_command"]

# Programs whose arguments are files that they change.
_WRITERS = frozenset(
    "chmod chown cp dd install ln mkdir mkfifo mktemp mv rm rmdir shred tee touch truncate unlink".split()
)
_REMOVERS = frozenset(("mv", "rm", "rmdir", "shred", "unlink"))
_CLIENTS = frozenset(
    "apt apt-get cargo curl dig ftp gem git host http nc ncat netcat npm nslookup ping pip pip3 pnpm psql redis-cli "
    "rsync scp sftp ssh telnet uv wget yarn".split()
)
# Programs that write into the directory that they are started in, whatever their words are.
_WORKERS = frozenset("bundle cargo cmake composer git go gradle make mvn ninja npm npx pnpm tox tsc uv yarn".split())
_KILLERS = frozenset(("kill", "killall", "pkill"))
_CODE_OPTIONS = frozenset(("-c", "-e", "-r", "--eval", "--command", "-pe", "-ne"))

_CODE = re.compile(r"[\s;|&<>()]")
# An absolute path within code: after a character that cannot be part of a longer name.
_PATH = re.compile(r"(?<![\w./:~$}*-])(?:/|~/)[\w.+@%~-]+(?:/[\w.+@%~-]+)*")
_OPENED_TO_WRITE = re.compile(r"""open\(\s*(["'])(?P<path>[^"'\0]+)\1\s*,\s*(?:mode\s*=\s*)?["'][rbt]*[wax+]""")
_REDIRECTED = re.compile(r""">>?\s*(["']?)(?P<path>[\w./+@%~-]+)\1""")
_URL = re.compile(
    r"\b(?P<scheme>[a-z][a-z0-9+.-]{0,20})://(?:[^\s/'\"@]*@)?(?P<host>\[[0-9a-fA-F:.]+\]|[\w.-]+)(?::(?P<port>\d{1,5}))?"
)
_WHOLE_URL = re.compile(r"\b[a-z][a-z0-9+.-]{0,20}://[^\s'\"]*")
_HOST_PORT = re.compile(r"(?P<host>\[[0-9a-fA-F:.]+\]|(?=[\w.-]*[.a-z])[\w.-]+):(?P<port>\d{1,5})")
_PAIR = re.compile(r"""\(\s*["'](?P<host>[\w.:-]*)["']\s*,\s*(?P<port>\d{1,5})\b""")
_NETWORK_CODE = re.compile(
    r"\b(?:socket|create_connection|open_connection|createConnection|urllib|urlopen|requests|httpx|aiohttp|http\.client|XMLHttpRequest)\b|\bfetch\("
)
_KILL_CODE = re.compile(r"\b(?:kill|pkill|killall|killpg)\b")
_DEV_TCP = re.compile(r"/dev/tcp/(?P<host>[\w.:-]+)/(?P<port>\d{1,5})")
_PORTS = {"http": 80, "https": 443, "ftp": 21, "ssh": 22, "git": 9418, "ws": 80, "wss": 443, "redis": 6379,
          "postgres": 5432, "postgresql": 5432, "mysql": 3306}  # fmt: skip


@dataclass(frozen=True, slots=True)
class PathMention:
    """One path.

    `writes`: the words say that it is changed; `removes`: that its name is taken away, for which the folder has to be
    writable; `in_code`: it stands in a program text.
    """

    path: str
    writes: bool = False
    removes: bool = False
    in_code: bool = False


@dataclass(slots=True)
class Mentions:
    """What a command mentions; `endpoints` are (host, port), either of them empty where it is not said.

    `works_here`: the program is one that writes into the current directory.
    """

    paths: list[PathMention] = field(default_factory=list)
    endpoints: list[tuple[str, int]] = field(default_factory=list)
    network: bool = False
    kills: bool = False
    works_here: bool = False


def read_command(command: list[str], cwd: str) -> Mentions:
    """Return what the words of `command`, started in `cwd`, mention."""
    found = Mentions()
    program = os.path.basename(command[0])
    found.kills = program in _KILLERS
    found.network = program in _CLIENTS
    found.works_here = program in _WORKERS
    code_follows = False
    for word in command[1:]:
        if code_follows or (_CODE.search(word) and not os.path.lexists(_absolute(word, cwd))):
            _read_code(word, cwd, found)
        else:
            _read_word(word, program, cwd, found)
        code_follows = word in _CODE_OPTIONS
    found.network = found.network or bool(found.endpoints)
    return found


def _read_word(word: str, program: str, cwd: str, found: Mentions) -> None:
    if word[:1] == "-":
        word = word.partition("=")[2]
        if not word:
            return
    if url := _URL.match(word):
        _add_url(url, found)
    elif pair := _HOST_PORT.fullmatch(word):
        _add_endpoint(pair, found)
    elif word.partition("=")[0].isidentifier() and "=" in word:
        _read_word(word.partition("=")[2], program, cwd, found)
    else:
        path = _absolute(word, cwd)
        writes = program in _WRITERS
        if path and (writes or "/" in word or os.path.lexists(path)):
            found.paths.append(PathMention(path, writes=writes, removes=program in _REMOVERS))


def _read_code(text: str, cwd: str, found: Mentions) -> None:
    text = text[: 1 << 16]
    written = [match["path"] for pattern in (_OPENED_TO_WRITE, _REDIRECTED) for match in pattern.finditer(text)]
    found.paths += [PathMention(path, writes=True, in_code=True) for word in written if (path := _absolute(word, cwd))]
    for url in _URL.finditer(text):
        _add_url(url, found)
    for pair in _DEV_TCP.finditer(text):
        _add_endpoint(pair, found)
    if _NETWORK_CODE.search(text):  # elsewhere a word and a number are any two arguments
        for pair in _PAIR.finditer(text):
            _add_endpoint(pair, found)
    taken = {mention.path for mention in found.paths}
    for match in _PATH.finditer(_WHOLE_URL.sub(" ", text)):
        path = _absolute(match[0].rstrip("."), cwd)
        if path and path not in taken and not path.startswith("/dev/tcp"):
            first = _first_word(text)
            mention = PathMention(path, writes=first in _WRITERS, removes=first in _REMOVERS, in_code=True)
            found.paths.append(mention)
    words = set(re.findall(r"[\w.-]+", text))
    found.network = found.network or bool(_NETWORK_CODE.search(text)) or bool(words & _CLIENTS & _shell_words(text))
    found.kills = found.kills or bool(_KILL_CODE.search(text))


def _first_word(text: str) -> str:
    return os.path.basename(text.split(None, 1)[0]) if text.strip() else ""


def _shell_words(text: str) -> set[str]:
    """Return the words that stand where a shell would take them for commands."""
    return {part.split()[0] for part in re.split(r"[;&|\n(`]|\$\(", text) if part.split()}


def _add_url(url: re.Match[str], found: Mentions) -> None:
    if url["scheme"] == "file":
        return
    found.endpoints.append((url["host"].strip("[]"), int(url["port"] or 0) or _PORTS.get(url["scheme"], 0)))


def _add_endpoint(pair: re.Match[str], found: Mentions) -> None:
    port = int(pair["port"])
    if 0 < port < 1 << 16:
        found.endpoints.append((pair["host"].strip("[]"), port))


def _absolute(word: str, cwd: str) -> str:
    """Return the path that `word` would be to a program started in `cwd`, or "" where it can be none."""
    if not word or "\0" in word or len(word) > 4096 or word[0] == "-" or "://" in word:
        return ""
    return os.path.normpath(os.path.join(cwd, os.path.expanduser(word)))
