"""Optuna's gRPC proxy of a storage, as it is found again after an outage."""

import warnings
from typing import Any

import grpc
import optuna
from optuna.storages import GrpcStorageProxy
from optuna.storages._grpc.auto_generated import api_pb2_grpc
from optuna.storages._grpc.client import GrpcClientCache

from tinysweep.errors import OutageError, first_line

# Optuna tells what it knows by other codes. UNKNOWN is whatever the proxy's own storage has raised.
_AWAY = {
    grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.ABORTED, grpc.StatusCode.CANCELLED, grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN,
}  # fmt: skip
_OPTIONS = [
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_reconnect_backoff_ms", 1000),  # which grows to two minutes otherwise
    ("grpc.keepalive_time_ms", 30_000),  # or a call whose answer is lost on a cut network would wait for ever
    ("grpc.keepalive_timeout_ms", 10_000),
]


class Proxy(GrpcStorageProxy):
    """The storage behind grpc://HOST:PORT, which is away while nothing answers there."""

    def __init__(self, host: str, port: int) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            super().__init__(host=host, port=port)

    def _setup(self) -> None:
        plain = grpc.insecure_channel(f"{self._host}:{self._port}", options=_OPTIONS)
        self._channel = grpc.intercept_channel(plain, _Outages())
        self._stub = api_pb2_grpc.StorageServiceStub(self._channel)  # type: ignore[no-untyped-call]
        self._cache = GrpcClientCache(self._stub)


class _Outages(grpc.UnaryUnaryClientInterceptor):  # type: ignore[misc]  # it has none either
    def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
        call = continuation(details, request)
        error = call.exception()
        if error is not None and error.code() in _AWAY:
            raise OutageError(first_line(error.details()) or error.code().name) from error
        return call
