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


def test_without_a_command_the_help_has_its_lines(amct: Amct) -> None:
    ran, wanted = amct(), amct("--help")
    assert ran.code == 0
    assert ran.out == wanted.out
    assert "\nCommands:\n  config " in ran.out


NOT_NUMBERS = {
    "compare tolerance": ("--tolerance", ("nan", "inf", "-1"), ("compare", "float", "fake_quant")),
    "auto budget": ("--budget", ("nan", "inf", "-1", "0"), ("auto", "net.build")),
    "auto target": ("--target", ("nan", "-inf"), ("auto", "net.build")),
    "dot2pdf timeout": ("--timeout", ("nan", "inf", "-1"), ("dot2pdf", "a.dot")),
    "mean": ("--mean", ("nan", "0,inf,0"), ("check", "net.build")),
    "std": ("--std", ("nan", "0", "1,1,-1"), ("check", "net.build")),
    "samples": ("--samples", ("-1", "0", "nan"), ("analyze", "net.build")),
    "batch_num": ("--batch_num", ("-1", "0", "nan"), ("quantize", "net.build")),
}


@pytest.mark.parametrize(("option", "values", "line"), NOT_NUMBERS.values(), ids=NOT_NUMBERS)
def test_numbers_that_mean_nothing_are_refused(
    amct: Amct, folder: Path, option: str, values: tuple[str, ...], line: tuple[str, ...]
) -> None:
    for value in values:
        ran = amct(*line, f"{option}={value}")
        assert ran.code == 2, value
        assert option in ran.error
        assert ran.err.count("\n") == 1


UNWRITABLE = {
    "config": ("config", "net.build", "-o", "/proc/x/y.json"),
    "export": ("export", "net.build", "-w", "out/net.pt", "--input_shape", "1,3,16,16", "-o", "/proc/x/net"),
    "compare": ("compare", "float", "float", "--prefix", "out/net", "-i", "image.npy", "--html", "/proc/foo.html"),
}


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="no /proc, in which nothing can be written")
@pytest.mark.parametrize("line", UNWRITABLE.values(), ids=UNWRITABLE)
def test_a_path_that_cannot_be_written_is_named_with_its_option(
    amct: Amct, quantized: Path, monkeypatch: pytest.MonkeyPatch, line: tuple[str, ...]
) -> None:
    monkeypatch.chdir(quantized)
    ran = amct(*line)
    assert ran.code == 2
    option = "--html" if line[0] == "compare" else "-o, -k, --output"
    assert ran.error.startswith(f"error: {option}: '{line[-1]}' cannot be used: ")


def test_a_forward_that_raises_is_told_without_a_lesson_on_traces(amct: Amct, folder: Path) -> None:
    ran = amct("config", "net.Fails")
    assert ran.code == 2
    assert 'KeyError: "the user\'s own"' in ran.error
    assert ran.error.endswith(
        "Reason: the model's own code raises this error. Pass input_data= to trace the model as it is called. On the"
        " command line: --input_shape or -i."
    )
