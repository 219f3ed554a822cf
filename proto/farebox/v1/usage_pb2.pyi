from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class UsageEvent(_message.Message):
    __slots__ = ("rid", "account_id", "subscription_id", "key_id", "policy", "admitted_at_ms", "status", "meters", "dimensions", "flags", "alike")
    class DimensionsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    RID_FIELD_NUMBER: _ClassVar[int]
    ACCOUNT_ID_FIELD_NUMBER: _ClassVar[int]
    SUBSCRIPTION_ID_FIELD_NUMBER: _ClassVar[int]
    KEY_ID_FIELD_NUMBER: _ClassVar[int]
    POLICY_FIELD_NUMBER: _ClassVar[int]
    ADMITTED_AT_MS_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    METERS_FIELD_NUMBER: _ClassVar[int]
    DIMENSIONS_FIELD_NUMBER: _ClassVar[int]
    FLAGS_FIELD_NUMBER: _ClassVar[int]
    ALIKE_FIELD_NUMBER: _ClassVar[int]
    rid: str
    account_id: str
    subscription_id: str
    key_id: str
    policy: str
    admitted_at_ms: int
    status: int
    meters: _containers.RepeatedCompositeFieldContainer[MeterQuantity]
    dimensions: _containers.ScalarMap[str, str]
    flags: _containers.RepeatedScalarFieldContainer[str]
    alike: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, rid: _Optional[str] = ..., account_id: _Optional[str] = ..., subscription_id: _Optional[str] = ..., key_id: _Optional[str] = ..., policy: _Optional[str] = ..., admitted_at_ms: _Optional[int] = ..., status: _Optional[int] = ..., meters: _Optional[_Iterable[_Union[MeterQuantity, _Mapping]]] = ..., dimensions: _Optional[_Mapping[str, str]] = ..., flags: _Optional[_Iterable[str]] = ..., alike: _Optional[_Iterable[str]] = ...) -> None: ...

class MeterQuantity(_message.Message):
    __slots__ = ("meter", "quantity")
    METER_FIELD_NUMBER: _ClassVar[int]
    QUANTITY_FIELD_NUMBER: _ClassVar[int]
    meter: str
    quantity: int
    def __init__(self, meter: _Optional[str] = ..., quantity: _Optional[int] = ...) -> None: ...

class UsageBatch(_message.Message):
    __slots__ = ("spool", "end", "events")
    SPOOL_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    spool: str
    end: int
    events: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, spool: _Optional[str] = ..., end: _Optional[int] = ..., events: _Optional[_Iterable[bytes]] = ...) -> None: ...

class Receipt(_message.Message):
    __slots__ = ("spool", "end", "accepted", "duplicates", "quarantined")
    SPOOL_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    ACCEPTED_FIELD_NUMBER: _ClassVar[int]
    DUPLICATES_FIELD_NUMBER: _ClassVar[int]
    QUARANTINED_FIELD_NUMBER: _ClassVar[int]
    spool: str
    end: int
    accepted: int
    duplicates: int
    quarantined: int
    def __init__(self, spool: _Optional[str] = ..., end: _Optional[int] = ..., accepted: _Optional[int] = ..., duplicates: _Optional[int] = ..., quarantined: _Optional[int] = ...) -> None: ...

class AccountsQuestion(_message.Message):
    __slots__ = ("accounts", "gateway")
    ACCOUNTS_FIELD_NUMBER: _ClassVar[int]
    GATEWAY_FIELD_NUMBER: _ClassVar[int]
    accounts: _containers.RepeatedScalarFieldContainer[str]
    gateway: str
    def __init__(self, accounts: _Optional[_Iterable[str]] = ..., gateway: _Optional[str] = ...) -> None: ...

class AccountStates(_message.Message):
    __slots__ = ("states",)
    STATES_FIELD_NUMBER: _ClassVar[int]
    states: _containers.RepeatedCompositeFieldContainer[AccountState]
    def __init__(self, states: _Optional[_Iterable[_Union[AccountState, _Mapping]]] = ...) -> None: ...

class AccountState(_message.Message):
    __slots__ = ("account", "counters", "cursors", "gateways")
    class CursorsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    ACCOUNT_FIELD_NUMBER: _ClassVar[int]
    COUNTERS_FIELD_NUMBER: _ClassVar[int]
    CURSORS_FIELD_NUMBER: _ClassVar[int]
    GATEWAYS_FIELD_NUMBER: _ClassVar[int]
    account: bytes
    counters: _containers.RepeatedCompositeFieldContainer[CounterValue]
    cursors: _containers.ScalarMap[str, int]
    gateways: _containers.RepeatedCompositeFieldContainer[Gateway]
    def __init__(self, account: _Optional[bytes] = ..., counters: _Optional[_Iterable[_Union[CounterValue, _Mapping]]] = ..., cursors: _Optional[_Mapping[str, int]] = ..., gateways: _Optional[_Iterable[_Union[Gateway, _Mapping]]] = ...) -> None: ...

class Gateway(_message.Message):
    __slots__ = ("name", "is_live")
    NAME_FIELD_NUMBER: _ClassVar[int]
    IS_LIVE_FIELD_NUMBER: _ClassVar[int]
    name: str
    is_live: bool
    def __init__(self, name: _Optional[str] = ..., is_live: _Optional[bool] = ...) -> None: ...

