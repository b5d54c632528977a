# Made by tools/build_messages.py; do not edit. The etcd.proto that it was made from has the SHA-256
# 208fdae4f27cbe439a1687bd9ef93ca5edcba0cebba5bcbc963572ba873c7c90

from collections.abc import Iterable
from typing import ClassVar, Final, Literal, final

from google.protobuf.descriptor import FileDescriptor
from google.protobuf.internal.containers import RepeatedCompositeFieldContainer, RepeatedScalarFieldContainer
from google.protobuf.internal.enum_type_wrapper import EnumTypeWrapper
from google.protobuf.message import Message

DESCRIPTOR: FileDescriptor

AlarmType: EnumTypeWrapper
NONE: Final = 0
NOSPACE: Final = 1
CORRUPT: Final = 2

@final
class ResponseHeader(Message):
    cluster_id: int
    member_id: int
    revision: int
    raft_term: int
    def __init__(
        self,
        *,
        cluster_id: int | None = None,
        member_id: int | None = None,
        revision: int | None = None,
        raft_term: int | None = None,
    ) -> None: ...

@final
class KeyValue(Message):
    key: bytes
    create_revision: int
    mod_revision: int
    version: int
    value: bytes
    lease: int
    def __init__(
        self,
        *,
        key: bytes | None = None,
        create_revision: int | None = None,
        mod_revision: int | None = None,
        version: int | None = None,
        value: bytes | None = None,
        lease: int | None = None,
    ) -> None: ...

@final
class RangeRequest(Message):
    SortOrder: ClassVar[EnumTypeWrapper]
    NONE: Final = 0
    ASCEND: Final = 1
    DESCEND: Final = 2
    SortTarget: ClassVar[EnumTypeWrapper]
    KEY: Final = 0
    VERSION: Final = 1
    CREATE: Final = 2
    MOD: Final = 3
    VALUE: Final = 4
    key: bytes
    range_end: bytes
    limit: int
    revision: int
    sort_order: int
    sort_target: int
    serializable: bool
    keys_only: bool
    count_only: bool
    min_mod_revision: int
    max_mod_revision: int
    min_create_revision: int
    max_create_revision: int
    def __init__(
        self,
        *,
        key: bytes | None = None,
        range_end: bytes | None = None,
        limit: int | None = None,
        revision: int | None = None,
        sort_order: int | None = None,
        sort_target: int | None = None,
        serializable: bool | None = None,
        keys_only: bool | None = None,
        count_only: bool | None = None,
        min_mod_revision: int | None = None,
        max_mod_revision: int | None = None,
        min_create_revision: int | None = None,
        max_create_revision: int | None = None,
    ) -> None: ...

@final
class RangeResponse(Message):
    @property
    def header(self) -> ResponseHeader: ...
    @property
    def kvs(self) -> RepeatedCompositeFieldContainer[KeyValue]: ...
    more: bool
    count: int
    def __init__(
        self,
        *,
        header: ResponseHeader | None = None,
        kvs: Iterable[KeyValue] | None = None,
        more: bool | None = None,
        count: int | None = None,
    ) -> None: ...
    def HasField(
        self,
        field_name: Literal["header"],
    ) -> bool: ...

@final
class PutRequest(Message):
    key: bytes
    value: bytes
    lease: int
    prev_kv: bool
    ignore_value: bool
    ignore_lease: bool
    def __init__(
        self,
        *,
        key: bytes | None = None,
        value: bytes | None = None,
        lease: int | None = None,
        prev_kv: bool | None = None,
        ignore_value: bool | None = None,
        ignore_lease: bool | None = None,
    ) -> None: ...

@final
class PutResponse(Message):
    @property
    def header(self) -> ResponseHeader: ...
    @property
    def prev_kv(self) -> KeyValue: ...
    def __init__(
        self,
        *,
        header: ResponseHeader | None = None,
        prev_kv: KeyValue | None = None,
    ) -> None: ...
    def HasField(
        self,
        field_name: Literal["header", "prev_kv"],
    ) -> bool: ...

@final
class DeleteRangeRequest(Message):
    key: bytes
    range_end: bytes
    prev_kv: bool
    def __init__(
        self,
        *,
        key: bytes | None = None,
        range_end: bytes | None = None,
        prev_kv: bool | None = None,
    ) -> None: ...

