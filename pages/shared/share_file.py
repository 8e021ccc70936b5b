"""A trace as one HTML file: the interactive graph and its feature cards, for any browser, offline.

Nothing in the file comes from anywhere else: plotly.js, the graph's script and all data are inside.
Texts are data, never markup: they are embedded as JSON and written by the script as text.
"""

from __future__ import annotations

import html
import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from charts.flow_figure import COLOURS
from charts.graph_payload import graph_payload
from charts.graph_view import GraphView
from charts.text import token_text
from pages.shared.example_parts import example_parts
from pages.shared.graph_component import PLOTLY_JS, graph_script, graph_style, page_script_part
from pages.shared.supernode_colours import colour_of
from tracer.features.cards import FeatureCard
from tracer.types import FeatureId, NodeId, Supernode

_GROUPS: Final = 2
_EXAMPLES: Final = 4
_TOKENS_AROUND: Final = 12
_WIDTH, _HEIGHT = 980.0, 780.0


def share_html(
    view: GraphView,
    cards: Mapping[FeatureId, FeatureCard],
    supernodes: Sequence[Supernode] = (),
    pinned: Sequence[NodeId] = (),
    title: str = "",
    notes: str = "",
) -> bytes:
    """Return the file, UTF-8. ``cards`` are those of the features that are known."""
    graph = view.pruned.graph
    payload = graph_payload(view.drawing, _WIDTH, _HEIGHT, name=title or "graph", plotly="")
    page = {
        "selected": str(view.selected) if view.selected else None,
        "pinned": [str(node) for node in pinned],
        "groups": [
            {
                "name": group.name,
                "colour": colour_of(group, number),
                "ids": [str(node) for node in group.nodes],
            }
            for number, group in enumerate(supernodes)
        ],
        "colours": COLOURS,
        "notes": notes,
        "next_tokens": [
            [token_text(entry.token), float(f"{entry.probability:.4g}")]
            for entry in graph.next_tokens[:8]
        ],
        "cards": {
            str(node): _card(cards[node.feature])
            for node in (graph.index.node(row) for row in view.rows)
            if node.kind == "feature" and node.feature in cards
        },
    }
    first = token_text(graph.next_tokens[0].token) if graph.next_tokens else ""
    model = str(graph.provenance.get("model") or graph.provenance.get("scan") or "")
    name = title or graph.prompt
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{html.escape(name)}</title>",
        f"<style>{page_script_part('share.css')}\n{page_script_part('examples.css')}\n{graph_style()}",
        "</style></head><body>",
        f"<header><h1>{html.escape(graph.prompt)}</h1>",
        f'<span class="answer">{html.escape(first)}</span>',
        f'<span class="muted">{html.escape(name if title else "")}</span>',
        f'<span class="muted">attribution graph of {html.escape(model)}</span></header>',
        '<main><div id="graph"></div><div id="panel"></div></main>',
        f'<script type="application/json" id="graph-data">{_embedded(payload)}</script>',
        f'<script type="application/json" id="page-data">{_embedded(_json(page))}</script>',
        f"<script>{_script(PLOTLY_JS.read_text(encoding='utf-8'))}</script>",
        f"<script>{_script(graph_script())}\n{_script(page_script_part('share.js'))}</script>",
        "</body></html>",
    ]
    return "\n".join(parts).encode()


def _json(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def _embedded(data: bytes) -> str:
    """Return JSON that is safe in a page: no ``<``, which could end the element it is in."""
    return data.decode().replace("<", "\\u003c")


def _script(text: str) -> str:
    return text.replace("</script", "<\\/script")


def _card(card: FeatureCard) -> dict[str, Any]:
    groups = [group for group in card.groups if group.examples][:_GROUPS]
    largest = max(
        (max(example.activations) for group in groups for example in group.examples), default=0.0
    )
    return {
        "largest": float(card.act_max or largest or 1.0),
        "groups": [
            {
                "name": group.name,
                "examples": [
                    example_parts(example, _TOKENS_AROUND) for example in group.examples[:_EXAMPLES]
                ],
            }
            for group in groups
        ],
        "promoted": [token_text(token) for token in card.promoted[:6]],
        "suppressed": [token_text(token) for token in card.suppressed[:6]],
    }
