"""Time from a prompt to its graph for 50 English prompts that are in none of the books.

    python benchmarks/novels_prompts.py [--set per-layer] [--threads 2]

Every prompt goes through the store, as in the app: trace, save, prune. The model is loaded first.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT)]

PROMPTS = (
    "The bus was late again, so I walked to",
    "My phone fell into the",
    "She posted a photo of her",
    "The new restaurant on the corner serves",
    "We watched the rocket climb into the",
    "He forgot his password for the third",
    "The electrician said that the",
    "My daughter wants to be an astronaut when she",
    "After the football match, the fans went",
    "The report was due on Friday, but",
    "If it rains tomorrow, we will",
    "The cat knocked the laptop off the",
    "There are three reasons why I",
    "The scientists found a new kind of",
    "Please send me the file before",
    "He microwaved his soup and ate it in the",
    "The train to Berlin leaves at",
    "Our neighbours adopted a puppy and named",
    "I have never been to Japan, but I",
    "The traffic on the motorway was",
    "She downloaded the app and opened",
    "The museum is closed on",
    "My brother plays the guitar in a",
    "The recipe needs two eggs and a cup of",
    "Nobody answered the telephone when I",
    "The meeting was cancelled because the manager",
    "In the film, the robot falls in",
    "The coffee machine is broken, so",
    "He took a taxi from the airport to the",
    "The students were tired, and the teacher",
    "Last summer we drove across",
    "The software update took more than",
    "I think that the best part of the holiday was",
    "The garden was full of",
    "She bought a second-hand bicycle and rode it to",
    "The wind blew the umbrella out of his",
    "The dentist told him to brush his",
    "They built a small house by the",
    "A police officer stopped the car and asked",
    "The email ended with the words",
    "He was the first person in his family to",
    "The battery lasts for about ten",
    "It was so cold that the pipes",
    "The children drew a picture of their",
    "You should drink more water and",
    "The plane landed safely in the middle of the",
    "The old cinema has been turned into a",
    "My grandmother still writes letters by",
    "The lights went out and everybody began to",
    "On the way home I saw a fox in the",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--set", choices=("per-layer", "cross-layer"), default="per-layer")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    import torch

    import tracer
    from cache import ModelChoice, TraceRequest, open_backend

    torch.set_num_threads(options.threads)
    choice = ModelChoice("novels", options.set)
    with tempfile.TemporaryDirectory() as folder:
        backend = open_backend(Path(folder) / "store")
        backend.trace(TraceRequest("A first prompt loads the model", choice)).result(120)
        seconds = []
        for prompt in PROMPTS:
            started = time.perf_counter()
            pruned = tracer.prune(backend.trace(TraceRequest(prompt, choice)).result(60))
            seconds.append(time.perf_counter() - started)
            n_tokens, n_features = len(pruned.graph.tokens), pruned.graph.index.n_features
            print(f"{seconds[-1]:6.2f} s  {n_tokens:2d} tokens  {n_features:4d} features  {prompt}")
        backend.close()
    print(
        f"{len(seconds)} prompts, {options.set}, {options.threads} threads: median "
        f"{statistics.median(seconds):.2f} s, largest {max(seconds):.2f} s"
    )


if __name__ == "__main__":
    main()