@final
class DeleteRangeResponse(Message):
    @property
    def header(self) -> ResponseHeader: ...
    deleted: int
    @property
    def prev_kvs(self) -> RepeatedCompositeFieldContainer[KeyValue]: ...
    def __init__(
        self,
        *,
        header: ResponseHeader | None = None,
        deleted: int | None = None,
        prev_kvs: Iterable[KeyValue] | None = None,
    ) -> None: ...
    def HasField(
        self,
        field_name: Literal["header"],
    ) -> bool: ...

@final
class Compare(Message):
    CompareResult: ClassVar[EnumTypeWrapper]
    EQUAL: Final = 0
    GREATER: Final = 1
    LESS: Final = 2
    NOT_EQUAL: Final = 3
    CompareTarget: ClassVar[EnumTypeWrapper]
    VERSION: Final = 0
    CREATE: Final = 1
    MOD: Final = 2
    VALUE: Final = 3
    LEASE: Final = 4
    result: int
    target: int
    key: bytes
    version: int
    create_revision: int
    mod_revision: int
    value: bytes
    lease: int
    range_end: bytes
    def __init__(
        self,
        *,
        result: int | None = None,
        target: int | None = None,
        key: bytes | None = None,
        version: int | None = None,
        create_revision: int | None = None,
        mod_revision: int | None = None,
        value: bytes | None = None,
        lease: int | None = None,
        range_end: bytes | None = None,
    ) -> None: ...
    def HasField(
        self,
        field_name: Literal["version", "create_revision", "mod_revision", "value", "lease"],
    ) -> bool: ...
    def WhichOneof(
        self,
        oneof_group: Literal["target_union"],
    ) -> Literal["version", "create_revision", "mod_revision", "value", "lease"] | None: ...

@final
class RequestOp(Message):
    @property
    def request_range(self) -> RangeRequest: ...
    @property
    def request_put(self) -> PutRequest: ...
    @property
    def request_delete_range(self) -> DeleteRangeRequest: ...
    @property
    def request_txn(self) -> TxnRequest: ...
    def __init__(
        self,
        *,
        request_range: RangeRequest | None = None,
        request_put: PutRequest | None = None,
        request_delete_range: DeleteRangeRequest | None = None,
        request_txn: TxnRequest | None = None,
    ) -> None: ...
    def HasField(
        self,
        field_name: Literal["request_range", "request_put", "request_delete_range", "request_txn"],
    ) -> bool: ...
    def WhichOneof(
        self,
        oneof_group: Literal["request"],
    ) -> Literal["request_range", "request_put", "request_delete_range", "request_txn"] | None: ...

@final
class ResponseOp(Message):
    @property
    def response_range(self) -> RangeResponse: ...
    @property
    def response_put(self) -> PutResponse: ...
    @property
    def response_delete_range(self) -> DeleteRangeResponse: ...
    @property
    def response_txn(self) -> TxnResponse: ...
    def __init__(
        self,
        *,
        response_range: RangeResponse | None = None,
        response_put: PutResponse | None = None,
        response_delete_range: DeleteRangeResponse | None = None,
        response_txn: TxnResponse | None = None,
    ) -> None: ...
    def HasField(
        self,
        field_name: Literal["response_range", "response_put", "response_delete_range", "response_txn"],
    ) -> bool: ...
    def WhichOneof(
        self,
        oneof_group: Literal["response"],
    ) -> Literal["response_range", "response_put", "response_delete_range", "response_txn"] | None: ...

@final
class TxnRequest(Message):
    @property
    def compare(self) -> RepeatedCompositeFieldContainer[Compare]: ...
    @property
    def success(self) -> RepeatedCompositeFieldContainer[RequestOp]: ...
    @property
    def failure(self) -> RepeatedCompositeFieldContainer[RequestOp]: ...
    def __init__(
        self,
        *,
        compare: Iterable[Compare] | None = None,
        success: Iterable[RequestOp] | None = None,
        failure: Iterable[RequestOp] | None = None,
    ) -> None: ...

