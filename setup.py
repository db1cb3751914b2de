"""Builds and installs the distribution ``hotwheels-amct-pytorch``.

The top-level folders ``proto``, ``capacity`` and ``custom_op`` become sub-packages of ``hotwheels.amct_pytorch``. The
mapping is in ``package_dir``, so the library finds them in an installed wheel or after ``pip install -e .``, not in a
bare checkout.
"""

import re
import runpy
import sys
from pathlib import Path
from typing import ClassVar

from setuptools import Command, Extension, find_namespace_packages, find_packages, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build import build
from setuptools.command.build_ext import build_ext
from setuptools.errors import ExecError

ROOT = Path(__file__).resolve().parent
PACKAGE = "hotwheels.amct_pytorch"
VERSION = runpy.run_path(str(ROOT / "hotwheels/amct_pytorch/version.py"))
MAPPED_FOLDERS = ("proto", "capacity", "custom_op")
KERNELS = (
    *("kernels", "weight_kernels", "integer_kernels", "byte_kernels", "fingerprint"),
    *("range_kernels", "histogram_kernels", "search_kernels"),
)

RUNTIME = ["onnxruntime>=1.22"]
DYNAMO = ["onnxscript>=0.7"]
SAMPLE = ["scikit-learn>=1.5", "pillow>=10", "torchvision"]
DOCS = ["mkdocs-material>=9.7", "mkdocstrings[python]>=1.0", "latex2mathml>=3.78", "jieba>=0.42", "ruff>=0.17"]
DEV = ["pytest>=8", "pytest-xdist>=3.6", "pytest-cov>=6", "hypothesis>=6", "ruff>=0.17", "mypy>=1.18"]


class BuildProto(Command):
    """Generates ``proto/<name>_pb2.py`` from each ``proto/<name>.proto``.

    The files are written beside their sources, because an editable install imports the source folder itself; they are
    git-ignored and not part of an sdist.
    """

    description = "generate the protobuf modules of proto/ with grpcio-tools"
    user_options: ClassVar[list[tuple[str, str | None, str]]] = []
    editable_mode = False  # set by editable_wheel; both kinds of build generate the same files

    def initialize_options(self) -> None:
        """Nothing to configure."""

    def finalize_options(self) -> None:
        """Nothing to configure."""

    def run(self) -> None:
        """Runs protoc on all sources at once."""
        sources = self.get_source_files()
        if not sources:
            return
        # A build requirement (pyproject.toml), so it must not be imported when only metadata is read.
        from grpc_tools import protoc

        if protoc.main(["protoc", "--proto_path=proto", "--python_out=proto", *sources]) != 0:
            raise ExecError(f"protoc failed on {', '.join(sources)}")

    def get_source_files(self) -> list[str]:
        """Returns the ``.proto`` files, relative to the project's root as setuptools requires."""
        return [path.relative_to(ROOT).as_posix() for path in sorted((ROOT / "proto").glob("*.proto"))]


class BuildKernels(build_ext):
    """Compiles core/*kernels.c to a library, loaded with ctypes: it is no Python module and needs no Python.h."""

    def run(self) -> None:
        """Compiles; a library of another name beside the new one, of an older version of this file, would be loaded."""
        super().run()
        if self.inplace:
            for ext in self.extensions:
                new = Path(self.get_ext_fullpath(ext.name))
                for old in new.parent.glob(f"{new.name.partition('.')[0]}.*"):
                    if new.is_file() and old.name != new.name and old.suffix in (".so", ".pyd", ".dylib"):
                        old.unlink()

    def get_ext_filename(self, fullname: str) -> str:
        """Returns a name without the version of Python: plain C, so one library serves all versions."""
        suffix = ".pyd" if sys.platform == "win32" else ".so"
        return str(Path(*fullname.split("."))) + suffix

    def get_export_symbols(self, ext: Extension) -> list[str]:
        """Returns the functions of the library, instead of a module's initialization; used on Windows only."""
        source = "\n".join((ROOT / one).read_text(encoding="utf-8") for one in ext.sources)
        return re.findall(r"^\w+ (amct_\w+)\(", source, re.MULTILINE)


