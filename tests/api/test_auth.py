"""Tokens: only calls with a valid one are admitted, and the others are rejected before their messages are read."""

from collections.abc import Iterator

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from api.grpc import auth
from api.grpc.auth import TokenCheck
from api.grpc.server import SERVICE_NAME
from generated.v1 import transcription_pb2
from tests.conftest import Serve, settings_for_tests
from tests.support.certificates import OTHER_TOKEN, TOKEN, bearer, hash_of
from tests.support.fault_services import NumberingService
from tests.support.running import connected, request, status_of
from tests.support.waiting import HANG_LIMIT_S

Metadata = list[tuple[str, str]]


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        ([], grpc.StatusCode.UNAUTHENTICATED),
        (bearer("wrong"), grpc.StatusCode.UNAUTHENTICATED),
        (bearer(""), grpc.StatusCode.UNAUTHENTICATED),
        (bearer(hash_of(TOKEN)), grpc.StatusCode.UNAUTHENTICATED),  # the hash from the settings is not the token
        ([("authorization", TOKEN)], grpc.StatusCode.UNAUTHENTICATED),
        ([("authorization", f"Basic {TOKEN}")], grpc.StatusCode.UNAUTHENTICATED),
        ([("x-authorization", f"Bearer {TOKEN}")], grpc.StatusCode.UNAUTHENTICATED),
        (bearer(TOKEN), grpc.StatusCode.OK),
        (bearer(OTHER_TOKEN), grpc.StatusCode.OK),
        ([("authorization", f"bearer {TOKEN}")], grpc.StatusCode.OK),  # the scheme in any case: RFC 7235
    ],
    ids=lambda value: value.name if isinstance(value, grpc.StatusCode) else None,
)
def test_call_is_admitted_only_with_a_known_token(serve: Serve, metadata: Metadata, expected: grpc.StatusCode) -> None:
    service = NumberingService()
    stub = serve(service, auth_token_hashes=f"{hash_of(TOKEN)}, {hash_of(OTHER_TOKEN).upper()}")
    assert status_of(stub.TranscribeAudio, metadata) is expected
    assert bool(service.recognised) is (expected is grpc.StatusCode.OK)


def test_every_call_of_the_contract_asks_for_the_token(serve: Serve) -> None:
    stub = serve(NumberingService(), auth_token_hashes=hash_of(TOKEN))
    for name in transcription_pb2.DESCRIPTOR.services_by_name["TranscriptionService"].methods_by_name:
        call = getattr(stub, name)
        with pytest.raises(grpc.RpcError) as refusal:
            answer = call(request() if name == "TranscribeAudio" else iter(()), timeout=HANG_LIMIT_S)
            list(answer)  # a streamed answer fails only once it is read
        assert refusal.value.code() is grpc.StatusCode.UNAUTHENTICATED, name


def test_message_of_a_caller_without_a_token_is_not_even_parsed() -> None:
    """Bytes that are no protobuf are UNAUTHENTICATED without the token, and INTERNAL with it."""
    with connected(auth_token_hashes=hash_of(TOKEN)) as channel:
        call = channel.unary_unary(f"/{SERVICE_NAME}/TranscribeAudio")
        for metadata, expected in ((None, "UNAUTHENTICATED"), (bearer(TOKEN), "INTERNAL")):
            with pytest.raises(grpc.RpcError) as refusal:
                call(b"\xff" * 100, metadata=metadata, timeout=HANG_LIMIT_S)
            assert refusal.value.code().name == expected


def test_upload_of_a_caller_without_a_token_is_not_taken_in(serve: Serve) -> None:
    """The rejection arrives although the upload never ends."""

    def endless() -> Iterator[transcription_pb2.AudioChunk]:
        while True:
            yield transcription_pb2.AudioChunk(chunk_data=bytes(65_536), filename="a.raw", format="pcm")

    service = NumberingService()
    stub = serve(service, auth_token_hashes=hash_of(TOKEN))
    with pytest.raises(grpc.RpcError) as refusal:
        stub.TranscribeAudioStream(endless(), timeout=HANG_LIMIT_S)
    assert refusal.value.code() is grpc.StatusCode.UNAUTHENTICATED
    assert service.recognised == 0


def test_health_check_needs_no_token() -> None:
    with connected(auth_token_hashes=hash_of(TOKEN)) as channel:
        answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=HANG_LIMIT_S)
    assert answer.status == health_pb2.HealthCheckResponse.SERVING


@pytest.mark.parametrize("token", [TOKEN, OTHER_TOKEN, "wrong", ""])
def test_comparison_takes_the_same_steps_for_every_token(monkeypatch: pytest.MonkeyPatch, token: str) -> None:
    """All known hashes are compared by hmac.compare_digest, whichever matches; `==` or an early return would show."""
    compared = []

    def compare(given: str, known: str) -> bool:
        compared.append(known)
        return len(given) == len(known) == 64 and given == known

    monkeypatch.setattr(auth.hmac, "compare_digest", compare)
    hashes = [hash_of(name) for name in (TOKEN, "second", OTHER_TOKEN, "fourth")]
    assert TokenCheck(hashes).allows(bearer(token)) is (token in (TOKEN, OTHER_TOKEN))
    assert compared == hashes


@pytest.mark.parametrize("value", ["secret", "0" * 63, hash_of(TOKEN) + ",token"])
def test_setting_that_is_no_list_of_hashes_stops_the_start(value: str) -> None:
    """A token set by mistake instead of its hash is an error, not a hash that nothing matches."""
    with pytest.raises(ValueError, match="SHA-256"):
        settings_for_tests(auth_token_hashes=value)
