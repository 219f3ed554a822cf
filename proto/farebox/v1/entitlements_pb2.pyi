from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Account(_message.Message):
    __slots__ = ("id", "customer_key", "version", "subscriptions", "keys")
    ID_FIELD_NUMBER: _ClassVar[int]
    CUSTOMER_KEY_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    SUBSCRIPTIONS_FIELD_NUMBER: _ClassVar[int]
    KEYS_FIELD_NUMBER: _ClassVar[int]
    id: str
    customer_key: str
    version: int
    subscriptions: _containers.RepeatedCompositeFieldContainer[Subscription]
    keys: _containers.RepeatedCompositeFieldContainer[Key]
    def __init__(self, id: _Optional[str] = ..., customer_key: _Optional[str] = ..., version: _Optional[int] = ..., subscriptions: _Optional[_Iterable[_Union[Subscription, _Mapping]]] = ..., keys: _Optional[_Iterable[_Union[Key, _Mapping]]] = ...) -> None: ...

class Key(_message.Message):
    __slots__ = ("id", "subscription_id", "expires_at_ms")
    ID_FIELD_NUMBER: _ClassVar[int]
    SUBSCRIPTION_ID_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_AT_MS_FIELD_NUMBER: _ClassVar[int]
    id: str
    subscription_id: str
    expires_at_ms: int
    def __init__(self, id: _Optional[str] = ..., subscription_id: _Optional[str] = ..., expires_at_ms: _Optional[int] = ...) -> None: ...

class Subscription(_message.Message):
    __slots__ = ("id", "plan_key", "access", "rate_limit", "quotas", "features", "concurrency_limit", "stages")
    ID_FIELD_NUMBER: _ClassVar[int]
    PLAN_KEY_FIELD_NUMBER: _ClassVar[int]
    ACCESS_FIELD_NUMBER: _ClassVar[int]
    RATE_LIMIT_FIELD_NUMBER: _ClassVar[int]
    QUOTAS_FIELD_NUMBER: _ClassVar[int]
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    CONCURRENCY_LIMIT_FIELD_NUMBER: _ClassVar[int]
    STAGES_FIELD_NUMBER: _ClassVar[int]
    id: str
    plan_key: str
    access: _containers.RepeatedCompositeFieldContainer[AccessStep]
    rate_limit: RateLimit
    quotas: _containers.RepeatedCompositeFieldContainer[Quota]
    features: _containers.RepeatedScalarFieldContainer[str]
    concurrency_limit: int
    stages: _containers.RepeatedCompositeFieldContainer[Stage]
    def __init__(self, id: _Optional[str] = ..., plan_key: _Optional[str] = ..., access: _Optional[_Iterable[_Union[AccessStep, _Mapping]]] = ..., rate_limit: _Optional[_Union[RateLimit, _Mapping]] = ..., quotas: _Optional[_Iterable[_Union[Quota, _Mapping]]] = ..., features: _Optional[_Iterable[str]] = ..., concurrency_limit: _Optional[int] = ..., stages: _Optional[_Iterable[_Union[Stage, _Mapping]]] = ...) -> None: ...

class Stage(_message.Message):
    __slots__ = ("from_ms", "plan_key", "rate_limit", "quotas", "features", "concurrency_limit")
    FROM_MS_FIELD_NUMBER: _ClassVar[int]
    PLAN_KEY_FIELD_NUMBER: _ClassVar[int]
    RATE_LIMIT_FIELD_NUMBER: _ClassVar[int]
    QUOTAS_FIELD_NUMBER: _ClassVar[int]
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    CONCURRENCY_LIMIT_FIELD_NUMBER: _ClassVar[int]
    from_ms: int
    plan_key: str
    rate_limit: RateLimit
    quotas: _containers.RepeatedCompositeFieldContainer[Quota]
    features: _containers.RepeatedScalarFieldContainer[str]
    concurrency_limit: int
    def __init__(self, from_ms: _Optional[int] = ..., plan_key: _Optional[str] = ..., rate_limit: _Optional[_Union[RateLimit, _Mapping]] = ..., quotas: _Optional[_Iterable[_Union[Quota, _Mapping]]] = ..., features: _Optional[_Iterable[str]] = ..., concurrency_limit: _Optional[int] = ...) -> None: ...

class AccessStep(_message.Message):
    __slots__ = ("from_ms", "refusal")
    FROM_MS_FIELD_NUMBER: _ClassVar[int]
    REFUSAL_FIELD_NUMBER: _ClassVar[int]
    from_ms: int
    refusal: str
    def __init__(self, from_ms: _Optional[int] = ..., refusal: _Optional[str] = ...) -> None: ...

class RateLimit(_message.Message):
    __slots__ = ("requests", "per_ms")
    REQUESTS_FIELD_NUMBER: _ClassVar[int]
    PER_MS_FIELD_NUMBER: _ClassVar[int]
    requests: int
    per_ms: int
    def __init__(self, requests: _Optional[int] = ..., per_ms: _Optional[int] = ...) -> None: ...

