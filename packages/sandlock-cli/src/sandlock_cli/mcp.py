"""`sandlock mcp`: a server of the Model Context Protocol on stdin and stdout, whose tools run programs confined."""

from __future__ import annotations

import os
import sys

from sandlock_cli.failure import warn
from sandlock_cli.help import print_verb
from sandlock_cli.mcp_server import Server
from sandlock_cli.mcp_tools import Tools
from sandlock_cli.options import UsageError, parse, table
from sandlock_cli.run import make_policy
from sandlock_cli.verbs import options_of
from sandlock_policy.errors import RuleError
from sandlock_policy.rules.sizes import parse_size
from sandlock_runtime import host_features
from sandlock_runtime.prepare import make_context, plan_for

__all__ = ["main"]

_MAX_OUTPUT = "64K"
_MOST_OUTPUT = 16 << 20


def main(words: list[str]) -> int:
    """Serve until stdin ends; what still runs then is killed."""
    values, rest = parse(words, table(options_of("mcp")), "mcp")
    if values.pop("help", False):
        return print_verb("mcp")
    if rest:
        raise UsageError(
            f"mcp takes no {rest[0]}: the client says what to run, and the options how it is confined", "mcp"
        )
    written = values.pop("max_output", _MAX_OUTPUT)
    try:
        max_output = parse_size(written)
    except RuleError as fault:
        raise UsageError(f"--max-output: {fault}; {fault.remedy}", "mcp") from None
    if max_output > _MOST_OUTPUT:
        raise UsageError(f"--max-output {written} is more than 16M, which no client would read", "mcp")
    own = {name: values.pop(name, None) for name in ("preset", "profile", "profile_file")}
    policy = make_policy(own, values)
    # A policy that cannot be enforced here is told now, not to the first caller.
    context, _ = make_context(policy, None)
    plan_for(policy, context, host_features())
    out = os.dup(1)  # nothing else writes there: a stray print would be taken for an answer
    os.dup2(2, 1)
    if sys.stdin.isatty():
        warn("this speaks the Model Context Protocol on stdin and stdout; let a client start it")
    with Tools(policy, max_output) as tools, open(0, "rb", closefd=False) as source, open(out, "wb") as sink:
        Server(tools, sink).serve(source)
    return 0
