"""The two subprotocols of ``/graphql/realtime`` as words: AppSync's own ``graphql-ws`` and ``graphql-transport-ws``.

Only frames and the credentials a handshake carries; what is done about them is in ``realtime``.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from typing import Any, Final

import orjson

from resolvers import edge_json
from resolvers.realtime_connection import Dialect, frame

APPSYNC: Final = "graphql-ws"
TRANSPORT: Final = "graphql-transport-ws"
_HEADER: Final = "header-"
_CONNECTION_TIMEOUT_MS: Final = 300_000
_CREDENTIALS: Final = ("authorization", "x-api-key", "x-amz-date", "host")


class AppSync:
    """AppSync's real-time protocol as ``aws-amplify`` speaks it."""

    subprotocol = APPSYNC
    keepalive = '{"type":"ka"}'

    def acknowledged(self) -> str:
        return frame({"type": "connection_ack", "payload": {"connectionTimeoutMs": _CONNECTION_TIMEOUT_MS}})

    def data(self, subscription_id: str, payload: str) -> str:
        return f'{{"id":{_text(subscription_id)},"type":"data","payload":{payload}}}'

    def failed(self, subscription_id: str, errors: Sequence[Mapping[str, Any]]) -> str:
        return frame({"id": subscription_id, "type": "error", "payload": {"errors": errors}})

    def ended(self, subscription_id: str) -> str:
        return frame({"id": subscription_id, "type": "complete"})

    def started(self, subscription_id: str) -> str:
        return frame({"id": subscription_id, "type": "start_ack"})

    def refused(self, error_type: str, error_code: int, message: str) -> str:
        """The connection is refused in the protocol: a bare HTTP refusal would make Amplify retry and tell nobody."""
        error = {"errorType": error_type, "errorCode": error_code, "message": message}
        return frame({"type": "connection_error", "payload": {"errors": [error]}})


class Transport:
    """The ``graphql-transport-ws`` subprotocol, as GraphiQL and the graphql-ws library speak it."""

    subprotocol = TRANSPORT
    keepalive = '{"type":"ping"}'

    def acknowledged(self) -> str:
        return '{"type":"connection_ack"}'

    def data(self, subscription_id: str, payload: str) -> str:
        return f'{{"id":{_text(subscription_id)},"type":"next","payload":{payload}}}'

    def failed(self, subscription_id: str, errors: Sequence[Mapping[str, Any]]) -> str:
        return frame({"id": subscription_id, "type": "error", "payload": errors})

    def ended(self, subscription_id: str) -> str:
        return frame({"id": subscription_id, "type": "complete"})


def _text(value: str) -> str:
    return orjson.dumps(value).decode()


def choose(offered: Sequence[str]) -> Dialect | None:
    """The dialect for the offered subprotocols; AppSync's wins, since its client offers a second one that is no protocol."""
    if APPSYNC in offered:
        return AppSync()
    return Transport() if TRANSPORT in offered else None


class BadHandshakeError(Exception):
    """The credentials of the handshake or of a start cannot be read."""


def handshake_credentials(offered: Sequence[str], query: Mapping[str, Sequence[str]]) -> Mapping[str, str]:
    """The auth object of AppSync's handshake: in the second subprotocol, or (older clients) in the query's ``header``."""
    encoded = next((item.removeprefix(_HEADER) for item in offered if item.startswith(_HEADER)), None)
    if encoded is None:
        values = query.get("header", ())
        if len(values) != 1:
            raise BadHandshakeError("The handshake carries no header.")
        encoded = values[0]
    try:
        # Both alphabets and both paddings are in use: Amplify strips, older clients send plain base64.
        raw = base64.b64decode(encoded.replace("-", "+").replace("_", "/") + "=" * (-len(encoded) % 4), validate=True)
        value = edge_json.loads(raw)
    except (binascii.Error, ValueError) as error:
        raise BadHandshakeError("The header of the handshake is not base64url JSON.") from error
    return credentials(value)


def credentials(value: Any) -> Mapping[str, str]:
    """Lower-cased header names to values out of an auth object; names that decide nothing are left out."""
    if not isinstance(value, dict):
        raise BadHandshakeError("The authorization is not an object.")
    result: dict[str, str] = {}
    for name, item in value.items():
        lower = name.lower()
        if lower not in _CREDENTIALS:
            continue
        if not isinstance(item, str) or lower in result:
            raise BadHandshakeError("The authorization is ambiguous.")
        result[lower] = item
    return result