class Quota(_message.Message):
    __slots__ = ("id", "meter", "limit", "hard", "resets_ms", "feature_key")
    ID_FIELD_NUMBER: _ClassVar[int]
    METER_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    HARD_FIELD_NUMBER: _ClassVar[int]
    RESETS_MS_FIELD_NUMBER: _ClassVar[int]
    FEATURE_KEY_FIELD_NUMBER: _ClassVar[int]
    id: str
    meter: str
    limit: int
    hard: bool
    resets_ms: _containers.RepeatedScalarFieldContainer[int]
    feature_key: str
    def __init__(self, id: _Optional[str] = ..., meter: _Optional[str] = ..., limit: _Optional[int] = ..., hard: _Optional[bool] = ..., resets_ms: _Optional[_Iterable[int]] = ..., feature_key: _Optional[str] = ...) -> None: ...

class KeyRecord(_message.Message):
    __slots__ = ("account_id", "key_id")
    ACCOUNT_ID_FIELD_NUMBER: _ClassVar[int]
    KEY_ID_FIELD_NUMBER: _ClassVar[int]
    account_id: str
    key_id: str
    def __init__(self, account_id: _Optional[str] = ..., key_id: _Optional[str] = ...) -> None: ...

class Policies(_message.Message):
    __slots__ = ("version", "policies")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    POLICIES_FIELD_NUMBER: _ClassVar[int]
    version: int
    policies: _containers.RepeatedCompositeFieldContainer[Policy]
    def __init__(self, version: _Optional[int] = ..., policies: _Optional[_Iterable[_Union[Policy, _Mapping]]] = ...) -> None: ...

class Policy(_message.Message):
    __slots__ = ("key", "meters", "authenticate_only", "dimensions", "meter_on_status", "required_entitlements", "reserve", "allow_on_store_failure", "status_codes", "cut_off")
    class DimensionsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    class ReserveEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    class StatusCodesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    KEY_FIELD_NUMBER: _ClassVar[int]
    METERS_FIELD_NUMBER: _ClassVar[int]
    AUTHENTICATE_ONLY_FIELD_NUMBER: _ClassVar[int]
    DIMENSIONS_FIELD_NUMBER: _ClassVar[int]
    METER_ON_STATUS_FIELD_NUMBER: _ClassVar[int]
    REQUIRED_ENTITLEMENTS_FIELD_NUMBER: _ClassVar[int]
    RESERVE_FIELD_NUMBER: _ClassVar[int]
    ALLOW_ON_STORE_FAILURE_FIELD_NUMBER: _ClassVar[int]
    STATUS_CODES_FIELD_NUMBER: _ClassVar[int]
    CUT_OFF_FIELD_NUMBER: _ClassVar[int]
    key: str
    meters: _containers.RepeatedCompositeFieldContainer[MeterRule]
    authenticate_only: bool
    dimensions: _containers.ScalarMap[str, str]
    meter_on_status: _containers.RepeatedCompositeFieldContainer[StatusRange]
    required_entitlements: _containers.RepeatedScalarFieldContainer[str]
    reserve: _containers.ScalarMap[str, str]
    allow_on_store_failure: bool
    status_codes: _containers.ScalarMap[str, int]
    cut_off: bool
    def __init__(self, key: _Optional[str] = ..., meters: _Optional[_Iterable[_Union[MeterRule, _Mapping]]] = ..., authenticate_only: _Optional[bool] = ..., dimensions: _Optional[_Mapping[str, str]] = ..., meter_on_status: _Optional[_Iterable[_Union[StatusRange, _Mapping]]] = ..., required_entitlements: _Optional[_Iterable[str]] = ..., reserve: _Optional[_Mapping[str, str]] = ..., allow_on_store_failure: _Optional[bool] = ..., status_codes: _Optional[_Mapping[str, int]] = ..., cut_off: _Optional[bool] = ...) -> None: ...

class MeterRule(_message.Message):
    __slots__ = ("meter", "fixed", "expression")
    METER_FIELD_NUMBER: _ClassVar[int]
    FIXED_FIELD_NUMBER: _ClassVar[int]
    EXPRESSION_FIELD_NUMBER: _ClassVar[int]
    meter: str
    fixed: int
    expression: str
    def __init__(self, meter: _Optional[str] = ..., fixed: _Optional[int] = ..., expression: _Optional[str] = ...) -> None: ...

class StatusRange(_message.Message):
    __slots__ = ("first", "last")
    FIRST_FIELD_NUMBER: _ClassVar[int]
    LAST_FIELD_NUMBER: _ClassVar[int]
    first: int
    last: int
    def __init__(self, first: _Optional[int] = ..., last: _Optional[int] = ...) -> None: ...
