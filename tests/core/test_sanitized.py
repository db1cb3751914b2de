"""The kernels under ASan and UBSan: they touch no memory but what they are given, and compute nothing undefined."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).parent
CORE = HERE.parents[1] / "hotwheels" / "amct_pytorch" / "core"
FLAGS = ("-std=c99", "-O1", "-g", "-ffp-contract=off", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
CLEAN = {"ASAN_OPTIONS": "detect_leaks=0"}  # leaks cannot be looked for where ptrace is not allowed


def compiled(source: Path, folder: Path) -> Path:
    compiler, program = shutil.which("gcc") or shutil.which("clang"), folder / "sanitized"
    if compiler is None:
        pytest.skip("there is no C compiler here: the kernels were not tested under sanitizers")
    command = [compiler, *FLAGS, f"-I{CORE}", str(source), "-o", str(program), "-lm"]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    if "cannot find" in built.stderr:
        pytest.skip(f"the C compiler has no sanitizers: {built.stderr[-200:]}")
    assert built.returncode == 0, built.stderr
    return program


def test_the_kernels_stay_inside_their_memory(tmp_path: Path) -> None:
    program = compiled(HERE / "sanitized.c", tmp_path)
    ran = subprocess.run([str(program)], capture_output=True, text=True, env=CLEAN, timeout=120, check=False)
    assert (ran.returncode, ran.stdout) == (0, "done\n"), ran.stderr[-3000:]


def test_a_step_too_far_is_seen(tmp_path: Path) -> None:
    source = (HERE / "sanitized.c").read_text(encoding="utf-8")
    wrong = source.replace("amct_fake_quantize(x, out, count,", "amct_fake_quantize(x, out, count + 1,")
    assert wrong != source
    (tmp_path / "wrong.c").write_text(wrong, encoding="utf-8")
    ran = subprocess.run(
        [str(compiled(tmp_path / "wrong.c", tmp_path))], capture_output=True, text=True, env=CLEAN, check=False
    )
    assert ran.returncode != 0
    assert "heap-buffer-overflow" in ran.stderr
