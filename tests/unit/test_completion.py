"""Does a shell that asks what a line may become get exactly that, in its own notation?"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from supervisor.cli import completion, main
from tests.support.scripted import UUID, Directory

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Ask = Callable[..., list[str]]


@pytest.fixture
def ask(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes]
) -> Ask:
    """Ask as a shell does; bash: by the line and what readline replaces of it."""
    monkeypatch.setenv("LOCK_SUPERVISOR_RUNTIME_DIR", str(tmp_path))

    def asked(*words: str, notation: str = "bash") -> list[str]:
        assert main.execute(words, f"{notation}_complete") == 0
        out, err = capsysbinary.readouterr()
        assert err == b""
        return os.fsdecode(out).splitlines()

    return asked


@pytest.mark.parametrize(
    ("line", "replaced", "expected"),
    [
        ("lock-supervisor st", "st", ["plain status", "plain stop"]),
        ("lock-supervisor run --cont", "--cont", ["plain --containment"]),
        ("lock-supervisor run --containment pi", "pi", ["plain pidns"]),
        ("lock-supervisor run --containment=p", "p", ["plain pdeathsig", "plain pidns"]),
        ("lock-supervisor run --containment=p", "--containment=p",
         ["plain --containment=pdeathsig", "plain --containment=pidns"]),
        ("lock-supervisor run --plugin f", "f", ["plain file"]),
        ("lock-supervisor run --plugin file+", "file+",
         ["plain file+nop", "plain file+vm", "plain file+sanlock",
          "plain file+etcd"]),
        ("lock-supervisor run --on-lockfailure ", "", ["plain kill", "plain pause"]),
        ("lock-supervisor run --disk ", "", ["file"]),
        ("lock-supervisor run --disk=/srv/a", "/srv/a", ["file"]),
        ("lock-supervisor run --config ", "", ["file"]),
        ("lock-supervisor run --wait ", "", []),
        ("lock-supervisor list --runtime-dir ", "", ["dir"]),
        ("lock-supervisor run ", "", ["command"]),
        ("lock-supervisor run -- ", "", ["command"]),
        ("lock-supervisor run qemu", "qemu", ["command"]),
        ("lock-supervisor run -- -", "-", ["command"]),
        ("lock-supervisor run qemu-kvm ", "", ["file"]),
        ("lock-supervisor run qemu-kvm -", "-", ["file"]),
        ("lock-supervisor run qemu-kvm --plugin ", "", ["file"]),
        ("lock-supervisor run -- qemu-kvm --containment=", "", ["file"]),
        ("lock-supervisor run --wait inf -- qemu-kvm ", "", ["file"]),
        ("lock-supervisor attach web1 ", "", ["file"]),
        ("lock-supervisor status ", "", []),
    ],
)  # fmt: skip
def test_what_a_line_may_become(line: str, replaced: str, expected: list[str], ask: Ask) -> None:
    assert ask(line, replaced) == expected


def test_no_word_at_all_names_the_commands(ask: Ask) -> None:
    assert "plain run" in ask("lock-supervisor ", "")
    assert any(line.startswith("plain run:Start COMMAND") for line in ask("", "", notation="zsh"))
    assert any(line.startswith("plain run\tStart") for line in ask("", "", notation="fish"))


def test_guests_are_named_by_name_and_by_the_begun_uuid(tmp_path: Path, ask: Ask) -> None:
    with Directory(str(tmp_path), {"leases": [{"resource": "/images/a b"}]}):
        assert ask("lock-supervisor stop ", "") == ["plain web1"]
        assert ask("lock-supervisor status --json w", "w") == ["plain web1"]
        assert ask("lock-supervisor kill 5F", "5F") == [f"plain {UUID}"]
        assert ask("lock-supervisor child x", "x") == []
        assert ask("wait", "", "", notation="zsh") == [f"plain web1:{UUID}"]
        assert ask("wait", "", "", notation="fish") == [f"plain web1\t{UUID}"]
        elsewhere = ["--runtime-dir", str(tmp_path / "missing")]
        assert ask("wait", *elsewhere, "", "", notation="fish") == []
        assert ask("lock-supervisor detach web1 ", "") == ["plain /images/a\\ b"]
        assert ask("lock-supervisor detach web2 ", "") == []


@pytest.mark.parametrize(
    ("typed", "replaced", "expected"),
    [
        ("", "", r"it\'s\ \$HOME:\ \"1\""),
        (r"it\'s\ ", r"it\'s\ ", r"it\'s\ \$HOME:\ \"1\""),
        ('"it', "it", r"it's \$HOME: \"1\""),
        ("'it", "it", r"""it'\''s $HOME: "1\""""[:-2] + '"'),
        (r"it\'s\ \$HOME:", "", r"\ \"1\""),
    ],
)
def test_bash_gets_names_quoted_as_they_are_typed(
    typed: str, replaced: str, expected: str, tmp_path: Path, ask: Ask
) -> None:
    with Directory(str(tmp_path), {"name": 'it\'s $HOME: "1"'}):
        assert ask(f"lock-supervisor stop {typed}", replaced) == [f"plain {expected}"]


def test_zsh_gets_the_colons_of_a_name_escaped(tmp_path: Path, ask: Ask) -> None:
    with Directory(str(tmp_path), {"name": "a:b"}):
        assert ask("wait", "", "", notation="zsh") == [f"plain a\\:b:{UUID}"]


def test_a_dead_guest_is_not_offered_and_its_directory_is_left_alone(
    tmp_path: Path, ask: Ask
) -> None:
    with Directory(str(tmp_path)):
        pass
    before = sorted(os.listdir(tmp_path))
    assert ask("lock-supervisor stop ", "") == []
    assert sorted(os.listdir(tmp_path)) == before


def test_a_script_asks_by_the_variable_that_we_answer_to(
    capsysbinary: pytest.CaptureFixture[bytes],
) -> None:
    for shell in ("bash", "zsh", "fish"):
        assert main.execute([], f"{shell}_source") == 0
        assert capsysbinary.readouterr().out.decode() == completion.script(shell)
        assert f"{main._COMPLETE}={shell}_complete" in completion.script(shell)


def test_an_unknown_instruction_names_the_known_ones(
    capsysbinary: pytest.CaptureFixture[bytes],
) -> None:
    assert main.execute([], "ksh_source") == 2
    err = capsysbinary.readouterr().err
    assert err.startswith(b"lock-supervisor: cannot use _LOCK_SUPERVISOR_COMPLETE=ksh_source: ")
    assert b"bash_source" in err
