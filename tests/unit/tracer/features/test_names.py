"""A feature is named by its best label, and the name says where it is from."""

from __future__ import annotations

import pytest

from tracer.catalog.resolve import resolve
from tracer.features.cards import ExampleGroup, FeatureCard, FeatureIndex, FeatureReader
from tracer.features.names import LONGEST_LABEL, FeatureName, clean_label, feature_name
from tracer.types import FeatureId

TEXAS, UNKNOWN = FeatureId(1, 887), FeatureId(99, 1)


@pytest.fixture(scope="module")
def index() -> FeatureIndex:
    return FeatureIndex.open(resolve("atlas").transcoder_folder)


def test_your_label_comes_first_then_the_files_then_the_dictionarys(index: FeatureIndex) -> None:
    own, file = {TEXAS: "mine"}, {TEXAS: "theirs"}
    assert feature_name(TEXAS, index, own=own, file=file) == FeatureName("mine", "yours")
    assert feature_name(TEXAS, index, file=file) == FeatureName("theirs", "file")
    assert feature_name(TEXAS, index) == FeatureName("about Texas", "label")
    assert feature_name(TEXAS, index, own={TEXAS: ""}).source == "label"


def test_a_feature_without_a_label_is_named_by_tokens_and_else_by_its_number(
    index: FeatureIndex,
) -> None:
    unlabelled = next(f for f in index.features() if f not in index.labels and index.card(f))
    name = feature_name(unlabelled, index)
    assert name.source == "tokens" and name.text
    assert feature_name(UNKNOWN, index) == FeatureName("L99/1", "number")
    assert feature_name(UNKNOWN) == FeatureName("L99/1", "number")


class OneCard(FeatureReader):
    labels: dict = {}  # type: ignore[assignment]  # noqa: RUF012
    n_layers = 26

    def card(self, feature: FeatureId) -> FeatureCard:
        groups = (ExampleGroup("Top", ()),)
        promoted = (" Austin", " TX", " Dallas")
        return FeatureCard(feature, None, groups, promoted, (), 1.0, None, (), 1.0, ())


def test_without_examples_the_promoted_tokens_are_the_name() -> None:
    assert feature_name(FeatureId(3, 5), OneCard()) == FeatureName("→ Austin, TX", "tokens")


def test_a_label_is_one_line_of_bounded_length() -> None:
    assert clean_label("a\n b\u202e\x1b[0m") == "a b[0m"
    assert clean_label("x" * 500) == "x" * LONGEST_LABEL
    assert clean_label(" \u200b ") == ""