@final
class TxnResponse(Message):
    @property
    def header(self) -> ResponseHeader: ...
    succeeded: bool
    @property
    def responses(self) -> RepeatedCompositeFieldContainer[ResponseOp]: ...
    def __init__(
        self,
        *,
        header: ResponseHeader | None = None,
        succeeded: bool | None = None,
        responses: Iterable[ResponseOp] | None = None,
    ) -> None: ...
    def HasField(
        self,
        field_name: Literal["header"],
    ) -> bool: ...

@final
class CompactionRequest(Message):
    revision: int
    physical: bool
    def __init__(
        self,
        *,
        revision: int | None = None,
        physical: bool | None = None,
    ) -> None: ...

@final
class CompactionResponse(Message):
    @property
    def header(self) -> ResponseHeader: ...
    def __init__(
        self,
        *,
        header: ResponseHeader | None = None,
    ) -> None: ...
    def HasField(
        self,
        field_name: Literal["header"],
    ) -> bool: ...

@final
class Event(Message):
    EventType: ClassVar[EnumTypeWrapper]
    PUT: Final = 0
    DELETE: Final = 1
    type: int
    @property
    def kv(self) -> KeyValue: ...
    @property
    def prev_kv(self) -> KeyValue: ...
    def __init__(
        self,
        *,
        type: int | None = None,
        kv: KeyValue | None = None,
        prev_kv: KeyValue | None = None,
    ) -> None: ...
    def HasField(
        self,
        field_name: Literal["kv", "prev_kv"],
    ) -> bool: ...

@final
class WatchRequest(Message):
    @property
    def create_request(self) -> WatchCreateRequest: ...
    @property
    def cancel_request(self) -> WatchCancelRequest: ...
    @property
    def progress_request(self) -> WatchProgressRequest: ...
    def __init__(
        self,
        *,
        create_request: WatchCreateRequest | None = None,
        cancel_request: WatchCancelRequest | None = None,
        progress_request: WatchProgressRequest | None = None,
    ) -> None: ...
    def HasField(
        self,
        field_name: Literal["create_request", "cancel_request", "progress_request"],
    ) -> bool: ...
    def WhichOneof(
        self,
        oneof_group: Literal["request_union"],
    ) -> Literal["create_request", "cancel_request", "progress_request"] | None: ...

@final
class WatchCreateRequest(Message):
    FilterType: ClassVar[EnumTypeWrapper]
    NOPUT: Final = 0
    NODELETE: Final = 1
    key: bytes
    range_end: bytes
    start_revision: int
    progress_notify: bool
    @property
    def filters(self) -> RepeatedScalarFieldContainer[int]: ...
    prev_kv: bool
    watch_id: int
    fragment: bool
    def __init__(
        self,
        *,
        key: bytes | None = None,
        range_end: bytes | None = None,
        start_revision: int | None = None,
        progress_notify: bool | None = None,
        filters: Iterable[int] | None = None,
        prev_kv: bool | None = None,
        watch_id: int | None = None,
        fragment: bool | None = None,
    ) -> None: ...

@final
class WatchCancelRequest(Message):
    watch_id: int
    def __init__(
        self,
        *,
        watch_id: int | None = None,
    ) -> None: ...

@final
class WatchProgressRequest(Message):
    def __init__(self) -> None: ...

@final
class WatchResponse(Message):
    @property
    def header(self) -> ResponseHeader: ...
    watch_id: int
    created: bool
    canceled: bool
    compact_revision: int
    cancel_reason: str
    fragment: bool
    @property
    def events(self) -> RepeatedCompositeFieldContainer[Event]: ...
    def __init__(
        self,
        *,
        header: ResponseHeader | None = None,
        watch_id: int | None = None,
        created: bool | None = None,
        canceled: bool | None = None,
        compact_revision: int | None = None,
        cancel_reason: str | None = None,
        fragment: bool | None = None,
        events: Iterable[Event] | None = None,
    ) -> None: ...
    def HasField(
        self,
        field_name: Literal["header"],
    ) -> bool: ...

@final
class LeaseGrantRequest(Message):
    TTL: int
    ID: int
    def __init__(
        self,
        *,
        TTL: int | None = None,
        ID: int | None = None,
    ) -> None: ...

