"""The errors that this library raises on purpose.

    TracerError                 all of the below; the pages and the command line catch only this
    ├── PromptError             the prompt cannot be traced as written
    │   ├── EmptyPromptError
    │   ├── ChatNeededError     plain text on transcoders that were trained on chats
    │   ├── PromptTooLongError
    │   └── UnknownTokenError   words that the tokenizer has no token for
    ├── ModelError              the model cannot be opened
    │   ├── NotDownloadedError  it is on the Hub but not on this disk
    │   └── DeviceLostError     the device failed; restart the process
    ├── TranscoderError         the transcoders cannot be read or do not fit the model
    ├── RegistryError           a list of models cannot be read or written
    ├── NoActiveFeaturesError   no transcoder feature is active on the prompt
    ├── TargetError             a target does not exist
    ├── ThresholdError          a pruning threshold outside 0 to 1
    ├── AttentionError          attention that does not exist or cannot be explained
    ├── InterventionError       an edit of a layer, position or feature that does not exist
    ├── FeatureIndexError       feature examples on disk cannot be read or built
    │   └── FeatureLookupError      published examples of a feature cannot be fetched
    │       └── SourceUnavailableError  their source does not answer; a later try may work
    ├── CorpusError             a corpus to build feature examples from cannot be read
    ├── TrainingError           transcoders cannot be trained as requested
    ├── SearchError             a search for features cannot be answered as asked
    ├── ComparisonError         two graphs cannot be compared as requested
    ├── ExternalGraphError      a graph of another tool is damaged or in an unknown format
    ├── GraphFileError          a saved graph is damaged or has another format version
    ├── MemoryLimitError        the work does not fit in memory; raised before it starts
    ├── HubError                a repository on the Hub cannot be used as requested
    │   ├── HubReferenceError       not a valid Hub reference
    │   ├── RepositoryMissingError  the repository does not exist, or is private
    │   ├── RevisionMissingError    the branch, tag or commit does not exist
    │   ├── HubFileMissingError     the file does not exist at that commit
    │   ├── LicenceError            gated, and no access token was sent
    │   ├── AccessError             gated, and the token's owner has no access
    │   ├── TokenError              the Hub rejects the access token
    │   ├── HubUnreachableError     the Hub does not answer, or is overloaded
    │   ├── NetworkOffError         the network is switched off and the cache lacks a file
    │   ├── HubAnswerError          the answer is not one that a Hub gives
    │   ├── BrokenTransferError     a file arrived incomplete
    │   └── CacheFolderError        the cache folder cannot be written
    │       └── DiskFullError       it is full
    └── Cancelled               the caller asked the work to stop

Every message is one sentence for a person: it names the thing, repeats the value that was found,
and says what was expected and what to do.
"""

from __future__ import annotations

import re
from typing import Final

_LONGEST: Final = 300
_QUOTED: Final = 100
_LONGEST_MESSAGE: Final = 1500
_LONG_WORD: Final = re.compile(r"\S{400,}")


class TracerError(Exception):
    """The base of every error raised on purpose; its message is one sentence for a person.

    A word or path that nobody would read to its end is shortened.

    >>> len(str(TracerError("no token for " + "x" * 100_000)))
    316
    """

    def __str__(self) -> str:
        return _readable(super().__str__())


def _readable(message: str) -> str:
    if len(message) <= _LONGEST:
        return message
    message = _LONG_WORD.sub(lambda word: f"{word[0][:200]} … {word[0][-100:]}", message)
    if len(message) <= _LONGEST_MESSAGE:
        return message
    half = _LONGEST_MESSAGE // 2
    return f"{message[:half]} … {message[-half:]}"


def one_line(text: object) -> str:
    """Return the message of another library as part of a sentence: one line, not too long.

    >>> one_line(ValueError("bad value\\n  in line 3"))
    'bad value in line 3'
    """
    line = " ".join(str(text).split())
    return line if len(line) <= _LONGEST else f"{line[:_LONGEST]}…"


