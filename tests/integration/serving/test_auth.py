"""Every method and path wants the token, but for health; the lists come from the descriptors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import grpc
import httpx
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from starlette.routing import Route

from memstore import Store
from memstore.errors import ConfigError, UnauthenticatedError
from memstore.v1 import memory_service_pb2, session_service_pb2
from server.auth import Auth
from server.http_edge import OPEN_PATHS
from server.http_face import Readiness, create_app
from server.metrics import Metrics
from server.sessions import Sessions
from server.work import Workers

TOKEN = "mst_correct"
SERVICE = memory_service_pb2.DESCRIPTOR.services_by_name["MemoryService"]
SESSIONS = session_service_pb2.DESCRIPTOR.services_by_name["SessionService"]
WRONG = [None, "Bearer wrong", "Basic " + TOKEN, "Bearer", "bearer x y", TOKEN]


def _http_routes(store: Store) -> list[tuple[str, str]]:
    app = create_app(store, Workers(1, 1), Auth(None), Metrics(), Readiness(), Sessions(None))
    routes = [route for route in app.routes if isinstance(route, Route)]
    return [
        (method, route.path.format(name="default", codec_id="x", file="y", session_id="s"))
        for route in routes
        for method in sorted(route.methods or ())
    ]


@pytest.mark.parametrize(
    "method", [*SERVICE.methods, *SESSIONS.methods], ids=lambda method: method.name
)
@pytest.mark.parametrize("credential", WRONG)
def test_every_rpc_wants_the_token(
    method: memory_service_pb2.DESCRIPTOR, credential: str | None, store: Store, serve: Callable
):
    """No RPC of the service does anything for a caller without the right token."""
    server = serve(store, token=TOKEN)
    metadata = [("authorization", credential)] if credential else []
    with grpc.insecure_channel(server.grpc) as channel:
        path = f"/{method.containing_service.full_name}/{method.name}"
        if method.client_streaming:
            call = channel.stream_unary(path).future(iter([b""]), metadata=metadata)
        elif method.server_streaming:
            call = channel.unary_stream(path)(b"", metadata=metadata)
        else:
            call = channel.unary_unary(path).future(b"", metadata=metadata)
        assert call.code() is grpc.StatusCode.UNAUTHENTICATED


def test_every_path_wants_the_token_but_health(store: Store, serve: Callable):
    """Every registered path, and one that is not, answers 401 without the right token."""
    server = serve(store, token=TOKEN)
    routes = [*_http_routes(store), ("GET", "/nowhere")]
    assert len(routes) > 10
    with httpx.Client(base_url=server.http) as http:
        for method, path in routes:
            for credential in WRONG:
                headers = {"authorization": credential} if credential else {}
                response = http.request(method, path, headers=headers)
                expected = 200 if path in OPEN_PATHS else 401
                assert response.status_code == expected, (method, path, credential)
        assert http.get("/v1/collections").headers["www-authenticate"] == "Bearer"


def test_the_right_token_is_let_in(store: Store, serve: Callable, connect: Callable):
    """With the token, both faces answer; without, the client raises UnauthenticatedError."""
    server = serve(store, token=TOKEN)
    assert connect(server, token=TOKEN).query("word1").hits
    headers = {"authorization": f"bearer {TOKEN}"}
    assert httpx.get(f"{server.http}/v1/collections", headers=headers).status_code == 200
    assert httpx.get(f"{server.http}/metrics", headers=headers).status_code == 200
    with pytest.raises(UnauthenticatedError):
        connect(server, token="other").query("word1")
    with pytest.raises(UnauthenticatedError):
        connect(server).query("word1")


def test_grpc_health_is_open_and_reflection_is_not(store: Store, serve: Callable):
    """A load balancer has no token; a stranger learns nothing of the service."""
    server = serve(store, token=TOKEN)
    with grpc.insecure_channel(server.grpc) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        for service in ("", SERVICE.full_name, SESSIONS.full_name):
            status = health.Check(health_pb2.HealthCheckRequest(service=service)).status
            assert status == health_pb2.HealthCheckResponse.SERVING
        listing = [reflection_pb2.ServerReflectionRequest(list_services="")]
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        refused = stub.ServerReflectionInfo(iter(listing))
        assert refused.code() is grpc.StatusCode.UNAUTHENTICATED
        metadata = [("authorization", f"Bearer {TOKEN}")]
        answer = next(stub.ServerReflectionInfo(iter(listing), metadata=metadata))
        names = [service.name for service in answer.list_services_response.service]
        assert {SERVICE.full_name, SESSIONS.full_name} <= set(names)


def test_a_token_from_a_file_is_read_without_its_line_break(
    store: Store, serve: Callable, connect: Callable, tmp_path: Path
):
    """`token_file` holds the token, as an editor saves it."""
    file = tmp_path / "token"
    file.write_text(TOKEN + "\n")
    server = serve(store, token_file=file)
    assert connect(server, token=TOKEN).collections()


def test_an_exposed_address_without_a_token_is_refused(store: Store, serve: Callable):
    """The server does not start where other machines reach it, unless told that this is meant."""
    with pytest.raises(ConfigError, match="--insecure"):
        serve(store, grpc="0.0.0.0:0")
    assert serve(store, grpc="0.0.0.0:0", insecure=True).grpc
    assert serve(store, http="0.0.0.0:0", token=TOKEN).http
