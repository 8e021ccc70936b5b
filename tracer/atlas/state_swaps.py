"""Do a few features carry the state? Exchange them for another state's and see the answer change.

The features that carry a state are chosen without ever asking for a capital; exchanging them is
then tested on questions that ask for capitals.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from tracer.atlas.activations import activations, answers
from tracer.atlas.corpus import STATE_TWO_HOP
from tracer.atlas.facts import State, city_splits, states
from tracer.errors import InterventionError
from tracer.interventions.run import run_scenarios
from tracer.interventions.scenario import Edit, Scenario
from tracer.model.model import Model
from tracer.types import FeatureId, Intervention

ActiveFeatures = dict[int, dict[tuple[int, int], float]]
"""Position -> ``(layer, feature)`` -> activation, for every active feature."""
N_PAIRS: Final = 100
SOURCE_SCALE, TARGET_SCALE = -1.0, 2.0
"""Multiples of their activation that the features of the old and of the new state are set to."""
SELECTIVITY: Final = 0.5
CARRIER_RELATIONS: Final = ("abbreviation", "region")
CARRIER_POSITIONS: Final = (-2, -1)
"""The city and the last token of "… containing {city} is"."""
_QUESTION: Final = STATE_TWO_HOP["capital"][0]
_SEED: Final = 77


@dataclass(frozen=True)
class StateCarriers:
    """The features that carry a state, at the city (``-2``) and at the last token (``-1``).

    ``typical[position]`` maps ``(layer, feature)`` to its mean activation over the state's cities.
    """

    typical: dict[int, dict[tuple[int, int], float]]


@torch.no_grad()
def state_carriers(model: Model) -> dict[str, StateCarriers]:
    """Return the features that carry each state, by the state's name.

    They are measured on prompts that ask for the abbreviation and the region of each state's
    trained cities. A feature carries the state at a position if, in *both* relations, its mean
    activation over that state's cities exceeds its mean over all other states by `SELECTIVITY` of
    its largest mean over any state. Features that only name an answer ("say TX") are active in one
    relation only, so they are left out, and so are all that say capitals.
    """
    splits = city_splits()
    chosen = [[city for city in state.cities if splits[city] == "train"] for state in states()]
    means: list[Tensor] = []
    for relation in CARRIER_RELATIONS:
        template = STATE_TWO_HOP[relation][0]
        prompts = [template.format(city=city) for cities in chosen for city in cities]
        positions = (position_of("{city}", template), -1)
        per_city = activations(model, prompts, positions).split([len(c) for c in chosen])
        means.append(torch.stack([cities.mean(0) for cities in per_city]))
    table = torch.stack(means)  # (relations, states, positions, layers, features)
    others = (table.sum(1, keepdim=True) - table) / (table.shape[1] - 1)
    strongest = table.amax(1, keepdim=True)
    selective = ((table - others) > SELECTIVITY * strongest) & (table > 0.02 * table.amax())
    carries, typical = selective.all(0), table.mean(0)
    carriers = {}
    for number, state in enumerate(states()):
        by_position: dict[int, dict[tuple[int, int], float]] = {}
        for place, position in enumerate(CARRIER_POSITIONS):
            by_position[position] = {
                (layer, feature): float(typical[number, place, layer, feature])
                for layer, feature in carries[number, place].nonzero().tolist()
            }
        carriers[state.name] = StateCarriers(by_position)
    return carriers


def position_of(slot: str, template: str) -> int:
    """Return the position of ``slot`` in a template, counted from the end.

    >>> position_of("{city}", "The capital of the state containing {city} is")
    -2
    """
    return -1 - len(template.split(slot)[1].split())


def swap_success(
    model: Model, carriers: dict[str, StateCarriers], n_pairs: int = N_PAIRS
) -> tuple[float, float]:
    """Return how often exchanging the carriers of two states gives the other state's capital.

    ``n_pairs`` random ordered pairs of states are tested, with a prompt that asks for the capital
    of the state containing a city of the first. Its carriers are set to `SOURCE_SCALE` times their
    activation, the second state's to `TARGET_SCALE` times theirs, with attention frozen. The second
    number is the control: the same values at the same positions, given to random other features.
    """
    rng, draw = random.Random(_SEED), random.Random(_SEED + 1)
    pairs: list[tuple[State, State, str, str]] = []
    known = _known_cities(model)
    while len(pairs) < n_pairs:
        source, target = rng.sample(list(states()), 2)
        city, other = rng.choice(source.cities), rng.choice(target.cities)
        if known[city] and known[other]:
            pairs.append((source, target, city, other))
    cities = list(dict.fromkeys(city for pair in pairs for city in pair[2:]))
    active = dict(
        zip(cities, active_features(model, [_QUESTION.format(city=c) for c in cities]), strict=True)
    )
    hits = [0, 0]
    for source, target, city, other in pairs:
        pair = carriers[source.name], carriers[target.name]
        swap = swap_edits(active[city], *pair)
        control = control_edits(model, swap, (active[city], active[other]), pair, draw)
        run = run_scenarios(
            model, _QUESTION.format(city=city), [_scenario(swap), _scenario(control)]
        )
        for number, outcome in enumerate(run.outcomes):
            if isinstance(outcome, InterventionError):
                raise outcome
            hits[number] += outcome.next_tokens[0].token == f" {target.capital}"
    return hits[0] / n_pairs, hits[1] / n_pairs


def _known_cities(model: Model) -> dict[str, bool]:
    """Return whether the model names the right capital, by the city of the question."""
    capitals = {city: state.capital for state in states() for city in state.cities}
    predicted = answers(model, [_QUESTION.format(city=city) for city in capitals])
    return {
        city: model.token_string(token) == f" {capital}"
        for (city, capital), token in zip(capitals.items(), predicted, strict=True)
    }


def active_features(
    model: Model, prompts: Sequence[str], positions: Sequence[int] = CARRIER_POSITIONS
) -> list[ActiveFeatures]:
    """Return the active features of every prompt, by position from its end."""
    return [
        {
            position: {
                (layer, feature): float(at_position[layer, feature])
                for layer, feature in at_position.nonzero().tolist()
            }
            for position, at_position in zip(positions, of_prompt, strict=True)
        }
        for of_prompt in activations(model, prompts, positions)
    ]


def swap_edits(
    present: ActiveFeatures, source: StateCarriers, target: StateCarriers
) -> list[Intervention]:
    """Return the edits that exchange the carriers of ``source`` for those of ``target``."""
    edits: dict[tuple[int, int, int], float] = {}
    for position in CARRIER_POSITIONS:
        for layer, feature in source.typical[position]:
            strength = present[position].get((layer, feature), 0.0)
            if strength > 0:
                edits[layer, position, feature] = SOURCE_SCALE * strength
        for (layer, feature), strength in target.typical[position].items():
            edits[layer, position, feature] = TARGET_SCALE * strength
    return [Intervention(*place, value) for place, value in edits.items()]


def control_edits(
    model: Model,
    edits: Sequence[Intervention],
    active: Sequence[ActiveFeatures],
    carriers: Sequence[StateCarriers],
    rng: random.Random,
) -> list[Intervention]:
    """Return edits with the same values, each at a random feature that carries neither state.

    Features active on the prompts are drawn first, any others when there are too few of them.
    """
    control: list[Intervention] = []
    for position in CARRIER_POSITIONS:
        values = [edit.value for edit in edits if edit.position == position]
        carried = {key for carrier in carriers for key in carrier.typical[position]}
        others = sorted({key for prompt in active for key in prompt[position]} - carried)
        rng.shuffle(others)
        taken = dict.fromkeys(others[: len(values)])
        while len(taken) < len(values):
            layer = rng.randrange(model.n_layers)
            key = layer, rng.randrange(model.transcoders[layer].n_features)
            if key not in carried:
                taken[key] = None
        rng.shuffle(values)
        for (layer, feature), value in zip(taken, values, strict=True):
            control.append(Intervention(layer, position, feature, value))
    return control


def _scenario(edits: Sequence[Intervention]) -> Scenario:
    return Scenario(
        "swap",
        tuple(
            Edit(FeatureId(edit.layer, edit.feature), edit.position, edit.position + 1 or None,
                 "set", edit.value)
            for edit in edits
        ),
    )  # fmt: skip
