"""Requests to the hub: retries, and one error with one sentence for each way they can fail."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

from tracer.errors import (
    AccessError,
    BrokenTransferError,
    HubAnswerError,
    HubError,
    HubFileMissingError,
    HubUnreachableError,
    LicenceError,
    NetworkOffError,
    RepositoryMissingError,
    RevisionMissingError,
    TokenError,
    one_line,
)
from tracer.hub.reference import Reference

WAITS: tuple[float, ...] = (1.0, 2.0, 4.0)
"""Seconds between attempts; there is one attempt more than there are waits."""

_SWITCHES: Final = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "CIRCUIT_OFFLINE")
_TRUE: Final = ("1", "true", "yes", "on")
_BUSY: Final = (408, 429, 500, 502, 503, 504)

Answer = TypeVar("Answer")


def endpoint() -> str:
    """Return the hub's address without a final slash: ``HF_ENDPOINT``, or the public one."""
    return (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")


def host() -> str:
    """Return the hub's host name, for messages."""
    return urlsplit(endpoint()).netloc or endpoint()


def switches() -> list[str]:
    """Return the environment variables that switch the network off."""
    names = [name for name in _SWITCHES if os.environ.get(name, "").strip().lower() in _TRUE]
    if os.environ.get("HF_HUB_OFFLINE"):  # wins over its older name, as in the hub's library
        names = [name for name in names if name != "TRANSFORMERS_OFFLINE"]
    return names


def with_retries(reference: Reference, ask: Callable[[], Answer], waits: Sequence[float]) -> Answer:
    """Return the result of ``ask``, repeated after each of ``waits`` while there is no answer.

    ``huggingface_hub``'s ``http_backoff`` is not used: see docs/decisions/downloads.md.
    """
    for wait in waits:
        try:
            return as_hub_errors(reference, ask)
        except (HubUnreachableError, BrokenTransferError):
            time.sleep(wait)
    return as_hub_errors(reference, ask)


def as_hub_errors(reference: Reference, ask: Callable[[], Answer]) -> Answer:
    """Return the result of ``ask``, with errors of the hub's library as :class:`HubError`."""
    import httpx2
    from huggingface_hub import errors

    try:
        return ask()
    except errors.HfHubHTTPError as error:
        raise _refusal(reference, error) from error
    except errors.OfflineModeIsEnabled as error:
        raise network_is_off(f"{reference} cannot be looked up") from error
    except (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.UnsupportedProtocol) as error:
        raise HubUnreachableError(
            f"no answer from {host()} after several attempts ({error}): check the connection, the "
            "proxy and HF_ENDPOINT, or set HF_HUB_OFFLINE=1 to use only downloaded files"
        ) from error
    except httpx2.TransportError as error:
        raise BrokenTransferError(
            f"the connection to {host()} broke while reading {reference} ({type(error).__name__}), "
            "after several attempts: try again, a download continues where it stopped"
        ) from error
    except (httpx2.HTTPError, httpx2.InvalidURL, errors.HFValidationError) as error:
        raise odd_answer(reference, error) from error


def _refusal(reference: Reference, error: Any) -> HubError:
    """Return the error for an answer with an error status."""
    from huggingface_hub import errors, get_token

    status, repo = error.response.status_code, reference.repo
    token_sent = "authorization" in error.response.request.headers
    if isinstance(error, errors.GatedRepoError):  # a RepositoryNotFoundError, so it comes first
        return _gated(repo, token_sent)
    if isinstance(error, errors.RepositoryNotFoundError):
        reason = "your access token cannot read it" if token_sent else "no access token was sent"
        return RepositoryMissingError(
            f"model repository {repo} not found on {host()}, or it is private and {reason}: check "
            "the spelling (org/name); for a private one run `hf auth login` or set HF_TOKEN"
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return RevisionMissingError(
            f"{repo} has no branch, tag or commit {reference.revision or 'main'!r}: see its "
            f"revisions at https://huggingface.co/{repo}/tree/main"
        )
    if isinstance(error, errors.EntryNotFoundError):
        return file_is_missing(repo, reference.folder, reference.revision)
    if isinstance(error, errors.DisabledRepoError):
        return RepositoryMissingError(f"{host()} has disabled {repo}: use another repository")
    if status in (401, 403):
        verb, token = "refuses your access token for", "a new one"
        if get_token() is None:
            verb, token = "requires an access token for", "one"
        return TokenError(
            f"{host()} {verb} {repo} (status {status}): create {token} at "
            "https://huggingface.co/settings/tokens, then run `hf auth login` or set HF_TOKEN"
        )
    if status in _BUSY:
        return HubUnreachableError(
            f"{host()} is too busy to answer for {repo} (status {status}, after several attempts): "
            "try again in a few minutes"
        )
    return odd_answer(reference, f"status {status}")


def _gated(repo: str, token_sent: bool) -> HubError:
    page = f"https://huggingface.co/{repo}"
    if token_sent:
        return AccessError(
            f"{repo} is gated and the account of your access token has no access to it: request "
            f"access at {page}; a fine-grained token also needs permission to read gated "
            "repositories"
        )
    return LicenceError(
        f"{repo} is gated: accept its licence at {page}, then run `hf auth login` or set HF_TOKEN "
        "to an access token"
    )


def file_is_missing(repo: str, path: str, commit: str | None) -> HubFileMissingError:
    """Return the error for a file that the repository does not contain."""
    return HubFileMissingError(
        f"{repo} has no file {path} at {str(commit)[:12]}: see its files at "
        f"https://huggingface.co/{repo}/tree/{commit}"
    )


def odd_answer(reference: Reference, why: object) -> HubAnswerError:
    """Return the error for an answer that no hub gives, such as the login page of a network."""
    return HubAnswerError(
        f"unexpected answer from {endpoint()} for {reference} ({one_line(why)}): check "
        "HF_ENDPOINT, and whether the network requires a login"
    )


def network_is_off(what: str) -> NetworkOffError:
    """Return the error for ``what``, the first clause of its message, while the network is off."""
    # The library reads the variables when it is imported; they may have been unset since.
    switch = " and ".join(switches()) or "HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE"
    return NetworkOffError(
        f"{what}, and the network is switched off by {switch}: unset it to download, or "
        "copy a filled cache from another machine"
    )