def kernels() -> Extension:
    """Returns core/*kernels.c as an optional extension: the package is installed even if the compilation fails."""
    exact = ["-O3", "-std=c99", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math"]
    # torch has loaded this library (OpenMP). macOS' compiler lacks it; the kernels then use one thread.
    threads = ["-fopenmp"] if sys.platform.startswith("linux") else []
    is_msvc = sys.platform == "win32"
    core = f"{PACKAGE.replace('.', '/')}/core"
    return Extension(
        f"{PACKAGE}.core._kernels",
        sources=[f"{core}/{one}.c" for one in KERNELS],
        depends=[f"{core}/{one}.h" for one in ("kernels", "range_kernels", "row_kernels")],
        extra_compile_args=["/O2", "/fp:precise"] if is_msvc else [*exact, *threads],
        extra_link_args=threads,
        optional=True,
    )


class Wheel(bdist_wheel):
    """A wheel for every version of Python on this platform."""

    def get_tag(self) -> tuple[str, str, str]:
        """Returns the tags of Python, ABI and platform."""
        return ("py3", "none", super().get_tag()[2])


class Build(build):
    """The standard build with the protobuf modules generated before Python files are collected."""

    sub_commands: ClassVar = [("build_proto", None), *build.sub_commands]


def mapped_packages() -> list[str]:
    """Returns the dotted names of the mapped folders and of every folder with Python files below them."""
    names = []
    for folder in filter(Path.is_dir, map(Path, MAPPED_FOLDERS)):
        names.append(f"{PACKAGE}.{folder}")
        names += [
            f"{PACKAGE}.{folder}.{child}"
            for child in find_namespace_packages(folder, exclude=["*__pycache__*"])
            if any((ROOT / folder / child.replace(".", "/")).glob("*.py"))
        ]
    return names


setup(
    name="hotwheels-amct-pytorch",
    version=VERSION["__version__"],
    description="Post-training quantization and quantization-aware training of PyTorch vision networks for NPUs",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author="Seed c799ac5b maintainers",
    # No URLs: the project has no address of its own yet.
    keywords=[
        *(
            "quantization",
            "post-training-quantization",
            "quantization-aware-training",
            "pytorch",
            "onnx",
            "npu",
            "int8",
        ),
        *("AMCT", "HiSilicon", "ATC", "SS928", "Hi3403", "Hi3516"),
    ],
    classifiers=[
        "Development Status :: 5 - Production/Stable",
        "Intended Audience :: Developers",
        "Intended Audience :: Science/Research",
        "Operating System :: OS Independent",
        "Programming Language :: C",
        "Programming Language :: Python :: 3",
        *(f"Programming Language :: Python :: 3.{minor}" for minor in range(10, 15)),
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
    license_expression="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.10",
    packages=[
        *find_namespace_packages(include=[PACKAGE, f"{PACKAGE}.*"], exclude=["*__pycache__*"]),
        *find_packages(include=["picovision", "picovision.*"]),
        *mapped_packages(),
    ],
    package_dir={f"{PACKAGE}.{folder}": folder for folder in MAPPED_FOLDERS},
    package_data={"": ["*.proto", "*.csv", "*.yaml", "*.html", "py.typed"]},
    include_package_data=False,
    zip_safe=False,
    ext_modules=[kernels()],
    entry_points={"console_scripts": ["amct = hotwheels.amct_pytorch.cli:main"]},
    cmdclass={"bdist_wheel": Wheel, "build": Build, "build_proto": BuildProto, "build_ext": BuildKernels},
    install_requires=[
        "torch>={},<{}".format(*VERSION["TESTED_TORCH"]),
        "onnx>=1.19",
        "onnx-ir>=0.1.15",
        "numpy>=1.26",
        # Not tied to the protobuf of grpcio-tools: proto/__init__.py takes only descriptors from the generated files.
        "protobuf>=6.31.1",
        "pyyaml>=6",
        "interval>=1.0",
        "click>=8.1.8",
        "tqdm>=4.60",
    ],
    extras_require={"runtime": RUNTIME, "dynamo": DYNAMO, "sample": SAMPLE, "dev": DEV, "docs": DOCS},
)
