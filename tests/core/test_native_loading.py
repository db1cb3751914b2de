"""If the library cannot be used, torch computes and one warning is logged; the tests build or damage real libraries."""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from hotwheels.amct_pytorch.core import native

SOURCE = Path(native.__file__).with_name("kernels.c")
COMPILER = shutil.which("gcc")
pytestmark = pytest.mark.skipif(COMPILER is None or sys.platform != "linux", reason="builds libraries with gcc")

# Of prototypes and structures: when it changes, raise ABI in kernels.c and native.py, and write the new digest here.
PROTOTYPES_OF_ABI = {5: "3809adb04753ab17"}
OF_CALIBRATION = ("range_kernels.h", "range_kernels.c", "search_kernels.c")

# Quantizes a large tensor in a new process, whose package finds the library at argv[1].
SCRIPT = """
import importlib.util, sys, types
find = importlib.util.find_spec
def found(name, package=None):
    library = types.SimpleNamespace(origin=sys.argv[1])
    return library if name.endswith("core._kernels") else find(name, package)
importlib.util.find_spec = found
import torch
from hotwheels.amct_pytorch.core import native
from hotwheels.amct_pytorch.core.affine import fake_quantize
x = torch.linspace(-3, 3, 100_000)
for _ in range(2):
    result = fake_quantize(x, torch.tensor(0.05), torch.tensor(3), 8)
expected = torch.round(x / 0.05).clamp_(-131, 124).mul_(0.05)
print(native.is_there(), torch.equal(result, expected))
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Compiles a text in the place of kernels.c."""
    folder = tmp_path_factory.mktemp("kernels")

    def build(text: str) -> Path:
        name = hashlib.sha256(text.encode()).hexdigest()[:16]
        source, library = folder / f"{name}.c", folder / f"{name}.so"
        source.write_text(text)
        flags = ["-shared", "-fPIC", "-O1", "-std=c99", "-ffp-contract=off", "-fopenmp", f"-I{SOURCE.parent}"]
        subprocess.run([str(COMPILER), *flags, str(source), "-o", str(library), "-lm"], check=True)
        return library

    return build


def run(library: Path, folder: Path) -> tuple[str, list[str]]:
    """Returns what the script prints, and its warnings."""
    command = [sys.executable, "-c", SCRIPT, str(library)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip(), [line for line in done.stderr.splitlines() if "WARNING" in line]


def assert_left_to_torch(library: Path, folder: Path, reason: str) -> None:
    printed, warnings = run(library, folder)
    assert printed == "False True"
    (warning,) = warnings
    assert re.search(f"The compiled kernels {reason}", warning)
    assert "Install this package again" in warning


def test_a_library_of_this_version_is_used(built: Callable[[str], Path], tmp_path: Path) -> None:
    assert run(built(SOURCE.read_text()), tmp_path) == ("True True", [])


def test_a_library_without_a_number_is_stale(built: Callable[[str], Path], tmp_path: Path) -> None:
    text = SOURCE.read_text().replace("int amct_abi(void) { return ABI; }", "")
    assert_left_to_torch(built(text), tmp_path, r"in '.*' are of another version .*ABI 0, expected \d+")


def test_a_library_of_another_version_is_stale(built: Callable[[str], Path], tmp_path: Path) -> None:
    text = SOURCE.read_text().replace(f"#define ABI {native.ABI}", "#define ABI 999")
    assert_left_to_torch(built(text), tmp_path, r"in '.*' are of another version .*ABI 999, expected \d+")


def test_a_library_that_lacks_a_function(built: Callable[[str], Path], tmp_path: Path) -> None:
    text = SOURCE.read_text().replace("amct_row_extremes(", "amct_row_extreme(")
    assert_left_to_torch(built(text), tmp_path, "in '.*' lack the function amct_row_extremes")


@pytest.mark.parametrize("share", [0.0, 0.0005, 0.999])
def test_a_truncated_library(built: Callable[[str], Path], tmp_path: Path, share: float) -> None:
    """Most of these end the process with a bus error where ``dlopen`` gets them."""
    content = built(SOURCE.read_text()).read_bytes()
    cut = tmp_path / "kernels.so"
    cut.write_bytes(content[: int(share * len(content))])
    assert_left_to_torch(cut, tmp_path, "cannot be loaded")


def test_a_library_for_another_processor(built: Callable[[str], Path], tmp_path: Path) -> None:
    content = bytearray(built(SOURCE.read_text()).read_bytes())
    content[18:20] = (0xF3, 0) if content[18] != 0xF3 else (0x3E, 0)  # e_machine: RISC-V, or x86-64 there
    other = tmp_path / "kernels.so"
    other.write_bytes(content)
    assert_left_to_torch(other, tmp_path, "cannot be loaded")


def test_a_file_that_is_no_library(tmp_path: Path) -> None:
    text = tmp_path / "kernels.so"
    text.write_text("version https://git-lfs.github.com/spec/v1\n" * 40)
    assert_left_to_torch(text, tmp_path, "cannot be loaded")


def declared(text: str) -> list[str]:
    """The prototypes of a C file, and the structures that are passed to them, without comments."""
    bare = re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL)
    structures = re.findall(r"^typedef struct \{[^}]*\} (?:state|plan|seen)_t;", bare, re.MULTILINE)
    return structures + re.findall(r"^\w+ amct_\w+\([^)]*\)", bare, re.MULTILINE)


def test_the_number_is_that_of_the_prototypes() -> None:
    source = SOURCE.read_text()
    assert f"#define ABI {native.ABI}\n" in source
    prototypes = declared(source)
    assert {re.search(r"amct_\w+", one).group() for one in prototypes} == {*native._SIGNATURES, "amct_abi"}  # type: ignore[union-attr]
    prototypes += [one for name in OF_CALIBRATION for one in declared(SOURCE.with_name(name).read_text())]
    digest = hashlib.sha256("\n".join(" ".join(one.split()) for one in prototypes).encode()).hexdigest()[:16]
    assert {native.ABI: digest} == PROTOTYPES_OF_ABI