@final
class LeaseGrantResponse(Message):
    @property
    def header(self) -> ResponseHeader: ...
    ID: int
    TTL: int
    error: str
    def __init__(
        self,
        *,
        header: ResponseHeader | None = None,
        ID: int | None = None,
        TTL: int | None = None,
        error: str | None = None,
    ) -> None: ...
    def HasField(
        self,
        field_name: Literal["header"],
    ) -> bool: ...

@final
class LeaseRevokeRequest(Message):
    ID: int
    def __init__(
        self,
        *,
        ID: int | None = None,
    ) -> None: ...

@final
class LeaseRevokeResponse(Message):
    @property
    def header(self) -> ResponseHeader: ...
    def __init__(
        self,
        *,
        header: ResponseHeader | None = None,
    ) -> None: ...
    def HasField(
        self,
        field_name: Literal["header"],
    ) -> bool: ...

@final
class LeaseKeepAliveRequest(Message):
    ID: int
    def __init__(
        self,
        *,
        ID: int | None = None,
    ) -> None: ...

@final
class LeaseKeepAliveResponse(Message):
    @property
    def header(self) -> ResponseHeader: ...
    ID: int
    TTL: int
    def __init__(
        self,
        *,
        header: ResponseHeader | None = None,
        ID: int | None = None,
        TTL: int | None = None,
    ) -> None: ...
    def HasField(
        self,
        field_name: Literal["header"],
    ) -> bool: ...

@final
class LeaseTimeToLiveRequest(Message):
    ID: int
    keys: bool
    def __init__(
        self,
        *,
        ID: int | None = None,
        keys: bool | None = None,
    ) -> None: ...

@final
class LeaseTimeToLiveResponse(Message):
    @property
    def header(self) -> ResponseHeader: ...
    ID: int
    TTL: int
    grantedTTL: int
    @property
    def keys(self) -> RepeatedScalarFieldContainer[bytes]: ...
    def __init__(
        self,
        *,
        header: ResponseHeader | None = None,
        ID: int | None = None,
        TTL: int | None = None,
        grantedTTL: int | None = None,
        keys: Iterable[bytes] | None = None,
    ) -> None: ...
    def HasField(
        self,
        field_name: Literal["header"],
    ) -> bool: ...

@final
class LeaseLeasesRequest(Message):
    def __init__(self) -> None: ...

@final
class LeaseStatus(Message):
    ID: int
    def __init__(
        self,
        *,
        ID: int | None = None,
    ) -> None: ...

@final
class LeaseLeasesResponse(Message):
    @property
    def header(self) -> ResponseHeader: ...
    @property
    def leases(self) -> RepeatedCompositeFieldContainer[LeaseStatus]: ...
    def __init__(
        self,
        *,
        header: ResponseHeader | None = None,
        leases: Iterable[LeaseStatus] | None = None,
    ) -> None: ...
    def HasField(
        self,
        field_name: Literal["header"],
    ) -> bool: ...

@final
class Member(Message):
    ID: int
    name: str
    @property
    def peerURLs(self) -> RepeatedScalarFieldContainer[str]: ...
    @property
    def clientURLs(self) -> RepeatedScalarFieldContainer[str]: ...
    isLearner: bool
    def __init__(
        self,
        *,
        ID: int | None = None,
        name: str | None = None,
        peerURLs: Iterable[str] | None = None,
        clientURLs: Iterable[str] | None = None,
        isLearner: bool | None = None,
    ) -> None: ...

@final
class MemberAddRequest(Message):
    @property
    def peerURLs(self) -> RepeatedScalarFieldContainer[str]: ...
    isLearner: bool
    def __init__(
        self,
        *,
        peerURLs: Iterable[str] | None = None,
        isLearner: bool | None = None,
    ) -> None: ...

@final
class MemberAddResponse(Message):
    @property
    def header(self) -> ResponseHeader: ...
    @property
    def member(self) -> Member: ...
    @property
    def members(self) -> RepeatedCompositeFieldContainer[Member]: ...
    def __init__(
        self,
        *,
        header: ResponseHeader | None = None,
        member: Member | None = None,
        members: Iterable[Member] | None = None,
    ) -> None: ...
    def HasField(
        self,
        field_name: Literal["header", "member"],
    ) -> bool: ...

