"""`sandlock completion`: scripts that let a shell complete verbs, options and their values, made from the table."""

from __future__ import annotations

import sys

from sandlock_cli.help import print_verb
from sandlock_cli.options import VERBS, Option, UsageError, parse, table
from sandlock_cli.verbs import ACTIONS, SHELLS, options_of
from sandlock_policy.data.protections import PROTECTIONS
from sandlock_policy.fields import FIELD_BY_NAME
from sandlock_policy.presets import PRESET_NAMES

__all__ = ["main", "script"]

_PATHS = ("PATH", "DIR", "FILE")
_COMMANDS = ("run", "learn")  # verbs whose options another command follows
_PROFILES = "$(sandlock profile list 2>/dev/null)"
# What the verbs are about, asked when it is needed: the first words of the lines that these print.
_ASKED = {
    **dict.fromkeys(("inspect", "logs", "kill"), "sandlock ps 2>/dev/null | cut -d ' ' -f 1"),
    **dict.fromkeys(("diff", "commit", "discard"), "sandlock branches 2>/dev/null | cut -d ' ' -f 1"),
    "profile": "sandlock profile list 2>/dev/null",
}
# The words that follow a verb by themselves.
_WORDS = {**{verb: tuple(words) for verb, words in ACTIONS.items()}, "completion": SHELLS, "help": tuple(VERBS)}


def main(words: list[str]) -> int:
    """Print the script of the shell in `words`."""
    values, rest = parse(words, table(options_of("completion")), "completion")
    if values.get("help"):
        return print_verb("completion")
    if len(rest) != 1 or rest[0] not in SHELLS:
        raise UsageError(f"completion needs the name of a shell: {', '.join(SHELLS)}", "completion")
    sys.stdout.write(script(rest[0]))
    return 0


def script(shell: str) -> str:
    """Return the completion script of `shell`."""
    return {"bash": _bash, "zsh": _zsh, "fish": _fish}[shell]()


def _choices(option: Option) -> tuple[str, ...]:
    """Return the values that `option` can have where there are only a few."""
    if option.dest == "preset":
        return PRESET_NAMES
    field = FIELD_BY_NAME.get(option.dest)
    if field is not None and field.kind in ("protections", "disabled"):
        return tuple([name for name, row in PROTECTIONS.items() if field.kind == "protections" or row[1]])
    if field is not None and field.kind == "namespaces":
        return ("auto", "off", "require")
    if field is not None and field.kind == "branch_action":
        return ("commit", "abort", "keep", "defer")
    return ()


def _flags(option: Option) -> tuple[str, ...]:
    return (*option.flags, option.off_flag) if option.off_flag else option.flags


def _bash_values() -> tuple[dict[str, str], list[str]]:
    """Return what completes the value of each option of `run` and `learn`, and the options that have one."""
    values: dict[str, str] = {}
    taking: list[str] = []
    for option in (*options_of("run"), *options_of("learn")):
        if not option.metavar or option.flags[-1] in taking:
            continue
        taking += option.flags
        pattern = "|".join(option.flags)
        if option.metavar in _PATHS:
            values[pattern] = 'compopt -o filenames 2>/dev/null; COMPREPLY=( $(compgen -f -- "$cur") )'
        elif option.dest == "profile":
            values[pattern] = f'COMPREPLY=( $(compgen -W "{_PROFILES}" -- "$cur") )'
        elif _choices(option):
            values[pattern] = f'COMPREPLY=( $(compgen -W "{" ".join(_choices(option))}" -- "$cur") )'
        else:
            values[pattern] = "COMPREPLY=()"
    return values, taking


def _bash() -> str:
    values, taking = _bash_values()
    cases = "\n".join(f"            {pattern}) {action}; return ;;" for pattern, action in values.items())
    words = {
        verb: [*_WORDS.get(verb, ()), *[flag for option in options_of(verb) for flag in _flags(option)]]
        for verb in VERBS
    }
    verbs = "\n".join(f"        {verb}) words='{' '.join(words[verb])}' ;;" for verb in VERBS)
    # The words of a verb that has actions come behind one of them.
    asked = "\n".join(
        f'        {verb}) [ "$COMP_CWORD" -le {1 + (verb in ACTIONS)} ] || words="$words $({ask})" ;;'
        for verb, ask in _ASKED.items()
    )
    return f"""# bash completion of sandlock, made by `sandlock completion bash`
_sandlock() {{
    local cur=${{COMP_WORDS[COMP_CWORD]}} prev=${{COMP_WORDS[COMP_CWORD-1]}} verb=${{COMP_WORDS[1]}} words at
    COMPREPLY=()
    if [ "$COMP_CWORD" -eq 1 ]; then
        COMPREPLY=( $(compgen -W "{" ".join(VERBS)} --help --version" -- "$cur") )
        return
    fi
    if [ "$verb" = run ] || [ "$verb" = learn ]; then
        # Behind the options comes a command of its own, with its own completion.
        at=2
        while [ "$at" -lt "$COMP_CWORD" ]; do
            case ${{COMP_WORDS[at]}} in
            --) at=$((at + 1)); break ;;
            {"|".join(taking)}) at=$((at + 2)) ;;
            -*) at=$((at + 1)) ;;
            =) at=$((at + 2)) ;;
            *) break ;;
            esac
        done
        if [ "$at" -lt "$COMP_CWORD" ] || {{ [ "$at" -eq "$COMP_CWORD" ] && [ "${{cur#-}}" = "$cur" ]; }}; then
            if declare -F _command_offset >/dev/null; then _command_offset "$at"
            elif [ "$at" -eq "$COMP_CWORD" ]; then COMPREPLY=( $(compgen -c -- "$cur") )
            else COMPREPLY=( $(compgen -f -- "$cur") ); fi
            return
        fi
        case $prev in
{cases}
        esac
    fi
    case $verb in
{verbs}
    esac
    case $verb in
{asked}
    esac
    COMPREPLY=( $(compgen -W "$words" -- "$cur") )
}}
complete -F _sandlock sandlock
"""


