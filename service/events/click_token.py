"""The click token: signed proof of what was shown, so that a click needs no look at the database.

It knows nothing about storage. The key file is made here; whoever reads it can forge clicks.
"""

import binascii
import hmac
import json
import os
import re
import secrets as random_secrets
import stat
import time
import uuid
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path

from service.contract.errors import ConfigurationError, TokenRefused

KEY_FILE = "click_token.key"
_MOST_CHARACTERS = 1024  # a real token has about 200
_LEAST_SECRET = 16
_MOST_SECRETS = 2
_SEPARATOR = b"."
# 32 bytes of signature are 43 characters; the last one has two spare bits, which must be 0: one token, one spelling.
_TOKEN = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]{42}[AEIMQUYcgkosw048]", re.ASCII)
_SALT = b"nextquery.click"
_FORMAT = 1  # first item of the payload; a later format gets the next number


@dataclass(frozen=True, slots=True, kw_only=True)
class ClickClaims:
    """What a token says about the list it belongs to. `expires_at`: unix seconds."""

    impression_id: str
    tenant: str
    task: str
    arm: str
    policy_version: str | None
    ctr_version: str | None
    cor_version: str | None
    n_shown: int
    expires_at: int


_values = attrgetter(*ClickClaims.__slots__)


class TokenSigner:
    """Signs with the newest key, accepts every live one."""

    def __init__(self, secrets: Sequence[str], valid_days: float = 7, now: Callable[[], float] = time.time) -> None:
        """Prepare the keys.

        Args:
            secrets: one or two, newest first.
            valid_days: how long a new token is good for.
            now: unix seconds.
        """
        _check_secrets(secrets, "NEXTQUERY_CLICK_TOKEN_SECRETS")
        self._valid_s = round(valid_days * 86_400)
        self._now = now
        # Not itsdangerous: every click is verified, and its Signer takes five times as long as one HMAC.
        self._keys = [hmac.digest(secret.encode(), _SALT, "sha256") for secret in secrets]

    def expiry(self) -> int:
        """Return the unix second at which a token signed now expires."""
        return int(self._now()) + self._valid_s

    def sign(self, claims: ClickClaims) -> str:
        """Return the token: letters, digits, `-`, `_` and one dot."""
        payload = _base64(json.dumps((_FORMAT, *_values(claims)), separators=(",", ":")).encode())
        return (payload + _SEPARATOR + _signature(self._keys[0], payload)).decode()

    def verify(self, token: str, now: float | None = None) -> ClickClaims:
        """Return what the token says, when one of our keys signed it and its time is not over.

        Raises:
            TokenRefused: `reason` is "malformed", "forged" or "expired".
        """
        if len(token) > _MOST_CHARACTERS or not _TOKEN.fullmatch(token):
            raise TokenRefused("malformed", "This is no click token. Send the `click_token` of the list, unchanged.")
        payload, _, signature = token.encode().partition(_SEPARATOR)
        if not any(hmac.compare_digest(_signature(key, payload), signature) for key in self._keys):
            raise TokenRefused(
                "forged", "The click token was not signed by this service, or was altered. Send it unchanged."
            )
        try:
            version, *values = json.loads(urlsafe_b64decode(payload + b"=" * (-len(payload) % 4)))
            claims = ClickClaims(**dict(zip(ClickClaims.__slots__, values, strict=True)))
        except (binascii.Error, TypeError, ValueError):
            version, claims = 0, None
        if claims is None or version != _FORMAT:
            raise TokenRefused("malformed", "The click token is of an unknown format. Ask for a new list.")
        if claims.expires_at <= (self._now() if now is None else now):
            raise TokenRefused("expired", "The click token has expired. Ask for a new list, and click on that.")
        return claims


def _signature(key: bytes, payload: bytes) -> bytes:
    return _base64(hmac.digest(key, payload, "sha256"))


def _base64(data: bytes) -> bytes:
    return urlsafe_b64encode(data).rstrip(b"=")


def load_or_create_secret(data_dir: Path) -> list[str]:
    """Return the keys in `click_token.key`, newest first; the file is made with mode 0600 if there is none.

    To rotate: put a new line first, keep the old one second, restart; drop the second when its tokens have expired.

    Raises:
        ConfigurationError: Others can read the file, or it does not hold one or two keys.
    """
    path = data_dir / KEY_FILE
    if not path.exists():
        _create(path)
    if stat.S_IMODE(path.stat().st_mode) & 0o077:
        raise ConfigurationError(
            f"{path} can be read by others, who could then forge clicks. Delete it if anyone may have read it, "
            f"else run `chmod 600 {path}`."
        )
    secrets = [line.strip() for line in path.read_text().splitlines() if line.strip()]
    _check_secrets(secrets, str(path))
    return secrets


def _create(path: Path) -> None:
    """Write a whole file beside, then link it: of two processes one wins, and nobody sees half a key."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(random_secrets.token_urlsafe(32) + "\n")
            file.flush()
            os.fsync(file.fileno())
        os.link(draft, path)
    except FileExistsError:
        pass  # the other process was first, and its key is as good
    finally:
        draft.unlink()


def _check_secrets(secrets: Sequence[str], where: str) -> None:
    if not 1 <= len(secrets) <= _MOST_SECRETS:
        raise ConfigurationError(
            f"{where} holds {len(secrets)} keys; one or two are allowed, newest first. Remove those whose tokens have "
            "expired, or delete the file to get a new one."
        )
    if any(len(secret) < _LEAST_SECRET for secret in secrets):
        raise ConfigurationError(
            f"{where} holds a key of fewer than {_LEAST_SECRET} characters, which can be guessed. Write one with "
            "`python -c 'import secrets; print(secrets.token_urlsafe(32))'`."
        )
