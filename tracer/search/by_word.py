"""Find features by what is written about them: their labels, and the tokens of their examples.

No torch here, and nothing is asked of the network: what is on this disk is searched.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from tracer.errors import FeatureIndexError, SearchError
from tracer.features.cards import FeatureIndex, FeatureReader, Label
from tracer.features.lookup import FeatureLookup
from tracer.search.example_words import ExampleWords, open_example_words, query_word
from tracer.search.match import FeatureMatch, PeakDetail, check_limit, parse_feature
from tracer.search.words import Query
from tracer.types import FeatureId, Progress


def search_labels(
    reader: FeatureReader,
    query: str,
    limit: int = 50,
    *,
    layers: tuple[int, int] | None = None,
    max_frequency: float | None = None,
) -> tuple[FeatureMatch, ...]:
    """Find features whose label matches ``query``, the best matches first.

    A label must contain every word of the query, in any order; case does not matter. A word also
    finds its plural, -ing and -ed forms ("city" finds "cities") and words that it begins.
    ``-word`` excludes labels, ``"two words"`` in quotes must follow each other exactly. ``L3/417``
    finds the feature of that number, labelled or not.

    Labels that are the query come first, then those that begin with it, then those with all of its
    words, then those in which words only begin; within these, by the label's precision, layer and
    index. ``value`` is the precision (0 where it is unknown), ``detail`` the :class:`Label`.

    ``layers`` is the first and last layer to search. ``max_frequency`` leaves out features that
    fire on a larger share of tokens (0..1); those whose frequency is unknown stay.

    Raises :class:`SearchError` for an empty query or filters out of range, and when no feature has
    a label; :class:`FeatureIndexError` when the index is damaged.

    >>> import tracer
    >>> from tracer.features.cards import FeatureIndex
    >>> from tracer.paths import ATLAS_WEIGHTS
    >>> index = FeatureIndex.open(ATLAS_WEIGHTS / "per-layer")
    >>> best = tracer.search_labels(index, '"about Texas" -mongolia -ethiopia', limit=1)[0]
    >>> print(best.feature, best.detail.text, best.value)
    L4/1008 about Texas 0.995
    """
    check_limit(limit)
    _check_filters(layers, max_frequency)
    number = parse_feature(query)
    matches = _ranked_labels(reader, query) if number is None else _numbered(reader, number)
    kept = (
        match
        for match in matches
        if (layers is None or layers[0] <= match.feature.layer <= layers[1])
        and not _fires_more(reader, match.feature, max_frequency)
    )
    return tuple(islice(kept, limit))


def _check_filters(layers: tuple[int, int] | None, max_frequency: float | None) -> None:
    if layers is not None and not 0 <= layers[0] <= layers[1]:
        raise SearchError(
            f"layers is {layers[0]} to {layers[1]}: expected the first layer, 0 or more, and then "
            "the last one"
        )
    if max_frequency is not None and not 0 <= max_frequency <= 1:
        raise SearchError(
            f"max_frequency is {max_frequency}: expected a share of the tokens, 0 to 1"
        )


def _ranked_labels(reader: FeatureReader, query: str) -> Iterator[FeatureMatch]:
    parsed, labels = Query(query), reader.labels
    if not labels:
        raise SearchError(
            "this dictionary has no labels on this disk: build an index with `python -m tracer "
            "index`, or search by text, token or weights instead"
        )
    ranked = []
    for feature, label in labels.items():
        rank = parsed.rank(label.text)
        if rank is not None:
            ranked.append((rank, -(label.precision or 0.0), feature))
    for _, _, feature in sorted(ranked):
        yield _labelled(feature, labels[feature])


def _numbered(reader: FeatureReader, feature: FeatureId) -> Iterator[FeatureMatch]:
    label = reader.labels.get(feature)
    if label is not None or reader.cached_card(feature) is not None:
        yield _labelled(feature, label)


def _labelled(feature: FeatureId, label: Label | None) -> FeatureMatch:
    precision = label.precision if label is not None else None
    return FeatureMatch(feature, precision or 0.0, detail=label)


def _fires_more(reader: FeatureReader, feature: FeatureId, max_frequency: float | None) -> bool:
    if max_frequency is None:
        return False
    card = reader.cached_card(feature)
    return card is not None and card.frequency is not None and card.frequency > max_frequency


def search_examples(
    index: FeatureReader, word: str, limit: int = 50, progress: Progress | None = None
) -> tuple[FeatureMatch, ...]:
    """Find features that fire most on ``word`` in their own top examples.

    A feature matches when the strongest token of one of its top examples is the word, or a piece
    of it. Case and the space before a word do not matter. The features with the largest share of
    such examples come first, then those with the largest activation. ``value`` is the share,
    ``detail`` a :class:`PeakDetail`.

    The first search of a dictionary reads the examples of every feature, which ``progress`` counts
    and may stop by raising; the table it makes is kept in ``CIRCUIT_HOME``. Later searches take
    milliseconds.

    Raises :class:`SearchError` when ``word`` is not one word; :class:`FeatureIndexError` when the
    dictionary has no complete index on this disk, or a damaged one.

    >>> import tracer
    >>> from tracer.features.cards import FeatureIndex
    >>> from tracer.paths import ATLAS_WEIGHTS
    >>> index = FeatureIndex.open(ATLAS_WEIGHTS / "per-layer")
    >>> best = tracer.search_examples(index, " Dallas", limit=1)[0]
    >>> print(best.feature, best.detail.n_peaks, "of", best.detail.n_examples, "examples")
    L1/323 7 of 12 examples
    """
    check_limit(limit)
    wanted = query_word(word)
    peaks = example_words(index, progress).features(wanted)
    peaks.sort(key=lambda row: (-row.n_peaks / row.n_examples, -row.activation, row.feature))
    return tuple(
        FeatureMatch(
            row.feature,
            row.n_peaks / row.n_examples,
            detail=PeakDetail(word.strip() or word, row.n_peaks, row.n_examples, row.activation),
        )
        for row in peaks[:limit]
    )


def example_words(reader: FeatureReader, progress: Progress | None = None) -> ExampleWords:
    """Open the table behind :func:`search_examples`; build it if there is none yet.

    Raises :class:`FeatureIndexError` as :func:`search_examples` does.
    """
    return open_example_words(_complete_index(reader), progress)


def _complete_index(reader: FeatureReader) -> FeatureIndex:
    """Return the index on this disk that lists every feature of a dictionary."""
    indexes: tuple[FeatureIndex, ...] = ()
    if isinstance(reader, FeatureIndex):
        indexes = (reader,)
    elif isinstance(reader, FeatureLookup):
        indexes = reader.indexes
    for index in indexes:
        if len(index):
            return index
    raise FeatureIndexError(
        "this dictionary has no complete index on this disk, so its examples cannot be searched: "
        "build one with `python -m tracer index`"
    )