def _zsh() -> str:
    cases = []
    for verb in VERBS:
        specs = [_zsh_spec(flag, option) for option in options_of(verb) for flag in _flags(option)]
        if verb in _COMMANDS:
            specs += ["'(-)1: :_command_names -e'", "'*::argument: _normal'"]
        elif verb in _WORDS:
            specs.append(f"'*:what:({' '.join(_WORDS[verb])})'")
        elif verb in _ASKED:
            specs.append(
                f"'*:what:{{compadd -- ${{(f)\"$({_ASKED[verb]})\"}}}}'".replace("cut -d ' ' -f 1", 'cut -d " " -f 1')
            )
        lines = " \\\n            ".join(specs)
        cases.append(f"    {verb})\n        _arguments -S -s \\\n            {lines} ;;")
    verbs = "\n".join(f"        '{verb}:{_quoted(summary)}'" for verb, summary in VERBS.items())
    body = "\n".join(cases)
    return f"""#compdef sandlock
# zsh completion of sandlock, made by `sandlock completion zsh`
_sandlock() {{
    local -a verbs
    verbs=(
{verbs}
    )
    if (( CURRENT == 2 )); then
        _describe verb verbs
        return
    fi
    local verb=$words[2]
    shift words
    (( CURRENT-- ))
    case $verb in
{body}
    esac
}}
compdef _sandlock sandlock
"""


def _zsh_spec(flag: str, option: Option) -> str:
    text = _quoted(option.help).replace("[", "\\[").replace("]", "\\]").replace(":", "\\:")
    many = "*" if option.many else ""
    if not option.metavar:
        return f"'{many}{flag}[{text}]'"
    equals = "=" if flag[:2] == "--" else "+"
    name = option.metavar.replace(":", " ").replace("[", "").replace("]", "")
    if option.metavar in _PATHS:
        action = "_files"
    elif option.dest == "profile":
        action = '{compadd -- ${(f)"$(sandlock profile list 2>/dev/null)"}}'
    else:
        action = f"({' '.join(_choices(option))})" if _choices(option) else " "
    return f"'{many}{flag}{equals}[{text}]:{_quoted(name)}:{action}'"


def _fish() -> str:
    lines = ["# fish completion of sandlock, made by `sandlock completion fish`", "complete -c sandlock -f"]
    for verb, summary in VERBS.items():
        lines.append(f"complete -c sandlock -n __fish_use_subcommand -a {verb} -d '{_quoted(summary)}'")
    for verb in VERBS:
        condition = f"-n '__fish_seen_subcommand_from {verb}'"
        for option in options_of(verb):
            spellings = [option.flags, (option.off_flag,)] if option.off_flag else [option.flags]
            lines += [f"complete -c sandlock {condition} {_fish_spec(flags, option)}" for flags in spellings]
        if verb in _ASKED:
            ask = _ASKED[verb].replace("' '", '" "')
            lines.append(f"complete -c sandlock {condition} -a '({ask})'")
        if verb in _WORDS:
            lines.append(f"complete -c sandlock {condition} -a '{' '.join(_WORDS[verb])}'")
    lines += [
        f"complete -c sandlock -n '__fish_seen_subcommand_from {verb}' -a '(__fish_complete_subcommand)'"
        for verb in _COMMANDS
    ]
    return "\n".join(lines) + "\n"


def _fish_spec(flags: tuple[str, ...], option: Option) -> str:
    parts = [f"-l {flag[2:]}" if flag[:2] == "--" else f"-s {flag[1:]}" for flag in flags]
    if option.metavar in _PATHS:
        parts.append("-r -F")
    elif option.dest == "profile":
        parts.append("-x -a '(sandlock profile list 2>/dev/null)'")
    elif option.metavar:
        parts.append("-x" + (f" -a '{' '.join(_choices(option))}'" if _choices(option) else ""))
    return " ".join([*parts, f"-d '{_quoted(option.help)}'"])


def _quoted(text: str) -> str:
    """Return `text` for single quotes of a shell, without what the shell would run."""
    return text.replace("'", "").replace("`", "")
