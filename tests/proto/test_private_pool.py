"""Our protobuf messages are used even if others are registered under the same names."""

from __future__ import annotations

import subprocess
import sys

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool

from hotwheels.amct_pytorch import proto


def test_messages_do_not_enter_the_default_pool() -> None:
    code = (
        "from google.protobuf import descriptor_pool as pool\n"
        "import hotwheels.amct_pytorch.proto\n"
        "try: pool.Default().FindMessageTypeByName('AMCTPytorchProto.AMCTConfig')\n"
        "except KeyError: print('private')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "private\n"


def test_another_package_may_register_the_same_names() -> None:
    other = descriptor_pb2.FileDescriptorProto(name="calibration_config_pytorch.proto", package="AMCTPytorchProto")
    other.message_type.add(name="AMCTConfig")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(other)
    assert not pool.FindMessageTypeByName("AMCTPytorchProto.AMCTConfig").fields
    assert proto.AMCTConfig.DESCRIPTOR.fields_by_name["batch_num"].default_value == 1


def test_data_types_have_the_converter_s_numbers() -> None:
    names = ("S4", "U4", "S8", "U8", "S16", "U16", "F16", "S32", "U32", "F32")
    assert proto.DataType.items() == [(name, number) for number, name in enumerate(names)]


def test_any_message_is_found_by_its_full_name() -> None:
    fields = proto.message("AMCTPytorchProto.SNQuantize").DESCRIPTOR.fields_by_name
    assert fields["min_distance"].default_value == pytest.approx(1e-10)
    with pytest.raises(KeyError):
        proto.message("AMCTPytorchProto.Nothing")


def test_module_that_was_not_generated_says_how_to_build() -> None:
    with pytest.raises(ImportError, match=r"nothing_pb2\.py is missing: it is generated when the package is built"):
        proto.file_descriptor("nothing_pb2")