@final
class MemberRemoveRequest(Message):
    ID: int
    def __init__(
        self,
        *,
        ID: int | None = None,
    ) -> None: ...

@final
class MemberRemoveResponse(Message):
    @property
    def header(self) -> ResponseHeader: ...
    @property
    def members(self) -> RepeatedCompositeFieldContainer[Member]: ...
    def __init__(
        self,
        *,
        header: ResponseHeader | None = None,
        members: Iterable[Member] | None = None,
    ) -> None: ...
    def HasField(
        self,
        field_name: Literal["header"],
    ) -> bool: ...

@final
class MemberUpdateRequest(Message):
    ID: int
    @property
    def peerURLs(self) -> RepeatedScalarFieldContainer[str]: ...
    def __init__(
        self,
        *,
        ID: int | None = None,
        peerURLs: Iterable[str] | None = None,
    ) -> None: ...

@final
class MemberUpdateResponse(Message):
    @property
    def header(self) -> ResponseHeader: ...
    @property
    def members(self) -> RepeatedCompositeFieldContainer[Member]: ...
    def __init__(
        self,
        *,
        header: ResponseHeader | None = None,
        members: Iterable[Member] | None = None,
    ) -> None: ...
    def HasField(
        self,
        field_name: Literal["header"],
    ) -> bool: ...

@final
class MemberListRequest(Message):
    linearizable: bool
    def __init__(
        self,
        *,
        linearizable: bool | None = None,
    ) -> None: ...

@final
class MemberListResponse(Message):
    @property
    def header(self) -> ResponseHeader: ...
    @property
    def members(self) -> RepeatedCompositeFieldContainer[Member]: ...
    def __init__(
        self,
        *,
        header: ResponseHeader | None = None,
        members: Iterable[Member] | None = None,
    ) -> None: ...
    def HasField(
        self,
        field_name: Literal["header"],
    ) -> bool: ...

@final
class MemberPromoteRequest(Message):
    ID: int
    def __init__(
        self,
        *,
        ID: int | None = None,
    ) -> None: ...

@final
class MemberPromoteResponse(Message):
    @property
    def header(self) -> ResponseHeader: ...
    @property
    def members(self) -> RepeatedCompositeFieldContainer[Member]: ...
    def __init__(
        self,
        *,
        header: ResponseHeader | None = None,
        members: Iterable[Member] | None = None,
    ) -> None: ...
    def HasField(
        self,
        field_name: Literal["header"],
    ) -> bool: ...

@final
class AlarmRequest(Message):
    AlarmAction: ClassVar[EnumTypeWrapper]
    GET: Final = 0
    ACTIVATE: Final = 1
    DEACTIVATE: Final = 2
    action: int
    memberID: int
    alarm: int
    def __init__(
        self,
        *,
        action: int | None = None,
        memberID: int | None = None,
        alarm: int | None = None,
    ) -> None: ...

@final
class AlarmMember(Message):
    memberID: int
    alarm: int
    def __init__(
        self,
        *,
        memberID: int | None = None,
        alarm: int | None = None,
    ) -> None: ...

@final
class AlarmResponse(Message):
    @property
    def header(self) -> ResponseHeader: ...
    @property
    def alarms(self) -> RepeatedCompositeFieldContainer[AlarmMember]: ...
    def __init__(
        self,
        *,
        header: ResponseHeader | None = None,
        alarms: Iterable[AlarmMember] | None = None,
    ) -> None: ...
    def HasField(
        self,
        field_name: Literal["header"],
    ) -> bool: ...

@final
class StatusRequest(Message):
    def __init__(self) -> None: ...

@final
class StatusResponse(Message):
    @property
    def header(self) -> ResponseHeader: ...
    version: str
    dbSize: int
    leader: int
    raftIndex: int
    raftTerm: int
    raftAppliedIndex: int
    @property
    def errors(self) -> RepeatedScalarFieldContainer[str]: ...
    dbSizeInUse: int
    isLearner: bool
    def __init__(
        self,
        *,
        header: ResponseHeader | None = None,
        version: str | None = None,
        dbSize: int | None = None,
        leader: int | None = None,
        raftIndex: int | None = None,
        raftTerm: int | None = None,
        raftAppliedIndex: int | None = None,
        errors: Iterable[str] | None = None,
        dbSizeInUse: int | None = None,
        isLearner: bool | None = None,
    ) -> None: ...
    def HasField(
        self,
        field_name: Literal["header"],
    ) -> bool: ...

