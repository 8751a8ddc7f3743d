"""Why a cluster cannot be joined is said within seconds, asked of real gRPC servers."""

import socket
import time
from collections.abc import Iterator
from concurrent import futures
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest

from usseg_ray.cluster import join
from usseg_ray.cluster.join import CONTROL, ask, check_cluster, check_socket_folder, own_token
from usseg_ray.core.errors import UserError

SECRET = "f" * 32


@contextmanager
def control_service(secret: str | None) -> Iterator[str]:
    """Runs a server that answers every call, of those with its secret if it has one."""

    def answer(request: bytes, context: grpc.ServicerContext) -> bytes:
        shown = dict(context.invocation_metadata()).get("authorization")
        if secret and shown != f"Bearer {secret}":
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "no")
        return b""

    class Anything(grpc.GenericRpcHandler):  # type: ignore[misc]
        def service(self, _details: object) -> object:
            return grpc.unary_unary_rpc_method_handler(answer)

    server = grpc.server(futures.ThreadPoolExecutor(1), handlers=(Anything(),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(0).wait()


@pytest.fixture(autouse=True)
def no_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({}, "export RAY_AUTH_MODE=token"),
        ({"RAY_AUTH_TOKEN": SECRET}, "export RAY_AUTH_MODE=token"),
        ({"RAY_AUTH_MODE": "token"}, "there is no token"),
        ({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "wrong"}, "does not know this token"),
    ],
)
def test_what_is_wrong_with_the_token_is_named(
    given: dict[str, str], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    with control_service(SECRET) as address, pytest.raises(UserError, match=says):
        check_cluster(address)


def test_the_right_token_is_let_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", SECRET)
    with control_service(SECRET) as address:
        check_cluster(address)


def test_an_open_cluster_and_names_that_ray_resolves_are_left_to_ray() -> None:
    with control_service(None) as address:
        check_cluster(address)
        host, _, port = address.partition(":")
        assert ask(host, int(port), CONTROL, None) == "open"
    check_cluster("auto")


def test_a_dead_address_and_another_service_are_told_apart() -> None:
    start = time.monotonic()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        silent.close()
        with pytest.raises(UserError, match="nobody listens there"):
            check_cluster(f"127.0.0.1:{port}")
    with (
        socket.create_server(("127.0.0.1", 0)) as other,
        pytest.raises(UserError, match="not Ray's control service"),
    ):
        check_cluster(f"127.0.0.1:{other.getsockname()[1]}")
    assert time.monotonic() - start < 10


def test_where_the_token_is_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert own_token() is None
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("home\n")
    assert own_token() == "home"
    (tmp_path / "other").write_bytes("path".encode("utf-16"))
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "other"))
    assert own_token() is None
    (tmp_path / "other").write_text("path")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "other"))
    assert own_token() == "path"
    monkeypatch.setenv("RAY_AUTH_TOKEN", "variable")
    assert own_token() == "variable"


@pytest.mark.parametrize("variable", ["RAY_TMPDIR", "TMPDIR"])
def test_a_folder_too_long_for_rays_sockets_is_told(variable: str) -> None:
    check_socket_folder({variable: "/tmp/short"})
    with pytest.raises(UserError, match=rf"^{variable}=/scratch.* too long for Ray's sockets"):
        check_socket_folder({variable: "/scratch/" + "x" * 80})
    check_socket_folder({"TMPDIR": "/scratch/" + "x" * 80, "RAY_TMPDIR": "/tmp"})


def test_a_start_that_fails_is_tried_once_more_then_told(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[str] = []
    fails = 1

    def init(**_: object) -> None:
        tried.append("start")
        if len(tried) <= fails:
            raise Exception("The current node timed out during startup.\nMore")  # noqa: TRY002

    monkeypatch.setattr("ray.init", init)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert join._connect("")
    assert len(tried) == 2
    tried.clear()
    fails = 2
    with pytest.raises(UserError, match=r"twice \(The current node timed .*startup\.\)") as told:
        join._connect("")
    assert len(tried) == 2
    assert "\n" not in str(told.value)


def test_processes_that_wait_for_work_import_what_they_are_told_to(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given: list[object] = []
    monkeypatch.setattr("ray.init", lambda **options: given.append(options.get("_system_config")))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    for module in ("", "usseg_ray.trials.worker"):
        assert join._connect(module)
    assert given == [None, {"preload_python_modules": ["usseg_ray.trials.worker"]}]
