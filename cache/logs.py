"""Structured logs: one JSON object a line, with the request, the session and the phases of a job.

``CIRCUIT_LOG=json`` turns them on. Prompts are not logged; sessions only as a digest. Without it
the app writes warnings, and the device it runs models on, as plain lines.
"""

from __future__ import annotations

import hashlib
import json
import logging
import sys
import time
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from cache.jobs import Job

VARIABLE: Final = "CIRCUIT_LOG"
_OURS: Final = ("cache", "tracer", "pages")
_requests: Final = logging.getLogger("cache.requests")


class JsonFormatter(logging.Formatter):
    """Formats a record as one line of JSON; ``extra={"fields": …}`` adds fields."""

    def format(self, record: logging.LogRecord) -> str:
        fields: dict[str, Any] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(record.created)),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            fields["error"] = self.formatException(record.exc_info)
        return json.dumps(fields, ensure_ascii=False, default=str)


def log_json() -> None:
    """Write the logs of this project to stderr as JSON. Calling it again changes nothing."""
    for name in _OURS:
        log = logging.getLogger(name)
        if not any(isinstance(h.formatter, JsonFormatter) for h in log.handlers):
            handler = logging.StreamHandler(sys.stderr)
            handler.setFormatter(JsonFormatter())
            log.addHandler(handler)
            log.setLevel(logging.INFO)
            log.propagate = False


def log_text() -> None:
    """Write warnings, and the device that models run on, to stderr, as a server does.

    Does nothing when logs are configured already, by :func:`log_json` or by the program.
    """
    for name in _OURS:
        log = logging.getLogger(name)
        if not log.hasHandlers():
            handler = logging.StreamHandler(sys.stderr)
            handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
            log.addHandler(handler)
            if name == "cache":
                logging.getLogger("cache.worker").setLevel(logging.INFO)


def session_digest(session: str) -> str:
    """Return a short name for a session that does not let anybody act for it.

    >>> session_digest("visitor")
    '347c1e42'
    """
    return hashlib.sha256(b"session " + session.encode()).hexdigest()[:8]


def log_job(job: Job[Any]) -> None:
    """Log how a job ended, who wanted it, and how long it took."""
    _requests.info(
        "%s", job.state,
        extra={
            "fields": {
                "request": job.key,
                "sessions": sorted(map(session_digest, job.sessions)),
                "waited": round(job.waited, 3),
                "seconds": round(job.seconds or 0.0, 3),
                "phases": {name: round(seconds, 3) for name, seconds in job.phases.items()},
            }
        },
    )  # fmt: skip
