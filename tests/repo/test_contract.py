"""The wire contract: the stubs are what protoc makes of the proto file, and the proto file keeps its promises."""

import subprocess
import sys
from pathlib import Path

import pytest
from google.protobuf.descriptor import FieldDescriptor

from generated.v1 import transcription_pb2
from resources.config import PROJECT_ROOT

FILE = transcription_pb2.DESCRIPTOR
_TYPES = {
    FieldDescriptor.TYPE_BYTES: "bytes",
    FieldDescriptor.TYPE_STRING: "string",
    FieldDescriptor.TYPE_INT32: "int32",
    FieldDescriptor.TYPE_BOOL: "bool",
    FieldDescriptor.TYPE_DOUBLE: "double",
    FieldDescriptor.TYPE_MESSAGE: "message",
}
PROMISED = {
    "AudioRequest": {1: "bytes audio_data", 2: "string filename", 3: "string format", 4: "int32 sample_rate"},
    "AudioChunk": {1: "bytes chunk_data", 2: "string filename", 3: "string format", 4: "int32 sample_rate"},
    "TranscriptionResponse": {
        1: "string transcript",
        2: "bool success",
        3: "string error_message",
        4: "double processing_time",
        5: "double audio_duration",
        6: "message stats",
    },
    "TranscriptionStats": {1: "int32 word_count", 2: "int32 char_count", 3: "double speed_factor"},
}


@pytest.mark.parametrize("message", PROMISED)
def test_promised_fields_keep_their_numbers_types_and_names(message: str) -> None:
    fields = {
        field.number: f"{_TYPES[field.type]} {field.name}" for field in FILE.message_types_by_name[message].fields
    }
    assert fields | PROMISED[message] == fields


def test_stats_field_is_the_stats_message() -> None:
    stats = FILE.message_types_by_name["TranscriptionResponse"].fields_by_name["stats"]
    assert stats.message_type.full_name == "transcription.v1.TranscriptionStats"


def test_methods_keep_their_names_and_kinds() -> None:
    methods = FILE.services_by_name["TranscriptionService"].methods_by_name
    promised = {"TranscribeAudio": ("AudioRequest", False), "TranscribeAudioStream": ("AudioChunk", True)}
    for name, (request, streamed) in promised.items():
        method = methods[name]
        assert method.full_name == f"transcription.v1.TranscriptionService.{name}"
        assert (method.input_type.name, method.client_streaming) == (request, streamed)
        assert (method.output_type.name, method.server_streaming) == ("TranscriptionResponse", False)


def test_java_options_are_the_promised_ones() -> None:
    options = FILE.GetOptions()
    assert options.java_multiple_files
    assert options.java_package == "ai.agora.proto.v1"
    assert options.java_outer_classname == "TranscriptionProtoV1"


def test_regenerating_the_stubs_changes_nothing(tmp_path: Path) -> None:
    line = next(
        line for line in (PROJECT_ROOT / "generate_proto.bat").read_text().splitlines() if "grpc_tools.protoc" in line
    )
    shell_line = (PROJECT_ROOT / "generate_proto.sh").read_text()
    arguments = line.split("grpc_tools.protoc ")[1]
    assert arguments in shell_line  # both scripts run the same line
    command = [argument.replace("_out=.", f"_out={tmp_path}") for argument in arguments.split()]
    subprocess.run([sys.executable, "-m", "grpc_tools.protoc", *command], cwd=PROJECT_ROOT, check=True)
    made = sorted((tmp_path / "generated" / "v1").iterdir())
    assert [path.name for path in made] == [
        "transcription_pb2.py",
        "transcription_pb2.pyi",
        "transcription_pb2_grpc.py",
    ]
    for path in made:
        assert path.read_text() == (PROJECT_ROOT / "generated" / "v1" / path.name).read_text()
