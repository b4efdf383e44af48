"""From credentials to the caller of a request: the verified identity, judged by the present policy and directory."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from datetime import datetime
from http import HTTPStatus
from typing import TYPE_CHECKING

from authz.identity import Authenticator, AuthError, AuthHeaders, Identity, caller
from resolvers.rates import Buckets

if TYPE_CHECKING:
    from authz.caller import Caller
    from authz.enforcer import Authorizer, Snapshot

logger = logging.getLogger("countersign.wire")


class Callers:
    """What HTTP and sockets ask alike. Bad credentials are counted by address (RT-1)."""

    def __init__(
        self,
        authenticator: Authenticator,
        authorizer: Authorizer,
        *,
        clock: Callable[[], datetime],
        bad_credential_rate: tuple[float, int],
    ) -> None:
        self._authenticator = authenticator
        self._authorizer = authorizer
        self._clock = clock
        self._bad = Buckets(bad_credential_rate, name="bad credentials")

    async def identify(self, headers: Mapping[str, str], ip: str) -> Identity:
        """Verify the credentials in ``headers`` (lower-case names). Raises ``AuthError``.

        An address that has used up its bad tries hears 429 for the next bad one; a good one still passes, so that
        nobody can lock out the people who share a proxy's address with him.
        """
        try:
            return await self._authenticator.authenticate(AuthHeaders.of(headers))
        except AuthError as error:
            raise self._counted(error, ip) from error

    async def caller(self, identity: Identity, ip: str, version: int | None = None) -> tuple[Caller, Snapshot]:
        """The caller under the present policy, or under one at least as new as ``version``. Raises ``AuthError``."""
        snapshot = await self._authorizer.current(version)
        try:
            return caller(identity, snapshot, self._clock()), snapshot
        except AuthError as error:
            raise self._counted(error, ip) from error

    def under(self, identity: Identity, snapshot: Snapshot) -> Caller | None:
        """The caller under one snapshot; None for a person who may not come any more (locked, offboarded, token too old)."""
        try:
            return caller(identity, snapshot, self._clock())
        except AuthError:
            return None

    def _counted(self, error: AuthError, ip: str) -> AuthError:
        logger.info("credential refused: %s", error.cause)
        if error.status == HTTPStatus.UNAUTHORIZED and self._bad.take(ip) is not None:
            return AuthError(429, "ThrottlingException", "Rate exceeded", error.cause)
        return error