class CounterValue(_message.Message):
    __slots__ = ("subscription_id", "quota_id", "period_start_ms", "used")
    SUBSCRIPTION_ID_FIELD_NUMBER: _ClassVar[int]
    QUOTA_ID_FIELD_NUMBER: _ClassVar[int]
    PERIOD_START_MS_FIELD_NUMBER: _ClassVar[int]
    USED_FIELD_NUMBER: _ClassVar[int]
    subscription_id: str
    quota_id: str
    period_start_ms: int
    used: int
    def __init__(self, subscription_id: _Optional[str] = ..., quota_id: _Optional[str] = ..., period_start_ms: _Optional[int] = ..., used: _Optional[int] = ...) -> None: ...

class Heartbeat(_message.Message):
    __slots__ = ("gateway", "instance", "boot", "is_first", "is_leaving", "retired")
    GATEWAY_FIELD_NUMBER: _ClassVar[int]
    INSTANCE_FIELD_NUMBER: _ClassVar[int]
    BOOT_FIELD_NUMBER: _ClassVar[int]
    IS_FIRST_FIELD_NUMBER: _ClassVar[int]
    IS_LEAVING_FIELD_NUMBER: _ClassVar[int]
    RETIRED_FIELD_NUMBER: _ClassVar[int]
    gateway: str
    instance: str
    boot: str
    is_first: bool
    is_leaving: bool
    retired: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, gateway: _Optional[str] = ..., instance: _Optional[str] = ..., boot: _Optional[str] = ..., is_first: _Optional[bool] = ..., is_leaving: _Optional[bool] = ..., retired: _Optional[_Iterable[str]] = ...) -> None: ...

class HeartbeatReceipt(_message.Message):
    __slots__ = ("was_away",)
    WAS_AWAY_FIELD_NUMBER: _ClassVar[int]
    was_away: bool
    def __init__(self, was_away: _Optional[bool] = ...) -> None: ...

class PendingQuestion(_message.Message):
    __slots__ = ("id", "asker", "account", "cursors", "is_rebuild", "holds")
    class CursorsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    ID_FIELD_NUMBER: _ClassVar[int]
    ASKER_FIELD_NUMBER: _ClassVar[int]
    ACCOUNT_FIELD_NUMBER: _ClassVar[int]
    CURSORS_FIELD_NUMBER: _ClassVar[int]
    IS_REBUILD_FIELD_NUMBER: _ClassVar[int]
    HOLDS_FIELD_NUMBER: _ClassVar[int]
    id: str
    asker: str
    account: str
    cursors: _containers.ScalarMap[str, int]
    is_rebuild: bool
    holds: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, id: _Optional[str] = ..., asker: _Optional[str] = ..., account: _Optional[str] = ..., cursors: _Optional[_Mapping[str, int]] = ..., is_rebuild: _Optional[bool] = ..., holds: _Optional[_Iterable[str]] = ...) -> None: ...

class PendingAnswer(_message.Message):
    __slots__ = ("id", "gateway", "is_behind", "events", "open", "ended")
    ID_FIELD_NUMBER: _ClassVar[int]
    GATEWAY_FIELD_NUMBER: _ClassVar[int]
    IS_BEHIND_FIELD_NUMBER: _ClassVar[int]
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    OPEN_FIELD_NUMBER: _ClassVar[int]
    ENDED_FIELD_NUMBER: _ClassVar[int]
    id: str
    gateway: str
    is_behind: bool
    events: _containers.RepeatedScalarFieldContainer[bytes]
    open: _containers.RepeatedCompositeFieldContainer[OpenRequest]
    ended: _containers.RepeatedCompositeFieldContainer[EndedRequest]
    def __init__(self, id: _Optional[str] = ..., gateway: _Optional[str] = ..., is_behind: _Optional[bool] = ..., events: _Optional[_Iterable[bytes]] = ..., open: _Optional[_Iterable[_Union[OpenRequest, _Mapping]]] = ..., ended: _Optional[_Iterable[_Union[EndedRequest, _Mapping]]] = ...) -> None: ...

class OpenRequest(_message.Message):
    __slots__ = ("rid", "account_id", "subscription_id", "key_id", "policy", "hold", "claims")
    class ClaimsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: bool
        def __init__(self, key: _Optional[str] = ..., value: _Optional[bool] = ...) -> None: ...
    RID_FIELD_NUMBER: _ClassVar[int]
    ACCOUNT_ID_FIELD_NUMBER: _ClassVar[int]
    SUBSCRIPTION_ID_FIELD_NUMBER: _ClassVar[int]
    KEY_ID_FIELD_NUMBER: _ClassVar[int]
    POLICY_FIELD_NUMBER: _ClassVar[int]
    HOLD_FIELD_NUMBER: _ClassVar[int]
    CLAIMS_FIELD_NUMBER: _ClassVar[int]
    rid: str
    account_id: str
    subscription_id: str
    key_id: str
    policy: str
    hold: str
    claims: _containers.ScalarMap[str, bool]
    def __init__(self, rid: _Optional[str] = ..., account_id: _Optional[str] = ..., subscription_id: _Optional[str] = ..., key_id: _Optional[str] = ..., policy: _Optional[str] = ..., hold: _Optional[str] = ..., claims: _Optional[_Mapping[str, bool]] = ...) -> None: ...

class EndedRequest(_message.Message):
    __slots__ = ("rid", "meters")
    RID_FIELD_NUMBER: _ClassVar[int]
    METERS_FIELD_NUMBER: _ClassVar[int]
    rid: str
    meters: _containers.RepeatedCompositeFieldContainer[MeterQuantity]
    def __init__(self, rid: _Optional[str] = ..., meters: _Optional[_Iterable[_Union[MeterQuantity, _Mapping]]] = ...) -> None: ...
