"""The errors this library raises on purpose.

    TracerError                 everything below; the pages and the command line catch only this
    ├── PromptError             the prompt cannot be traced as written
    │   ├── EmptyPromptError
    │   ├── PromptTooLongError
    │   └── UnknownTokenError   words the tokenizer has no token for
    ├── ModelError              the model cannot be opened
    │   ├── NotDownloadedError  it is on the hub and not on this disk yet
    │   └── DeviceLostError     the device failed; the process has to be restarted
    ├── TranscoderError         the transcoders cannot be read or do not fit the model
    ├── RegistryError           a list of models cannot be read
    ├── NoActiveFeaturesError   no transcoder feature is active on the prompt
    ├── TargetError             a target does not exist
    ├── ThresholdError          a pruning threshold outside 0..1
    ├── InterventionError       an edit on a layer, position or feature that is not there
    ├── FeatureIndexError       the feature examples on disk cannot be read, or built on
    │   └── FeatureLookupError        the examples of a feature cannot be fetched from elsewhere
    │       └── SourceUnavailableError  their source cannot be asked now; later it may
    ├── CorpusError             a corpus to build feature examples from cannot be read
    ├── ComparisonError         two graphs cannot be compared as asked
    ├── ExternalGraphError        a published graph is damaged or not in a form that is known
    ├── GraphFileError          a saved graph is damaged or of another version
    ├── MemoryLimitError        the work would not fit; raised before it starts
    ├── HubError                a repository on the hub cannot be used as asked
    │   ├── HubReferenceError       a text that names no place on the hub
    │   ├── RepositoryMissingError  no such repository, or a private one
    │   ├── RevisionMissingError    no such branch, tag or commit
    │   ├── HubFileMissingError     no such file at that commit
    │   ├── LicenceError            gated, and no access token was sent
    │   ├── AccessError             gated, and the token's owner was not let in
    │   ├── TokenError              the hub refuses the token itself
    │   ├── HubUnreachableError     no answer from the hub, or it is overloaded
    │   ├── NetworkOffError         the network is switched off and the cache lacks something
    │   ├── HubAnswerError          an answer that no hub should give
    │   ├── BrokenTransferError     a file did not arrive whole
    │   └── CacheFolderError        the cache folder is full or cannot be written
    │       └── DiskFullError
    └── Cancelled               the caller asked the work to stop

Every message names the thing, what was found, what was expected and what to do.
"""

from __future__ import annotations

from typing import Final


class TracerError(Exception):
    """Base of every error raised on purpose; its message is one sentence meant for a person."""


_LONGEST: Final = 300


def one_line(said: object) -> str:
    """What another library says, fit to stand inside a sentence: no line breaks, not too long."""
    text = " ".join(str(said).split())
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


class PromptError(TracerError):
    """The prompt cannot be traced as written."""


class EmptyPromptError(PromptError):
    """The prompt holds no token."""


class PromptTooLongError(PromptError):
    """The prompt has more tokens than the model's context."""


class UnknownTokenError(PromptError):
    """The prompt holds words that the tokenizer has no token for."""


class ModelError(TracerError):
    """The model cannot be opened."""


class NotDownloadedError(ModelError):
    """The model or its transcoders are on the hub, and not on this disk yet."""


class DeviceLostError(ModelError):
    """The device failed in a way that only a restart of the process repairs."""


class RegistryError(TracerError):
    """A list of models cannot be read or written."""


class TranscoderError(TracerError):
    """The transcoders cannot be read, or do not fit the model."""


class NoActiveFeaturesError(TracerError):
    """No transcoder feature is active anywhere on the prompt: there is nothing to attribute to."""


class TargetError(TracerError):
    """A target token does not exist in the model's vocabulary, or a target feature is silent."""


class ThresholdError(TracerError):
    """A pruning threshold lies outside 0..1."""


class InterventionError(TracerError):
    """An edit names something that is not there, or a value that is no finite number."""


class FeatureIndexError(TracerError):
    """Feature examples on disk cannot be read, or an unfinished build of them not gone on with."""


class CorpusError(TracerError):
    """A corpus to build feature examples from is missing, damaged, empty or of an unknown kind."""


class FeatureLookupError(FeatureIndexError):
    """The examples of a feature cannot be fetched from where they are published."""


class SourceUnavailableError(FeatureLookupError):
    """A source of examples does not answer now, or asks to be left alone for a while."""


class ComparisonError(TracerError):
    """Two graphs cannot be compared in the way that was asked for."""


class ExternalGraphError(TracerError):
    """A graph of another tool is damaged, or in no form that is known."""


class GraphFileError(TracerError):
    """A saved graph is damaged, or was written by another version of the format."""


class MemoryLimitError(TracerError):
    """The work would not fit in memory; raised, with the numbers, before it starts."""


class HubError(TracerError):
    """A repository on the hub cannot be used as asked."""


class HubReferenceError(HubError):
    """The text names no place on the hub."""


class RepositoryMissingError(HubError):
    """The hub knows no such repository, or does not show it to this person."""


class RevisionMissingError(HubError):
    """The repository has no such branch, tag or commit."""


class HubFileMissingError(HubError):
    """The repository has no such file at that commit."""


class LicenceError(HubError):
    """The repository asks for its licence to be accepted, and no access token was sent."""


class AccessError(HubError):
    """The access token's owner may not read the repository."""


class TokenError(HubError):
    """The hub refuses the access token itself."""


class HubUnreachableError(HubError):
    """The hub does not answer, or says that it cannot answer now."""


class NetworkOffError(HubError):
    """The network is switched off, and what is asked for is not in the cache."""


class HubAnswerError(HubError):
    """What answered at the hub's address is in no form that a hub uses."""


class BrokenTransferError(HubError):
    """A file did not arrive whole."""


class CacheFolderError(HubError):
    """The folder that downloads go to cannot be written."""


class DiskFullError(CacheFolderError):
    """The folder that downloads go to has no room for them."""


class Cancelled(TracerError):
    """The caller asked the work to stop."""
