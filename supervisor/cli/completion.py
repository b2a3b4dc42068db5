"""How does a shell complete our command line? Prints a shell's script, and answers what it asks.

`script(shell)` is what a package installs (bash: completions/lock-supervisor,
zsh: _lock-supervisor, fish: lock-supervisor.fish); the same is printed by
`_LOCK_SUPERVISOR_COMPLETE=bash_source lock-supervisor`. The scripts ask us at
every TAB. It must not know which words a command takes: the commands say.
"""

from __future__ import annotations

import re
import shlex

import click
from click.shell_completion import CompletionItem, ShellComplete

from lockplugins.contract import ConfigError, shown
from supervisor.cli import render

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

VARIABLE = "_LOCK_SUPERVISOR_COMPLETE"
_MARK = "x"  # not special to any shell

# Asked with the line up to the cursor and what readline replaces of it (from the last = or : on).
_BASH = """\
_lock_supervisor() {
    local line
    COMPREPLY=()
    while IFS= read -r line; do
        case $line in
            file) compopt -o default ;;
            dir) compopt -o dirnames ;;
            command)
                mapfile -t COMPREPLY < <(compgen -c -- "$2")
                compopt -o default
                ;;
            *) COMPREPLY+=("${line#plain }") ;;
        esac
    done < <(_LOCK_SUPERVISOR_COMPLETE=bash_complete \\
        "$1" "${COMP_LINE:0:COMP_POINT}" "$2" 2>/dev/null </dev/null)
}
complete -o nosort -F _lock_supervisor lock-supervisor
"""

# Asked with the words, and what is replaced of the last one (what follows --option=). From fpath
# the whole file is a function of its own name, which the one in it replaces at the first TAB.
_ZSH = """\
#compdef lock-supervisor
_lock-supervisor() {
    local line word=${(Q)PREFIX}
    local -a values
    [[ $PREFIX == --*=* ]] && compset -P '*='
    for line in "${(@f)$(_LOCK_SUPERVISOR_COMPLETE=zsh_complete ${(Q)words[1]} \\
        "${(@Q)words[2,CURRENT-1]}" "$word" "${(Q)PREFIX}" 2>/dev/null </dev/null)}"; do
        case $line in
            file) _files ;;
            dir) _files -/ ;;
            command) _command_names -e || _files ;;
            plain\\ *) values+=("${line#plain }") ;;
        esac
    done
    (( $#values )) && _describe lock-supervisor values
}
if [[ $funcstack[1] == _lock-supervisor ]]; then
    _lock-supervisor "$@"
else
    compdef _lock-supervisor lock-supervisor
fi
"""

_FISH = """\
function __lock_supervisor
    set -l words (commandline -opc)
    set -l word (commandline -ct | string unescape)
    set -l option (string match -r -- '^--[^=]*=' "$word")
    set -l value (string replace -- "$option" '' "$word")
    for line in (env _LOCK_SUPERVISOR_COMPLETE=fish_complete $words "$word" "$word" \\
            2>/dev/null </dev/null)
        switch $line
            case file
                printf '%s\\n' "$option"(__fish_complete_path "$value")
            case dir
                printf '%s\\n' "$option"(__fish_complete_directories "$value")
            case command
                complete -C"$value"
            case '*'
                string replace -- 'plain ' '' $line
        end
    end
end
complete --no-files --command lock-supervisor --arguments '(__lock_supervisor)'
"""

_SCRIPTS = {"bash": _BASH, "zsh": _ZSH, "fish": _FISH}
_SOURCE = {f"{shell}_source": shell for shell in _SCRIPTS}
_ANSWER = {f"{shell}_complete": shell for shell in _SCRIPTS}


def script(shell: str) -> str:
    """Return the completion script of bash, zsh or fish."""
    return _SCRIPTS[shell]


def answer(commands: click.Group, instruction: str, arguments: Sequence[str]) -> None:
    """Print what a shell asks for: its script, or what its line may be completed to."""
    if instruction in _SOURCE:
        render.put(script(_SOURCE[instruction]).rstrip("\n"))
    elif instruction in _ANSWER:
        for line in _lines(commands, _ANSWER[instruction], arguments):
            render.put(line)
    else:
        allowed = " ".join((*_SOURCE, *_ANSWER))
        raise ConfigError(
            "use", f"{VARIABLE}={instruction}", "unknown value", f"allowed: {allowed}"
        )


def _lines(commands: click.Group, shell: str, arguments: Sequence[str]) -> Iterator[str]:
    """Yield `file`, `dir`, `command` (complete those) or `plain VALUE`.

    A value is what to put in the place of the part that the shell replaces, in
    the shell's own notation.
    """
    *typed, replaced = arguments
    quote = ""
    if shell == "bash":
        (_, *typed), quote = _typed(*typed)
        replaced = _typed(quote + replaced)[0][-1]
    *words, word = typed
    kept = max(0, len(word) - len(replaced))
    for item in _candidates(commands, words, word):
        option = word[: word.find("=") + 1] if word.startswith("--") else ""
        value = (option + item.value)[kept:]
        if item.type != "plain":
            yield item.type
        elif shown(value) == value:  # else it would be more than one line
            yield f"plain {_NOTATIONS[shell](value, item.help or '', quote)}"


def _typed(line: str) -> tuple[list[str], str]:
    """Split a line that is still being typed, as a shell would: its words, and the open quote."""
    for quote in ("", "'", '"'):
        try:
            *words, last = shlex.split(line + _MARK + quote)
        except ValueError:
            continue
        return [*words, last.removesuffix(_MARK)], quote
    return ["", ""], ""


def _candidates(
    commands: click.Group, words: Sequence[str], word: str
) -> Sequence[CompletionItem[str]]:
    """Return what may stand for `word` after `words`; files, once the guest's own have begun."""
    with click.Context(commands) as context:
        command = commands.get_command(context, words[0]) if words else None
    if command is not None:
        given = command.make_context(words[0], list(words[1:]), resilient_parsing=True).params
        if given.get("command"):
            return [CompletionItem(word, type="file")]
    return ShellComplete(commands, {}, "", VARIABLE).get_completions(list(words), word)


def _in_bash(value: str, _help: str, quote: str) -> str:
    if quote == "'":
        return value.replace("'", "'\\''")
    special = '["$`\\\\]' if quote else "[^\\w@%+=:,./-]"
    return re.sub(special, r"\\\g<0>", value)


def _in_zsh(value: str, text: str, _quote: str) -> str:
    escaped = value.replace(":", "\\:")
    return f"{escaped}:{text}" if text else escaped


def _in_fish(value: str, text: str, _quote: str) -> str:
    return f"{value}\t{text}" if text else value


_NOTATIONS = {"bash": _in_bash, "zsh": _in_zsh, "fish": _in_fish}