def short(text: str) -> str:
    """Return a text from a file, cut to the length that a message repeats.

    >>> len(short("9" * 5000))
    101
    """
    return text if len(text) <= _QUOTED else f"{text[:_QUOTED]}…"


class PromptError(TracerError):
    """The prompt cannot be traced as written."""


class EmptyPromptError(PromptError):
    """The prompt has no tokens."""


class PromptTooLongError(PromptError):
    """The prompt has more tokens than the model's context window."""


class ChatNeededError(PromptError):
    """The prompt is plain text, and the transcoders were trained on chats only."""


class UnknownTokenError(PromptError):
    """The prompt has words that the tokenizer has no token for."""


class ModelError(TracerError):
    """The model cannot be opened."""


class NotDownloadedError(ModelError):
    """The model or its transcoders are on the Hub but not on this disk."""


class DeviceLostError(ModelError):
    """The device failed in a way that only a restart of the process repairs."""


class RegistryError(TracerError):
    """A list of models cannot be read or written."""


class TranscoderError(TracerError):
    """The transcoders cannot be read, or do not fit the model."""


class NoActiveFeaturesError(TracerError):
    """No transcoder feature is active on the prompt, so there is nothing to attribute to."""


class TargetError(TracerError):
    """A target token is not in the vocabulary, or a target feature is not active."""


class ThresholdError(TracerError):
    """A pruning threshold is outside 0 to 1."""


class AttentionError(TracerError):
    """A head, layer or position does not exist, or its attention cannot be explained."""


class InterventionError(TracerError):
    """An edit names something that does not exist, or a value that is not a finite number."""


class FeatureIndexError(TracerError):
    """Feature examples on disk cannot be read, or an unfinished build cannot be continued."""


class SearchError(TracerError):
    """A search for features has an empty query, or names something that does not exist."""


class CorpusError(TracerError):
    """A corpus to build feature examples from is missing, damaged, empty or in no known format."""


class TrainingError(TracerError):
    """Transcoders cannot be trained as requested, or an unfinished training cannot be resumed."""


class FeatureLookupError(FeatureIndexError):
    """The examples of a feature cannot be fetched from where they are published."""


class SourceUnavailableError(FeatureLookupError):
    """A source of examples does not answer, or asks for a pause; a later try may work."""


class ComparisonError(TracerError):
    """Two graphs cannot be compared as requested."""


class ExternalGraphError(TracerError):
    """A graph of another tool is damaged or in an unknown format."""


class GraphFileError(TracerError):
    """A saved graph cannot be read, is damaged, or has another format version."""


class MemoryLimitError(TracerError):
    """The work does not fit in memory; raised with the numbers before it starts."""


class HubError(TracerError):
    """A repository on the Hub cannot be used as requested."""


class HubReferenceError(HubError):
    """The text is not a valid Hub reference."""


class RepositoryMissingError(HubError):
    """The repository does not exist, or is private."""


class RevisionMissingError(HubError):
    """The repository does not have that branch, tag or commit."""


class HubFileMissingError(HubError):
    """The repository does not have that file at that commit."""


class LicenceError(HubError):
    """The repository requires its licence to be accepted, and no access token was sent."""


class AccessError(HubError):
    """The owner of the access token does not have access to the repository."""


class TokenError(HubError):
    """The Hub rejects the access token."""


class HubUnreachableError(HubError):
    """The Hub does not answer, or says that it is overloaded."""


class NetworkOffError(HubError):
    """The network is switched off, and a file is not in the cache."""


class HubAnswerError(HubError):
    """The server at the Hub's address gives an answer that a Hub does not give."""


class BrokenTransferError(HubError):
    """A file arrived incomplete."""


class CacheFolderError(HubError):
    """The cache folder cannot be written."""


class DiskFullError(CacheFolderError):
    """The disk of the cache folder is full."""


class Cancelled(TracerError):
    """The caller asked the work to stop."""
