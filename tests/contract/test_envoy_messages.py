"""Our part of Envoy's contract against an independent reading of it (envoy-data-plane): numbers, types and names.

Every field of every message that we use is filled, written with our classes, read with theirs, and compared by name
through protobuf's JSON mapping; then the other way round. A wrong field number, type or spelling cannot pass.
"""

from typing import Any

import pytest
from envoy_data_plane.envoy.data.accesslog.v3 import HttpAccessLogEntry
from envoy_data_plane.envoy.service.accesslog.v3 import StreamAccessLogsMessage, StreamAccessLogsResponse
from envoy_data_plane.envoy.service.auth.v3 import CheckRequest, CheckResponse
from envoy_data_plane.envoy.service.ext_proc.v3 import ProcessingRequest, ProcessingResponse
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message

from farebox.v1 import envoy_access_log_pb2, envoy_authz_pb2, envoy_ext_proc_pb2

PAIRS = {
    "CheckRequest": (envoy_authz_pb2.CheckRequest, CheckRequest),
    "CheckResponse": (envoy_authz_pb2.CheckResponse, CheckResponse),
    "ProcessingRequest": (envoy_ext_proc_pb2.ProcessingRequest, ProcessingRequest),
    "ProcessingResponse": (envoy_ext_proc_pb2.ProcessingResponse, ProcessingResponse),
    "StreamAccessLogsMessage": (envoy_access_log_pb2.StreamAccessLogsMessage, StreamAccessLogsMessage),
    "StreamAccessLogsResponse": (envoy_access_log_pb2.StreamAccessLogsResponse, StreamAccessLogsResponse),
    "HTTPAccessLogEntry": (envoy_access_log_pb2.HTTPAccessLogEntry, HttpAccessLogEntry),
}
DEPTH_MAX = 9


def fill(message: Message, choice: int, depth: int = 0) -> None:
    """Give every field a value of its own; of each oneof, member number `choice`."""
    chosen = {oneof.fields[choice % len(oneof.fields)].name for oneof in message.DESCRIPTOR.oneofs}
    for number, field in enumerate(message.DESCRIPTOR.fields, start=1):
        if field.containing_oneof is not None and field.name not in chosen:
            continue
        if depth >= DEPTH_MAX and field.message_type is not None:
            continue
        fill_field(message, field, number, choice, depth)


def fill_field(message: Message, field: FieldDescriptor, number: int, choice: int, depth: int) -> None:
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        value = field.message_type.fields_by_name["value"]
        if value.message_type is None:
            getattr(message, field.name)[f"key{number}"] = scalar(value, number)
        else:
            fill_message(getattr(message, field.name)[f"key{number}"], choice, depth)
    elif field.message_type is not None:
        child = getattr(message, field.name).add() if field.is_repeated else getattr(message, field.name)
        child.SetInParent() if not field.is_repeated else None
        fill_message(child, choice, depth)
    elif field.is_repeated:
        getattr(message, field.name).append(scalar(field, number))
    else:
        setattr(message, field.name, scalar(field, number))


def fill_message(message: Message, choice: int, depth: int) -> None:
    if message.DESCRIPTOR.full_name == "google.protobuf.Struct":
        message.update({"text": "a", "number": 2.5, "yes": True, "inner": {"b": [1.0, "c"]}})  # type: ignore[attr-defined]
    elif message.DESCRIPTOR.full_name in ("google.protobuf.Timestamp", "google.protobuf.Duration"):
        message.seconds, message.nanos = 1_700_000_000 if "Time" in message.DESCRIPTOR.name else 3, 5_000_000  # type: ignore[attr-defined]
    else:
        fill(message, choice, depth + 1)


def scalar(field: FieldDescriptor, number: int) -> Any:
    if field.type == FieldDescriptor.TYPE_STRING:
        return f"text{number}"
    if field.type == FieldDescriptor.TYPE_BYTES:
        return bytes([number, 0xFF])
    if field.type == FieldDescriptor.TYPE_BOOL:
        return True
    if field.enum_type is not None:
        return field.enum_type.values[-1].number
    return 200 + number


def oneof_members(descriptor: Descriptor, seen: frozenset[str] = frozenset()) -> int:
    """The largest number of members of any oneof that this message can contain."""
    if descriptor.full_name in seen or descriptor.full_name.startswith("google."):
        return 1
    seen |= {descriptor.full_name}
    own = [len(oneof.fields) for oneof in descriptor.oneofs]
    inner = [oneof_members(field.message_type, seen) for field in descriptor.fields if field.message_type is not None]
    return max([1, *own, *inner])


CASES = [(name, choice) for name, (ours, _) in PAIRS.items() for choice in range(oneof_members(ours.DESCRIPTOR))]


@pytest.mark.parametrize(("name", "choice"), CASES)
def test_what_we_write_envoy_reads_and_back(name: str, choice: int) -> None:
    ours_type, theirs_type = PAIRS[name]
    ours = ours_type()
    fill(ours, choice)
    theirs = theirs_type.parse(ours.SerializeToString())
    assert normal(theirs.to_dict()) == normal(MessageToDict(ours))
    assert ours_type.FromString(bytes(theirs)) == ours


def normal(document: Any) -> Any:
    """JSON with what the two spell differently made equal: numbers as text, HTTP statuses (their enum) as ours."""
    if document == "Created":
        return "201"
    if isinstance(document, dict):
        return {key: normal(value) for key, value in document.items()}
    if isinstance(document, list):
        return [normal(value) for value in document]
    if isinstance(document, bool) or document is None:
        return document
    if isinstance(document, int | float):
        return str(int(document)) if float(document).is_integer() else str(document)
    return document
