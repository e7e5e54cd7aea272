"""The wire contract is frozen: names, numbers and types of `memstore.v1`.

After an addition run `python -m tests.format.test_proto_descriptor` and commit the change of the
golden file. A field is never renumbered, retyped or reused.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor, FileDescriptor

from memstore.v1 import memory_pb2, memory_service_pb2, session_service_pb2

GOLDEN = Path(__file__).parent / "golden" / "memstore_v1.json"
FILES = (memory_pb2.DESCRIPTOR, memory_service_pb2.DESCRIPTOR, session_service_pb2.DESCRIPTOR)
TYPES = {
    number: name.removeprefix("TYPE_").lower()
    for name, number in vars(FieldDescriptor).items()
    if name.startswith("TYPE_")
}


def _field(field: FieldDescriptor) -> str:
    kind = TYPES[field.type]
    if field.message_type or field.enum_type:
        kind = (field.message_type or field.enum_type).full_name
    if field.is_repeated:
        kind = f"repeated {kind}"
    elif field.has_presence and not field.message_type and not field.containing_oneof.fields[1:]:
        kind = f"optional {kind}"
    inside = field.containing_oneof
    if inside and not inside.name.startswith("_"):
        kind = f"{kind} in {inside.name}"
    return f"{field.name}: {kind}"


def _message(message: Descriptor) -> dict[str, Any]:
    return {str(field.number): _field(field) for field in message.fields} | {
        nested.name: _message(nested) for nested in message.nested_types
    }


def _describe(file: FileDescriptor) -> dict[str, Any]:
    return {
        "package": file.package,
        "messages": {
            name: _message(message) for name, message in file.message_types_by_name.items()
        },
        "enums": {
            name: {str(value.number): value.name for value in enum.values}
            for name, enum in file.enum_types_by_name.items()
        },
        "services": {
            name: {
                method.name: [
                    ("stream " if method.client_streaming else "") + method.input_type.name,
                    ("stream " if method.server_streaming else "") + method.output_type.name,
                ]
                for method in service.methods
            }
            for name, service in file.services_by_name.items()
        },
    }


def _contract() -> str:
    contract = {file.name: _describe(file) for file in FILES}
    return json.dumps(contract, indent=1, sort_keys=True) + "\n"


def test_the_contract_is_the_frozen_one():
    """Every message, field, enum value and method is what the golden file says."""
    assert _contract() == GOLDEN.read_text()


if __name__ == "__main__":
    GOLDEN.write_text(_contract())
