"""Asking the hub, and the one sentence for each way in which it can refuse or stay silent."""

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
)
from tracer.hub.reference import Reference

WAITS: tuple[float, ...] = (1.0, 2.0, 4.0)
"""Seconds between two tries; a host that does not answer is asked once more than there are."""

_SWITCHES: Final = ("HF_HUB_OFFLINE", "CIRCUIT_OFFLINE")
_TRUE: Final = ("1", "true", "yes", "on")
_BUSY: Final = (408, 429, 500, 502, 503, 504)

Answer = TypeVar("Answer")


def endpoint() -> str:
    """The hub's address, ``HF_ENDPOINT`` or the public one, without a slash at its end."""
    return (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")


def host() -> str:
    """The hub's address as it is named in sentences."""
    return urlsplit(endpoint()).netloc or endpoint()


def switches() -> list[str]:
    """Which variables switch the network off."""
    return [name for name in _SWITCHES if os.environ.get(name, "").strip().lower() in _TRUE]


def with_retries(place: Reference, ask: Callable[[], Answer], waits: Sequence[float]) -> Answer:
    """What ``ask`` returns, asked again after each of ``waits`` while the hub does not answer."""
    for wait in waits:
        try:
            return as_hub_errors(place, ask)
        except (HubUnreachableError, BrokenTransferError):
            time.sleep(wait)
    return as_hub_errors(place, ask)


def as_hub_errors(place: Reference, ask: Callable[[], Answer]) -> Answer:
    """What ``ask`` returns; what it raises about the hub becomes a :class:`HubError`."""
    import httpx2
    from huggingface_hub import errors

    try:
        return ask()
    except errors.HfHubHTTPError as error:
        raise _refusal(place, error) from error
    except errors.OfflineModeIsEnabled as error:
        raise network_is_off(f"{place} cannot be asked for") from error
    except (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.UnsupportedProtocol) as error:
        raise HubUnreachableError(
            f"no answer from {host()} ({error}), which is asked several times before giving up: "
            "check the connection, the proxy and HF_ENDPOINT; with HF_HUB_OFFLINE=1 only what was "
            "downloaded before is used"
        ) from error
    except httpx2.TransportError as error:
        raise BrokenTransferError(
            f"the connection to {host()} broke off while {place} was read "
            f"({type(error).__name__}), several times: try again, a download goes on where it "
            "stopped"
        ) from error
    except (httpx2.HTTPError, httpx2.InvalidURL, errors.HFValidationError) as error:
        raise odd_answer(place, error) from error


def _refusal(place: Reference, error: Any) -> HubError:
    """The sentence for an answer of the hub that is not the thing asked for."""
    from huggingface_hub import errors, get_token

    status, repo = error.response.status_code, place.repo
    token_sent = "authorization" in error.response.request.headers
    if isinstance(error, errors.GatedRepoError):  # a RepositoryNotFoundError, so it comes first
        return _gated(repo, token_sent)
    if isinstance(error, errors.RepositoryNotFoundError):
        reason = "your access token cannot read it" if token_sent else "it needs an access token"
        return RepositoryMissingError(
            f"{host()} knows no model repository {repo}, or it is private and {reason}: check the "
            "spelling (org/name); for a private one run `hf auth login` or set HF_TOKEN"
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return RevisionMissingError(
            f"{repo} has no branch, tag or commit {place.revision or 'main'!r}: its revisions are "
            f"listed at https://huggingface.co/{repo}/tree/main"
        )
    if isinstance(error, errors.EntryNotFoundError):
        return file_is_missing(repo, place.folder, place.revision)
    if isinstance(error, errors.DisabledRepoError):
        return RepositoryMissingError(f"{repo} was disabled by the hub: use another repository")
    if status in (401, 403):
        found, wanted = "refuses your access token for", "a new one"
        if get_token() is None:
            found, wanted = "wants an access token for", "one"
        return TokenError(
            f"{host()} {found} {repo} (status {status}): make {wanted} at "
            "https://huggingface.co/settings/tokens, then run `hf auth login` or set HF_TOKEN"
        )
    if status in _BUSY:
        return HubUnreachableError(
            f"{host()} cannot answer for {repo} now (status {status}), and was asked several "
            "times: try again in some minutes"
        )
    return odd_answer(place, f"status {status}")


def _gated(repo: str, token_sent: bool) -> HubError:
    page = f"https://huggingface.co/{repo}"
    if token_sent:
        return AccessError(
            f"{repo} is gated and the owner of your access token was not let in: ask for access "
            f"at {page}, and if the token is fine-grained let it read gated repositories"
        )
    return LicenceError(
        f"{repo} is gated: accept its licence at {page}, then run `hf auth login` or set HF_TOKEN "
        "to an access token"
    )


def file_is_missing(repo: str, path: str, commit: str | None) -> HubFileMissingError:
    """The error for a file that the repository does not have."""
    return HubFileMissingError(
        f"{repo} has no file {path} at {str(commit)[:12]}: its files are listed at "
        f"https://huggingface.co/{repo}/tree/{commit}"
    )


def odd_answer(place: Reference, why: object) -> HubAnswerError:
    """The error for something else than a hub at the hub's address, such as a login page."""
    return HubAnswerError(
        f"{endpoint()} does not answer for {place} as a hub does ({str(why)[:200]}): check "
        "HF_ENDPOINT, and whether the network asks for a login"
    )


def network_is_off(what: str) -> NetworkOffError:
    """The error for ``what`` (a sentence without its end) when the network may not be used."""
    # The library also goes by what stood in the environment when it was imported.
    switch = " and ".join(switches()) or "HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE"
    return NetworkOffError(
        f"{what}, and the network is switched off by {switch}: unset it to download, or fill the "
        "cache on another machine and copy it here"
    )
