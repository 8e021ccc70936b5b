"""Every name that a file gives for the explanations of its features is followed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from feature_files import save_index
from hub_server import HubServer
from neuronpedia_server import NeuronpediaServer, feature
from published_graphs import published, read

from tracer.catalog.published import Published
from tracer.errors import FeatureLookupError
from tracer.features.cards import Label
from tracer.features.lookup import published_lookup
from tracer.interchange.convert import graph_from_external
from tracer.interchange.explained import explained_by
from tracer.interchange.graph_json import cantor_pair
from tracer.types import FeatureId

HP = ("gemma-2-2b", "clt-hp")
CLT, SCOPE = "mntss/clt-gemma-2-2b-2.5M", "mntss/gemma-scope-transcoders"
HUB = "https://huggingface.co/"


@pytest.mark.parametrize(
    ("provenance", "expected"),
    [
        ({"scan": "gemma-2-2b", "source_set": "clt-hp"}, Published(HP)),
        ({"scan": "gemma-2-2b", "source_set": "0-clt-hp"}, Published(HP)),
        ({"scan": CLT}, Published(HP, CLT)),
        ({"scan": CLT, "source_set": "clt-hp"}, Published(HP, CLT)),
        ({"scan": SCOPE}, Published(("gemma-2-2b", "gemmascope-transcoder-16k"), SCOPE)),
        ({"scan": "gemma"}, Published(("gemma-2-2b", "gemmascope-transcoder-16k"), SCOPE)),
        ({"scan": "someone/set/folder@v1"}, Published(None, "someone/set/folder@v1")),
        (
            {"scan": "x", "source_urls": ["https://a.org/b/c", "https://neuronpedia.org/m-2/s-hp"]},
            Published(("m-2", "s-hp")),
        ),
        (
            {"scan": "x", "source_urls": ["https://www.neuronpedia.org/gemma-2-2b/25-clt-hp/"]},
            Published(HP),
        ),
        (
            {"scan": "gemma-2-2b", "source_urls": [f"{HUB}lab/set/tree/main/a/b"]},
            Published(None, "lab/set/a/b@main"),
        ),
        ({"source_urls": [f"{HUB}datasets/lab/set", f"{HUB}lab", "https://[x"]}, None),
        ({"transcoder_set": CLT}, Published(HP, CLT)),
        ({"transcoder_set": "mntss/clt-gemma-2-2b-426k"}, "mntss/clt-gemma-2-2b-426k"),
        ({"transcoder_set": "facebook/crv-8b-instruct-transcoders"}, None),  # has no features/
        ({"scan": "gemma-2-2b", "source_urls": ["https://neuronpedia.org/gemma-2-2b"]}, None),
        ({"source_urls": ["https://neuronpedia.org/m/../../etc"]}, None),
        ({"scan": "a/../b", "source_set": "clt-hp"}, None),
        ({"scan": "gemma", "source_set": "../.."}, SCOPE),
        ({"source_urls": 3}, None),
        ({"feature_address": "https://a.org/f"}, None),  # the features have no known numbers
        ({"feature_address": "file:///etc", "feature_numbers": "plain"}, None),
        ({}, None),
    ],
)
def test_the_provenance_names_where_features_are_explained(
    provenance: dict[str, Any], expected: Published | str | None
) -> None:
    found = explained_by(provenance)
    if isinstance(expected, str):
        assert found is not None and found.hub == expected
    else:
        assert found == expected


@pytest.mark.parametrize("place", ["feature_details", "info"])
def test_neuronpedias_own_name_of_the_set_is_kept(place: str) -> None:
    stored = published()
    stored["metadata"] |= {"scan": "gemma-2-2b", place: {"neuronpedia_source_set": "clt-hp"}}
    assert explained_by(graph_from_external(read(stored)).provenance) == Published(HP)


def test_examples_come_from_the_repository_that_the_scan_names(
    hub: HubServer, neuronpedia: NeuronpediaServer, tmp_path: Path
) -> None:
    hub.add("lab/set", save_index(tmp_path / "set"))
    stored = published()
    stored["metadata"]["scan"] = "lab/set"
    source = explained_by(graph_from_external(read(stored)).provenance)
    assert source == Published(None, "lab/set")
    reader = published_lookup(source)
    assert reader.cached_card(FeatureId(0, 1)) is None and not reader.labels
    card = reader.card(FeatureId(0, 1))
    assert card is not None and (card.label, card.act_max) == (Label("letters", 0.9), 3.0)
    assert neuronpedia.requests == [] and reader.n_layers > 0


def test_a_repository_without_examples_leaves_them_to_neuronpedia(
    hub: HubServer, neuronpedia: NeuronpediaServer
) -> None:
    hub.add(CLT, {"config.yaml": "x"})
    neuronpedia.answers["gemma-2-2b/0-clt-hp/7"] = feature()
    source = explained_by({"scan": CLT})
    assert source is not None
    card = published_lookup(source).card(FeatureId(0, 7))
    assert card is not None and card.label == Label("Texan cities", None)


RECORD = {
    "index": 7,
    "examples_quantiles": [
        {
            "quantile_name": "Top activations",
            "examples": [{"tokens": [" big", " dog"], "tokens_acts_list": [0.0, 4.5]}],
        }
    ],
    "top_logits": [" bark"],
    "bottom_logits": [" meow"],
    "act_max": 4.5,
}


def with_address(url: str, numbers: tuple[int, int]) -> Published:
    stored = published()
    details = {"feature_json_base_url": f"{url}/model/features"}
    stored["metadata"] |= {"scan": "x", "feature_details": details}
    for entry, number in zip(stored["nodes"][1:3], numbers, strict=True):
        entry["feature"] = number
    source = explained_by(graph_from_external(read(stored)).provenance)
    assert source is not None
    return source


@pytest.mark.parametrize(
    ("numbers", "asked"),
    [
        ((cantor_pair(0, 7), cantor_pair(1, 9)), cantor_pair(1, 9)),
        ((7, 100_009), 100_009),
        ((7, 9), 9),
    ],
)
def test_examples_come_from_the_address_that_the_file_names(
    numbers: tuple[int, int],
    asked: int,
    neuronpedia: NeuronpediaServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CIRCUIT_FEATURE_HOSTS", "a.org, 127.0.0.1")
    neuronpedia.answers[f"/model/features/{asked}.json"] = RECORD
    reader = published_lookup(with_address(neuronpedia.url, numbers))
    card = reader.card(FeatureId(1, 9))
    assert card is not None and card.top_tokens() == ("dog",)
    assert (card.promoted, card.suppressed, card.act_max) == ((" bark",), (" meow",), 4.5)
    assert reader.card(FeatureId(1, 8)) is None
    assert neuronpedia.requests[0] == f"/model/features/{asked}.json"
    monkeypatch.setenv("CIRCUIT_OFFLINE", "1")
    assert reader.card(FeatureId(1, 9)) == card


@pytest.mark.parametrize("address", ["http://93.184.216.34", "https://127.0.0.1", "https://[::1]"])
def test_an_address_in_a_private_network_is_not_asked(
    address: str, neuronpedia: NeuronpediaServer
) -> None:
    reader = published_lookup(with_address(address, (7, 9)))
    with pytest.raises(FeatureLookupError, match=r"not encrypted; add .* to CIRCUIT_FEATURE_HOSTS"):
        reader.card(FeatureId(1, 9))


def test_a_redirect_is_not_followed(
    neuronpedia: NeuronpediaServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CIRCUIT_FEATURE_HOSTS", "127.0.0.1")
    neuronpedia.status, neuronpedia.headers = 302, {"Location": f"{neuronpedia.url}/elsewhere"}
    reader = published_lookup(with_address(neuronpedia.url, (7, 9)))
    with pytest.raises(FeatureLookupError, match=r"refused the request for .* \(status 302\)"):
        reader.card(FeatureId(1, 9))
    assert neuronpedia.requests == ["/model/features/9.json"]
