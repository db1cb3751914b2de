"""The group of commands: help, version, errors in one line, exit codes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import hotwheels.amct_pytorch
from hotwheels.amct_pytorch.cli.main import group
from tests.cli.conftest import Amct

COMMANDS = tuple(group.list_commands(None))


def test_the_module_is_the_same_program(tmp_path: Path) -> None:
    line = [sys.executable, "-m", "hotwheels.amct_pytorch", "--version"]
    ran = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert ran.stdout == f"amct {hotwheels.amct_pytorch.__version__}\n"


def test_commands_of_the_issue_are_there() -> None:
    wanted = "config quantize refine auto analyze dump check verify compare record export doctor"
    assert set(wanted.split()) <= set(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_help_has_an_example_that_names_the_command(amct: Amct, name: str) -> None:
    ran = amct(name, "--help")
    assert ran.code == 0
    example = ran.out.partition("Example:")[2].strip()
    assert f"amct {name}" in example


@pytest.mark.parametrize("name", COMMANDS)
def test_options_of_an_example_exist(amct: Amct, name: str) -> None:
    ran = amct(name, "--help")
    options, _, example = ran.out.partition("Example:")
    used = {word for word in example.split() if word.startswith("-")}
    lines = [line.split() for line in options.splitlines() if line.strip().startswith("-")]
    known = {word.rstrip(",") for words in lines for word in words}
    assert used <= known


@pytest.mark.parametrize(
    "arguments", [("nonsense",), ("verify",), ("verify", "a", "--bogus"), ("completion", "csh"), ("completion",)]
)
def test_a_wrong_call_is_one_line_and_2(amct: Amct, arguments: tuple[str, ...]) -> None:
    ran = amct(*arguments)
    assert ran.code == 2
    assert ran.err.startswith("error: ")
    assert ran.err.count("\n") == 1
    assert "--help" in ran.err


def test_a_mistyped_command_has_the_nearest(amct: Amct) -> None:
    assert "There is no command 'quantze'. Did you mean 'quantize'" in amct("quantze", "net.build").error


@pytest.mark.parametrize("arguments", [("--debug", "verify", "nothing"), ("verify", "nothing", "--debug")])
def test_debug_shows_the_traceback(amct: Amct, folder: Path, arguments: tuple[str, ...]) -> None:
    ran = amct(*arguments)
    assert ran.code == 2
    assert "Traceback" in ran.err
    assert ran.error.startswith("error: Golden file 'nothing_golden.npz' does not exist")


def test_without_debug_there_is_no_traceback(amct: Amct, folder: Path) -> None:
    ran = amct("verify", "nothing")
    assert (ran.code, ran.err.count("\n")) == (2, 1)


def test_an_error_of_the_model_names_its_class(amct: Amct, folder: Path) -> None:
    ran = amct("quantize", "net.Fails", "-i", "images.npy")
    assert ran.code == 2
    assert "the user's own" in ran.err


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_a_script_of_the_shell(amct: Amct, shell: str) -> None:
    ran = amct("completion", shell)
    assert ran.code == 0
    assert "_AMCT_COMPLETE" in ran.out


def test_the_shell_gets_the_commands_to_complete(tmp_path: Path) -> None:
    script = Path(sys.executable).with_name("amct")
    environment = {"_AMCT_COMPLETE": "bash_complete", "COMP_WORDS": "amct ver", "COMP_CWORD": "1", "PATH": ""}
    ran = subprocess.run([str(script)], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert ran.stdout.split() == ["plain,verify"]