@final
class DefragmentRequest(Message):
    def __init__(self) -> None: ...

@final
class DefragmentResponse(Message):
    @property
    def header(self) -> ResponseHeader: ...
    def __init__(
        self,
        *,
        header: ResponseHeader | None = None,
    ) -> None: ...
    def HasField(
        self,
        field_name: Literal["header"],
    ) -> bool: ...

@final
class HashRequest(Message):
    def __init__(self) -> None: ...

@final
class HashResponse(Message):
    @property
    def header(self) -> ResponseHeader: ...
    hash: int
    def __init__(
        self,
        *,
        header: ResponseHeader | None = None,
        hash: int | None = None,
    ) -> None: ...
    def HasField(
        self,
        field_name: Literal["header"],
    ) -> bool: ...

@final
class HashKVRequest(Message):
    revision: int
    def __init__(
        self,
        *,
        revision: int | None = None,
    ) -> None: ...

@final
class HashKVResponse(Message):
    @property
    def header(self) -> ResponseHeader: ...
    hash: int
    compact_revision: int
    def __init__(
        self,
        *,
        header: ResponseHeader | None = None,
        hash: int | None = None,
        compact_revision: int | None = None,
    ) -> None: ...
    def HasField(
        self,
        field_name: Literal["header"],
    ) -> bool: ...

@final
class SnapshotRequest(Message):
    def __init__(self) -> None: ...

@final
class SnapshotResponse(Message):
    @property
    def header(self) -> ResponseHeader: ...
    remaining_bytes: int
    blob: bytes
    def __init__(
        self,
        *,
        header: ResponseHeader | None = None,
        remaining_bytes: int | None = None,
        blob: bytes | None = None,
    ) -> None: ...
    def HasField(
        self,
        field_name: Literal["header"],
    ) -> bool: ...

@final
class MoveLeaderRequest(Message):
    targetID: int
    def __init__(
        self,
        *,
        targetID: int | None = None,
    ) -> None: ...

@final
class MoveLeaderResponse(Message):
    @property
    def header(self) -> ResponseHeader: ...
    def __init__(
        self,
        *,
        header: ResponseHeader | None = None,
    ) -> None: ...
    def HasField(
        self,
        field_name: Literal["header"],
    ) -> bool: ...

@final
class DowngradeRequest(Message):
    DowngradeAction: ClassVar[EnumTypeWrapper]
    VALIDATE: Final = 0
    ENABLE: Final = 1
    CANCEL: Final = 2
    action: int
    version: str
    def __init__(
        self,
        *,
        action: int | None = None,
        version: str | None = None,
    ) -> None: ...

@final
class DowngradeResponse(Message):
    @property
    def header(self) -> ResponseHeader: ...
    version: str
    def __init__(
        self,
        *,
        header: ResponseHeader | None = None,
        version: str | None = None,
    ) -> None: ...
    def HasField(
        self,
        field_name: Literal["header"],
    ) -> bool: ...

@final
class AuthenticateRequest(Message):
    name: str
    password: str
    def __init__(
        self,
        *,
        name: str | None = None,
        password: str | None = None,
    ) -> None: ...

@final
class AuthenticateResponse(Message):
    @property
    def header(self) -> ResponseHeader: ...
    token: str
    def __init__(
        self,
        *,
        header: ResponseHeader | None = None,
        token: str | None = None,
    ) -> None: ...
    def HasField(
        self,
        field_name: Literal["header"],
    ) -> bool: ...

@final
class AuthEnableRequest(Message):
    def __init__(self) -> None: ...

@final
class AuthEnableResponse(Message):
    @property
    def header(self) -> ResponseHeader: ...
    def __init__(
        self,
        *,
        header: ResponseHeader | None = None,
    ) -> None: ...
    def HasField(
        self,
        field_name: Literal["header"],
    ) -> bool: ...

@final
class AuthDisableRequest(Message):
    def __init__(self) -> None: ...

