"""Is the manual page what the commands say now, and good roff?"""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import click
import pytest

from docs.man import generate
from supervisor import config, exitcodes
from supervisor.cli import main
from supervisor.cli.render import NAME

if TYPE_CHECKING:
    from collections.abc import Callable

DEADLINE_S = 30
TOLD = "run: .venv/bin/python -m docs.man.generate >docs/man/lock-supervisor.1"


def rendered() -> str:
    argv = ["groff", "-ww", "-man", "-Tascii", "-P-cbu", "-rLL=500n", generate.PAGE]
    run = subprocess.run(argv, capture_output=True, text=True, timeout=DEADLINE_S, check=True)
    assert run.stderr == ""
    return run.stdout


def test_the_page_is_what_the_commands_say() -> None:
    with open(generate.PAGE, encoding="utf-8") as file:
        assert file.read() == generate.page(), TOLD


def test_every_command_and_option_is_on_the_page(require: Callable[[str], str]) -> None:
    require("groff")
    text = rendered()
    context = click.Context(main.commands, info_name=NAME)
    names = main.commands.list_commands(context)
    assert len(names) > 5
    for name in names:
        assert f"\n       {NAME} {name} " in text
        command = main.commands.get_command(context, name)
        assert command is not None
        for parameter in command.params:
            if isinstance(parameter, click.Option):
                assert parameter.opts[0] in text
                assert " ".join((parameter.help or "").split()) in " ".join(text.split())


def test_codes_files_and_variables_are_on_the_page(require: Callable[[str], str]) -> None:
    require("groff")
    text = rendered()
    for code in (exitcodes.HELD_ELSEWHERE, exitcodes.FAILED, exitcodes.LEASE_LOST):
        assert f"\n       {code} " in text
    for word in (config.DEFAULT_FILE, config.FILE_VARIABLE, config.RUNTIME_DIR_VARIABLE):
        assert word in text


def test_no_word_of_the_page_is_hyphenated(require: Callable[[str], str]) -> None:
    argv = [require("groff"), "-man", "-Tutf8", "-P-cbu", "-rLL=60n", generate.PAGE]
    run = subprocess.run(argv, capture_output=True, text=True, timeout=DEADLINE_S, check=True)
    assert "default" in run.stdout
    assert "\u2010\n" not in run.stdout


def test_mandoc_finds_nothing_wrong(require: Callable[[str], str]) -> None:
    argv = [require("mandoc"), "-T", "lint", "-W", "warning", generate.PAGE]
    run = subprocess.run(argv, capture_output=True, text=True, timeout=DEADLINE_S, check=False)
    assert (run.stdout, run.returncode) == ("", 0)


@pytest.mark.parametrize("text", [".TH x", "'br", "a\\fBb", "--x", '"q"', "caf\u00e9 \u2026"])
def test_any_help_text_comes_out_as_it_is(text: str, require: Callable[[str], str]) -> None:
    source = "\n".join([".TH X 1 2026-01-01", ".SH NAME", *generate._paragraphs(text), ""])
    argv = [require("groff"), "-ww", "-man", "-Tutf8", "-P-cbu"]
    run = subprocess.run(
        argv, input=source, capture_output=True, text=True, timeout=DEADLINE_S, check=True
    )
    assert run.stderr == ""
    assert f"\n       {text}\n" in run.stdout
