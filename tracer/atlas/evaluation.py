"""What atlas can do, and whether its circuits are what they seem: the claims, measured.

Everything runs on the shipped weights through the public API; questions come from the test splits,
which neither training nor tuning looked at.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import torch
from torch import Tensor

from tracer.atlas.circuit_checks import (
    LanguageSwaps,
    TruthFigures,
    language_swaps,
    truth_figures,
)
from tracer.atlas.corpus import OPPOSITE, STATE_TWO_HOP, Sentence, sentences
from tracer.atlas.facts import LANGUAGES, State, city_splits, opposites, states
from tracer.interventions.run import intervene
from tracer.model.model import Model
from tracer.training.replacement import replacement_hooks
from tracer.types import Intervention

Report = Callable[[str], None]
ActiveFeatures = dict[int, dict[tuple[int, int], float]]
"""By position, the activation of every active ``(layer, feature)``."""
N_PAIRS: Final = 100
SOURCE_SCALE, TARGET_SCALE = -1.0, 2.0
"""Carriers of the prompt's state are set to -1x, the other state's to 2x their activation."""
SELECTIVITY: Final = 0.5
CARRIER_RELATIONS: Final = ("abbreviation", "region")
CARRIER_POSITIONS: Final = (-2, -1)
"""The city and the last token of "… containing {city} is"."""
_SWAP_SEED: Final = 77


@dataclass(frozen=True)
class Evaluation:
    """All figures of one transcoder set (accuracies are the model's own, the same for both)."""

    two_hop: float
    two_hop_cities: int
    two_hop_capital: float
    opposites: float
    opposites_questions: int
    sums: float
    sums_questions: int
    active_per_token: float
    unexplained: float
    replacement_keeps_top: float
    swap: float
    swap_control: float
    shared_same_concept: float
    shared_other_concept: float
    languages: LanguageSwaps
    truths: TruthFigures


@torch.no_grad()
def answers(
    model: Model, asked: Sequence[Sentence], hooks: Sequence[tuple[str, Any]] = ()
) -> list[int]:
    """The model's likeliest next token after every prompt, in order."""
    encoded = [model.encode(s.prompt) for s in asked]
    found = [0] * len(asked)
    for length in sorted(set(map(len, encoded))):
        places = [place for place, ids in enumerate(encoded) if len(ids) == length]
        for start in range(0, len(places), 512):
            part = places[start : start + 512]
            ids = torch.tensor([encoded[place] for place in part], device=model.device)
            logits = model.bridge.run_batch(ids, hooks)
            for place, token in zip(part, logits[:, -1].argmax(-1).tolist(), strict=True):
                found[place] = token
    return found


def accuracy(model: Model, asked: Sequence[Sentence]) -> float:
    """Share of prompts whose likeliest next token is the answer."""
    right = [
        found == model.token_id(f" {s.answer}")
        for found, s in zip(answers(model, asked), asked, strict=True)
    ]
    return sum(right) / len(right)


def test_questions() -> dict[str, list[Sentence]]:
    """Questions of the test split, by family."""
    found: dict[str, list[Sentence]] = {"two-hop": [], "opposite": [], "sum": []}
    for sentence in sentences():
        if sentence.split == "test":
            found[sentence.family].append(sentence)
    found["opposite"] = [s for s in found["opposite"] if "across" not in s.tag]
    return found


def replacement_keeps_top(model: Model, asked: Sequence[Sentence]) -> float:
    """Share of prompts whose top token survives when all MLPs are replaced by their features."""
    whole, replaced = answers(model, asked), answers(model, asked, replacement_hooks(model))
    return sum(a == b for a, b in zip(whole, replaced, strict=True)) / len(asked)


@torch.no_grad()
def sparsity(model: Model, asked: Sequence[Sentence]) -> tuple[float, float]:
    """Active features per token over all layers; share of MLP output variance unexplained."""
    count, tokens = 0.0, 0
    missed, total = torch.zeros(model.n_layers), torch.zeros(model.n_layers)
    means: list[Tensor] = []
    layers = range(model.n_layers)
    for sentence in asked:
        ids = torch.tensor(model.encode(sentence.prompt), device=model.device)
        names = [model.read_hook(i) for i in layers] + [model.write_hook(i) for i in layers]
        _, seen = model.bridge.capture(ids, names)
        inputs = [seen[model.read_hook(i)] for i in layers]
        outputs = torch.stack([seen[model.write_hook(i)] for i in layers])[
            :, model.first_position :
        ]
        active = [model.transcoders[i].activations(inputs[i]) for i in layers]
        rebuilt = model.transcoders.reconstructions(active, inputs)[:, model.first_position :]
        count += sum(float((a[model.first_position :] > 0).sum()) for a in active)
        tokens += len(ids) - model.first_position
        missed += (outputs - rebuilt).pow(2).sum((1, 2))
        means.append(outputs)
    every = torch.cat(means, 1)
    total = (every - every.mean(1, keepdim=True)).pow(2).sum((1, 2))
    return count / tokens, float((missed / total).mean())


@dataclass(frozen=True)
class StateCarriers:
    """Features that carry a state, at the city (``-2``) and at the last token (``-1``).

    ``typical[position]`` maps ``(layer, feature)`` to its mean activation over the state's cities.
    """

    typical: dict[int, dict[tuple[int, int], float]]


@torch.no_grad()
def state_carriers(model: Model) -> dict[str, StateCarriers]:
    """Which features carry which state, decided without ever asking for a capital.

    Measured on prompts that ask for the abbreviation and for the region of each state's trained
    cities: a feature carries the state at a position if, in *both* relations, its mean activation
    over that state's cities exceeds its mean over all other states by `SELECTIVITY` of its largest
    mean over any state. Features that merely name an answer ("say TX") fire in one relation only
    and are left out; so is everything that says capitals.
    """
    splits = city_splits()
    chosen = [[city for city in state.cities if splits[city] == "train"] for state in states()]
    means: dict[int, list[Tensor]] = {}
    for relation in CARRIER_RELATIONS:
        template = STATE_TWO_HOP[relation][0]
        per_state = []
        for cities in chosen:
            prompts = [template.format(city=city) for city in cities]
            per_state.append(_mean_activations(model, prompts, _place_of("{city}", template)))
        means[len(means)] = per_state
    carriers = {}
    table = torch.stack([torch.stack(per_state) for per_state in means.values()])
    # table: (relations, states, positions, layers, features)
    others = (table.sum(1, keepdim=True) - table) / (table.shape[1] - 1)
    strongest = table.amax(1, keepdim=True)
    selective = ((table - others) > SELECTIVITY * strongest) & (table > 0.02 * table.amax())
    carries = selective.all(0)
    typical = table.mean(0)
    for number, state in enumerate(states()):
        found: dict[int, dict[tuple[int, int], float]] = {}
        for place, position in enumerate(CARRIER_POSITIONS):
            where = carries[number, place].nonzero().tolist()
            found[position] = {
                (layer, feature): float(typical[number, place, layer, feature])
                for layer, feature in where
            }
        carriers[state.name] = StateCarriers(found)
    return carriers


def _place_of(slot: str, template: str) -> int:
    """Where the name in ``slot`` stands in a prompt, as a negative position."""
    return -1 - len(template.split(slot)[1].split())


def _mean_activations(model: Model, prompts: Sequence[str], city: int) -> Tensor:
    """``(2, layers, features)``: mean at the city and at the last token."""
    total: Tensor | None = None
    for prompt in prompts:
        ids = torch.tensor(model.encode(prompt), device=model.device)
        names = [model.read_hook(layer) for layer in range(model.n_layers)]
        _, seen = model.bridge.capture(ids, names)
        active = torch.stack(
            [
                model.transcoders[layer].activations(seen[name][[city, -1]])
                for layer, name in enumerate(names)
            ],
            dim=1,
        )
        total = active if total is None else total + active
    assert total is not None
    return total / len(prompts)


def swap_success(
    model: Model, carriers: dict[str, StateCarriers], control: bool = False, n_pairs: int = N_PAIRS
) -> float:
    """How often exchanging the carriers of one state for another's gives the other's capital.

    ``n_pairs`` random ordered pairs of states; the prompt asks for the capital of the state
    containing a city of the first. Its carriers are set to `SOURCE_SCALE` times their activation,
    the second state's to `TARGET_SCALE` times theirs, attention frozen. The ``control`` gives the
    very same values at the same positions to as many random other features.
    """
    rng, draw = random.Random(_SWAP_SEED), random.Random(_SWAP_SEED + 1)
    hits = asked = 0
    template = STATE_TWO_HOP["capital"][0]
    while asked < n_pairs:
        source, target = rng.sample(list(states()), 2)
        prompt = template.format(city=rng.choice(source.cities))
        other = template.format(city=rng.choice(target.cities))
        if not (_says(model, prompt, source) and _says(model, other, target)):
            continue
        present = _active(model, prompt)
        pair = carriers[source.name], carriers[target.name]
        edits = _swap_edits(present, *pair)
        if control:
            edits = _control_edits(model, edits, (present, _active(model, other)), pair, draw)
        result = intervene(model, prompt, edits, freeze_attention=True)
        hits += result.edited[0].token == f" {target.capital}"
        asked += 1
    return hits / asked


def _says(model: Model, prompt: str, state: State) -> bool:
    ids = torch.tensor(model.encode(prompt), device=model.device)
    return model.token_string(int(model.bridge.run(ids)[-1].argmax())) == f" {state.capital}"


def _swap_edits(
    present: ActiveFeatures, source: StateCarriers, target: StateCarriers
) -> list[Intervention]:
    edits: dict[tuple[int, int, int], float] = {}
    for position in CARRIER_POSITIONS:
        for layer, feature in source.typical[position]:
            strength = present[position].get((layer, feature), 0.0)
            if strength > 0:
                edits[layer, position, feature] = SOURCE_SCALE * strength
        for (layer, feature), strength in target.typical[position].items():
            edits[layer, position, feature] = TARGET_SCALE * strength
    return [Intervention(*place, value) for place, value in edits.items()]


def _control_edits(
    model: Model,
    edits: Sequence[Intervention],
    active: Sequence[ActiveFeatures],
    carriers: Sequence[StateCarriers],
    rng: random.Random,
) -> list[Intervention]:
    """The values of ``edits``, each given to a random feature that carries neither state.

    Features active on the two prompts come first; where they are too few, any feature will do.
    """
    control: list[Intervention] = []
    for position in CARRIER_POSITIONS:
        values = [edit.value for edit in edits if edit.position == position]
        carried = {key for carrier in carriers for key in carrier.typical[position]}
        strangers = sorted({key for prompt in active for key in prompt[position]} - carried)
        rng.shuffle(strangers)
        taken = dict.fromkeys(strangers[: len(values)])
        while len(taken) < len(values):
            layer = rng.randrange(model.n_layers)
            key = layer, rng.randrange(model.transcoders[layer].n_features)
            if key not in carried:
                taken[key] = None
        rng.shuffle(values)
        for (layer, feature), value in zip(taken, values, strict=True):
            control.append(Intervention(layer, position, feature, value))
    return control


def _active(
    model: Model, prompt: str, positions: Sequence[int] = CARRIER_POSITIONS
) -> ActiveFeatures:
    """Active features ``(layer, feature)`` of a prompt, by position from its end."""
    ids = torch.tensor(model.encode(prompt), device=model.device)
    names = [model.read_hook(layer) for layer in range(model.n_layers)]
    _, seen = model.bridge.capture(ids, names)
    found: ActiveFeatures = {}
    for position in positions:
        found[position] = {}
        for layer, name in enumerate(names):
            active = model.transcoders[layer].activations(seen[name][[position]])[0]
            for feature in active.nonzero()[:, 0].tolist():
                found[position][layer, feature] = float(active[feature])
    return found


def shared_features(model: Model) -> tuple[float, float]:
    """Overlap of the features that fire at a word whose opposite is asked for.

    Mean Jaccard index (shared over all, of active features at the word) of one concept in two
    languages, and of two concepts in one language: the first is large and the second small if
    features stand for concepts rather than for words.
    """
    active: dict[tuple[int, int], set[tuple[int, int]]] = {}
    for pair, both in enumerate(opposites()):
        for language, word in enumerate(both.left):
            template = OPPOSITE[language][0]
            where = _place_of("{word}", template)
            found = _active(model, template.format(word=word), (where,))
            active[pair, language] = set(found[where])
    same, other = [], []
    for pair, language in active:
        for further in range(language + 1, len(LANGUAGES)):
            same.append(_jaccard(active[pair, language], active[pair, further]))
        following = ((pair + 1) % len(opposites()), language)
        other.append(_jaccard(active[pair, language], active[following]))
    return sum(same) / len(same), sum(other) / len(other)


def _jaccard(left: set[tuple[int, int]], right: set[tuple[int, int]]) -> float:
    return len(left & right) / max(1, len(left | right))


def evaluate(model: Model, report: Report) -> Evaluation:
    """Measure everything; a few seconds per set on two CPU cores."""
    questions = test_questions()
    two_hop, opposite, sums = questions["two-hop"], questions["opposite"], questions["sum"]
    capital = [s for s in two_hop if s.tag == "state-capital"]
    cities = {city for city, split in city_splits().items() if split == "test"}
    rng = random.Random(3)
    sample = rng.sample([*two_hop, *opposite, *sums], 400)
    report("replacement")
    active, unexplained = sparsity(model, sample)
    keeps = replacement_keeps_top(model, sample)
    report("swapping states and languages, checking graphs")
    carriers = state_carriers(model)
    same, other = shared_features(model)
    return Evaluation(
        two_hop=accuracy(model, two_hop),
        two_hop_cities=len(cities),
        two_hop_capital=accuracy(model, capital),
        opposites=accuracy(model, opposite),
        opposites_questions=len(opposite),
        sums=accuracy(model, sums),
        sums_questions=len(sums),
        active_per_token=active,
        unexplained=unexplained,
        replacement_keeps_top=keeps,
        swap=swap_success(model, carriers),
        swap_control=swap_success(model, carriers, control=True),
        shared_same_concept=same,
        shared_other_concept=other,
        languages=language_swaps(model),
        truths=truth_figures(model),
    )


def as_dict(evaluation: Evaluation) -> dict[str, float]:
    """All figures by name, the nested ones among them."""
    found = asdict(evaluation)
    truths = found.pop("truths")
    by_prompt = {f"truth: {title}": value for title, value in truths.pop("truth").items()}
    return {**found.pop("languages"), **found, **by_prompt, **truths}