@final
class AuthDisableResponse(Message):
    @property
    def header(self) -> ResponseHeader: ...
    def __init__(
        self,
        *,
        header: ResponseHeader | None = None,
    ) -> None: ...
    def HasField(
        self,
        field_name: Literal["header"],
    ) -> bool: ...

@final
class AuthStatusRequest(Message):
    def __init__(self) -> None: ...

@final
class AuthStatusResponse(Message):
    @property
    def header(self) -> ResponseHeader: ...
    enabled: bool
    authRevision: int
    def __init__(
        self,
        *,
        header: ResponseHeader | None = None,
        enabled: bool | None = None,
        authRevision: int | None = None,
    ) -> None: ...
    def HasField(
        self,
        field_name: Literal["header"],
    ) -> bool: ...

@final
class UserAddOptions(Message):
    no_password: bool
    def __init__(
        self,
        *,
        no_password: bool | None = None,
    ) -> None: ...

@final
class AuthUserAddRequest(Message):
    name: str
    password: str
    @property
    def options(self) -> UserAddOptions: ...
    hashedPassword: str
    def __init__(
        self,
        *,
        name: str | None = None,
        password: str | None = None,
        options: UserAddOptions | None = None,
        hashedPassword: str | None = None,
    ) -> None: ...
    def HasField(
        self,
        field_name: Literal["options"],
    ) -> bool: ...

@final
class AuthUserAddResponse(Message):
    @property
    def header(self) -> ResponseHeader: ...
    def __init__(
        self,
        *,
        header: ResponseHeader | None = None,
    ) -> None: ...
    def HasField(
        self,
        field_name: Literal["header"],
    ) -> bool: ...

@final
class AuthUserGetRequest(Message):
    name: str
    def __init__(
        self,
        *,
        name: str | None = None,
    ) -> None: ...

@final
class AuthUserGetResponse(Message):
    @property
    def header(self) -> ResponseHeader: ...
    @property
    def roles(self) -> RepeatedScalarFieldContainer[str]: ...
    def __init__(
        self,
        *,
        header: ResponseHeader | None = None,
        roles: Iterable[str] | None = None,
    ) -> None: ...
    def HasField(
        self,
        field_name: Literal["header"],
    ) -> bool: ...

@final
class AuthUserListRequest(Message):
    def __init__(self) -> None: ...

@final
class AuthUserListResponse(Message):
    @property
    def header(self) -> ResponseHeader: ...
    @property
    def users(self) -> RepeatedScalarFieldContainer[str]: ...
    def __init__(
        self,
        *,
        header: ResponseHeader | None = None,
        users: Iterable[str] | None = None,
    ) -> None: ...
    def HasField(
        self,
        field_name: Literal["header"],
    ) -> bool: ...

@final
class AuthUserDeleteRequest(Message):
    name: str
    def __init__(
        self,
        *,
        name: str | None = None,
    ) -> None: ...

@final
class AuthUserDeleteResponse(Message):
    @property
    def header(self) -> ResponseHeader: ...
    def __init__(
        self,
        *,
        header: ResponseHeader | None = None,
    ) -> None: ...
    def HasField(
        self,
        field_name: Literal["header"],
    ) -> bool: ...

@final
class AuthUserChangePasswordRequest(Message):
    name: str
    password: str
    hashedPassword: str
    def __init__(
        self,
        *,
        name: str | None = None,
        password: str | None = None,
        hashedPassword: str | None = None,
    ) -> None: ...

@final
class AuthUserChangePasswordResponse(Message):
    @property
    def header(self) -> ResponseHeader: ...
    def __init__(
        self,
        *,
        header: ResponseHeader | None = None,
    ) -> None: ...
    def HasField(
        self,
        field_name: Literal["header"],
    ) -> bool: ...

@final
class AuthUserGrantRoleRequest(Message):
    user: str
    role: str
    def __init__(
        self,
        *,
        user: str | None = None,
        role: str | None = None,
    ) -> None: ...

@final
class AuthUserGrantRoleResponse(Message):
    @property
    def header(self) -> ResponseHeader: ...
    def __init__(
        self,
        *,
        header: ResponseHeader | None = None,
    ) -> None: ...
    def HasField(
        self,
        field_name: Literal["header"],
    ) -> bool: ...

