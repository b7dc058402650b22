"""The token that opens the page: where it is read from, and how it is compared."""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path

from edgeseg.errors import UsageError

__all__ = ["MIN_TOKEN_CHARACTERS", "TOKEN_VARIABLE", "Key", "read_token"]

_LOG = logging.getLogger(__name__)

TOKEN_VARIABLE = "EDGESEG_TOKEN"
MIN_TOKEN_CHARACTERS = 16
"""Rates are limited, so that this many cannot be guessed even if they are hexadecimal."""
_MAX_TOKEN_CHARACTERS = 256
_PLAIN = re.compile(r"[!-~]+")
_SESSION = b"edgeseg page session"


def read_token(file: Path | None = None, environ: Mapping[str, str] = os.environ) -> str | None:
    """The token in ``file``, else the one in the environment's ``EDGESEG_TOKEN``, else None.

    White space around it is no part of it. A file that others may read is used, with a warning.

    Raises:
        UsageError: the file cannot be read or holds nothing; the message never quotes it.
    """
    if file is None:
        return environ.get(TOKEN_VARIABLE, "").strip() or None
    try:
        with file.open(encoding="utf-8") as stream:
            shared = os.fstat(stream.fileno()).st_mode & (stat.S_IRWXG | stat.S_IRWXO)
            token = stream.read(2 * _MAX_TOKEN_CHARACTERS).strip()
    except OSError as error:
        raise UsageError(
            f"the token file {file} cannot be read: {error.strerror or error}"
        ) from error
    except UnicodeDecodeError:
        raise UsageError(f"the token file {file} holds no text") from None
    if not token:
        raise UsageError(f"the token file {file} is empty: openssl rand -hex 16 makes a token")
    if shared:
        _LOG.warning("other users may read the token file %s: chmod 600 it", file)
    return token


class Key:
    """Compares what a client sends with the token, in a time that says nothing about it."""

    def __init__(self, token: str) -> None:
        """Check that the token is fit to be one.

        Raises:
            UsageError: too short, too long, or not printable ASCII without spaces.
        """
        if not MIN_TOKEN_CHARACTERS <= len(token) <= _MAX_TOKEN_CHARACTERS:
            raise UsageError(
                f"the token has {len(token)} characters: give {MIN_TOKEN_CHARACTERS} to "
                f"{_MAX_TOKEN_CHARACTERS} (openssl rand -hex 16 makes one)"
            )
        if not _PLAIN.fullmatch(token):
            raise UsageError(
                "the token must be printable ASCII without spaces (openssl rand -hex 16 makes one)"
            )
        secret = token.encode("ascii")
        self._token = hashlib.sha256(secret).digest()
        self.cookie_value = hmac.new(secret, _SESSION, hashlib.sha256).hexdigest()
        """What the browser keeps in place of the token. It follows from it, so that a page goes on
        after a restart."""

    def is_token(self, candidate: str) -> bool:
        """Whether it is the token."""
        # Digests have one length, so that not even the token's is given away.
        digest = hashlib.sha256(candidate.encode("utf-8", "surrogateescape")).digest()
        return hmac.compare_digest(digest, self._token)

    def is_cookie(self, candidate: str) -> bool:
        """Whether it is the value of the page's cookie."""
        return hmac.compare_digest(
            candidate.encode("utf-8", "surrogateescape"), self.cookie_value.encode("ascii")
        )