@final
class AuthUserRevokeRoleRequest(Message):
    name: str
    role: str
    def __init__(
        self,
        *,
        name: str | None = None,
        role: str | None = None,
    ) -> None: ...

@final
class AuthUserRevokeRoleResponse(Message):
    @property
    def header(self) -> ResponseHeader: ...
    def __init__(
        self,
        *,
        header: ResponseHeader | None = None,
    ) -> None: ...
    def HasField(
        self,
        field_name: Literal["header"],
    ) -> bool: ...

@final
class Permission(Message):
    Type: ClassVar[EnumTypeWrapper]
    READ: Final = 0
    WRITE: Final = 1
    READWRITE: Final = 2
    permType: int
    key: bytes
    range_end: bytes
    def __init__(
        self,
        *,
        permType: int | None = None,
        key: bytes | None = None,
        range_end: bytes | None = None,
    ) -> None: ...

@final
class AuthRoleAddRequest(Message):
    name: str
    def __init__(
        self,
        *,
        name: str | None = None,
    ) -> None: ...

@final
class AuthRoleAddResponse(Message):
    @property
    def header(self) -> ResponseHeader: ...
    def __init__(
        self,
        *,
        header: ResponseHeader | None = None,
    ) -> None: ...
    def HasField(
        self,
        field_name: Literal["header"],
    ) -> bool: ...

@final
class AuthRoleGetRequest(Message):
    role: str
    def __init__(
        self,
        *,
        role: str | None = None,
    ) -> None: ...

@final
class AuthRoleGetResponse(Message):
    @property
    def header(self) -> ResponseHeader: ...
    @property
    def perm(self) -> RepeatedCompositeFieldContainer[Permission]: ...
    def __init__(
        self,
        *,
        header: ResponseHeader | None = None,
        perm: Iterable[Permission] | None = None,
    ) -> None: ...
    def HasField(
        self,
        field_name: Literal["header"],
    ) -> bool: ...

@final
class AuthRoleListRequest(Message):
    def __init__(self) -> None: ...

@final
class AuthRoleListResponse(Message):
    @property
    def header(self) -> ResponseHeader: ...
    @property
    def roles(self) -> RepeatedScalarFieldContainer[str]: ...
    def __init__(
        self,
        *,
        header: ResponseHeader | None = None,
        roles: Iterable[str] | None = None,
    ) -> None: ...
    def HasField(
        self,
        field_name: Literal["header"],
    ) -> bool: ...

@final
class AuthRoleDeleteRequest(Message):
    role: str
    def __init__(
        self,
        *,
        role: str | None = None,
    ) -> None: ...

@final
class AuthRoleDeleteResponse(Message):
    @property
    def header(self) -> ResponseHeader: ...
    def __init__(
        self,
        *,
        header: ResponseHeader | None = None,
    ) -> None: ...
    def HasField(
        self,
        field_name: Literal["header"],
    ) -> bool: ...

@final
class AuthRoleGrantPermissionRequest(Message):
    name: str
    @property
    def perm(self) -> Permission: ...
    def __init__(
        self,
        *,
        name: str | None = None,
        perm: Permission | None = None,
    ) -> None: ...
    def HasField(
        self,
        field_name: Literal["perm"],
    ) -> bool: ...

@final
class AuthRoleGrantPermissionResponse(Message):
    @property
    def header(self) -> ResponseHeader: ...
    def __init__(
        self,
        *,
        header: ResponseHeader | None = None,
    ) -> None: ...
    def HasField(
        self,
        field_name: Literal["header"],
    ) -> bool: ...

@final
class AuthRoleRevokePermissionRequest(Message):
    role: str
    key: bytes
    range_end: bytes
    def __init__(
        self,
        *,
        role: str | None = None,
        key: bytes | None = None,
        range_end: bytes | None = None,
    ) -> None: ...

@final
class AuthRoleRevokePermissionResponse(Message):
    @property
    def header(self) -> ResponseHeader: ...
    def __init__(
        self,
        *,
        header: ResponseHeader | None = None,
    ) -> None: ...
    def HasField(
        self,
        field_name: Literal["header"],
    ) -> bool: ...
