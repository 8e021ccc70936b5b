"""An index whose shards run elsewhere has the bytes of one that a single process builds."""

from __future__ import annotations

import copy
import gzip
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from observed import CONTEXT, documents, file_bytes, new_windows, read_index, save_text
from pytest import MonkeyPatch

from tracer.__main__ import main
from tracer.cluster import WorkerLost
from tracer.errors import Cancelled, ModelError, TracerError
from tracer.indexing import IndexSummary, build_index
from tracer.indexing.gather import Arrays, Gatherer
from tracer.indexing.plan import TokenBatch
from tracer.indexing.shards import ATTEMPTS, ShardSetup, model_identity
from tracer.model.model import Model

TEXTS = documents(40)
OPTIONS: dict[str, Any] = {"context": CONTEXT, "batch_tokens": 60, "shard_tokens": 90}
N_WORKERS = 3


class NearWorkers:
    """Workers in this process, of which any call can fail. The last one in use answers first."""

    def __init__(self, model: Model, fails: Callable[[str, int], bool] = lambda *_: False) -> None:
        """``fails(what, number)`` says whether the worker is lost in its call ``number``."""
        self.model, self.fails = model, fails
        self.calls: dict[str, int] = {}
        self.open: list[NearWorker] = []
        self.sizes: list[int] = []
        self.first_windows: list[int] = []
        self.count = N_WORKERS

    def start(self, setup: ShardSetup) -> NearWorker:
        self.lose("start")
        assert setup.identity == model_identity(self.model)
        self.open.append(NearWorker(self, setup))
        assert len(self.open) <= self.count
        return self.open[-1]

    def lose(self, what: str) -> None:
        self.calls[what] = self.calls.get(what, 0) + 1
        if self.fails(what, self.calls[what]):
            raise WorkerLost("the machine is gone")


class NearWorker:
    def __init__(self, workers: NearWorkers, setup: ShardSetup) -> None:
        self.workers, self.setup = workers, setup
        self.batches: tuple[TokenBatch, ...] | None = None

    def submit(self, batches: tuple[TokenBatch, ...]) -> None:
        self.workers.lose("submit")
        assert self.batches is None, "one shard at a time"
        self.batches = copy.deepcopy(batches)
        self.workers.sizes.append(sum(batch.n_tokens for batch in batches))
        self.workers.first_windows.append(batches[0].first_window)

    def progress(self) -> int:
        self.workers.lose("progress")
        return 1

    def finished(self, timeout: float) -> Callable[[], Arrays] | None:
        self.workers.lose("finished")
        assert self.batches is not None
        busy = [worker for worker in self.workers.open if worker.batches is not None]
        if busy[-1] is not self:
            return None
        model, setup = self.workers.model, self.setup
        promoted = [torch.tensor(tokens) for tokens in setup.promoted]
        gatherer = Gatherer(model, promoted, setup.n_tags, setup.context)
        for batch in self.batches:
            gatherer.add(batch)
        self.batches = None
        arrays = {name: tensor.numpy() for name, tensor in gatherer.tensors().items()}

        def fetch() -> Arrays:
            self.workers.lose("fetch")
            return arrays

        return fetch

    def close(self) -> None:
        self.workers.open.remove(self)
        self.workers.lose("close")


class Alone(NamedTuple):
    """What one process builds."""

    summary: IndexSummary
    files: dict[str, bytes]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_text(tmp_path_factory.mktemp("corpus") / "texts.txt", TEXTS)


@pytest.fixture(scope="module")
def alone(
    open_tiny: Callable[..., Model], corpus: Path, tmp_path_factory: pytest.TempPathFactory
) -> Alone:
    folder = tmp_path_factory.mktemp("alone") / "features"
    summary = build_index(open_tiny(), corpus, folder, **OPTIONS)
    return Alone(summary, file_bytes(folder))


def tagged(path: Path) -> Path:
    rows = [
        {"text": text, "tags": [[word] * (word[-1] in "02468") for word in words]}
        for text in TEXTS
        if (words := text.split())
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize(
    ("kind", "activation"), [("transcoder_set", "jumprelu"), ("cross_layer_transcoder", "topk")]
)
@pytest.mark.parametrize("with_tags", [False, True])
def test_shards_merge_to_the_bytes_of_one_process(
    open_tiny: Callable[..., Model], tmp_path: Path, kind: str, activation: str, with_tags: bool
) -> None:
    model = open_tiny("gpt2", kind=kind, activation=activation)
    corpus = tagged(tmp_path / "t.jsonl") if with_tags else save_text(tmp_path / "t.txt", TEXTS)
    alone = build_index(model, corpus, tmp_path / "alone", **OPTIONS)
    workers = NearWorkers(model)
    reports: list[tuple[int, int]] = []
    shared = build_index(
        model,
        corpus,
        tmp_path / "shared",
        workers=workers,
        progress=lambda done, total, what: reports.append((done, total)),
        **OPTIONS,
    )
    assert shared == alone
    assert file_bytes(tmp_path / "shared") == file_bytes(tmp_path / "alone")
    assert len(workers.sizes) > 2 * N_WORKERS and min(workers.sizes[:-1]) > 30
    assert not workers.open, "all were closed"
    assert all(0 <= done <= total for done, total in reports)


@pytest.fixture
def ended(monkeypatch: MonkeyPatch) -> list[dict[str, torch.Tensor]]:
    """Collects the statistics of every build, as they are when its index is written."""
    statistics: list[dict[str, torch.Tensor]] = []
    write = sys.modules["tracer.indexing.build"]._Build.write

    def watch(self: Any, *args: Any) -> Any:
        statistics.append({name: t.clone() for name, t in self._gatherer.tensors().items()})
        return write(self, *args)

    monkeypatch.setattr("tracer.indexing.build._Build.write", watch)
    return statistics


def test_sources_labels_and_counts_of_both_halves_of_the_text_merge(
    model: Model, tmp_path: Path, ended: list[dict[str, torch.Tensor]]
) -> None:
    """Even and odd windows are those of the corpus, wherever a shard begins."""
    texts = documents(60, words=8, longest=12)
    rows = [{"text": text, "title": f"Book {n // 5}"} for n, text in enumerate(texts)]
    corpus = tmp_path / "texts.jsonl"
    corpus.write_text("".join(json.dumps(row) + "\n" for row in rows))

    def build(folder: str, workers: NearWorkers | None = None) -> dict[str, bytes]:
        build_index(model, corpus, tmp_path / folder, workers=workers, **OPTIONS)
        return file_bytes(tmp_path / folder)

    workers = NearWorkers(model, lambda call, number: call == "fetch" and number == 2)
    alone, shared = build("alone"), build("shared", workers)
    assert shared == alone
    assert {first % 2 for first in workers.first_windows} == {0, 1}

    expected = torch.zeros(3, model.vocab_size, dtype=torch.int64)
    for number, (ids, new) in enumerate(new_windows(model, texts)):
        likeliest = model.bridge.capture(torch.tensor(ids), ())[0].argmax(-1).tolist()
        for position in new:
            expected[number % 2, ids[position]] += 1
            expected[2, likeliest[position]] += 1
    for statistics in ended:
        assert torch.equal(statistics["occurrences"], expected)
    assert len(ended) == 2 and any(t.any() for n, t in ended[0].items() if "predicted_c" in n)

    layers = json.loads(gzip.decompress(shared["labels.json.gz"])).values()
    labels = [label for by_feature in layers for label in by_feature.values()]
    assert {label["label"].startswith("say ") for label in labels} == {False, True}
    assert all("recall" in label for label in labels)
    index = read_index(tmp_path / "shared")
    groups = [g for layer in index for record in layer for g in record["examples_quantiles"]]
    sources = {example["source"] for group in groups for example in group["examples"]}
    assert len(sources) > 5


def test_the_statistics_themselves_are_equal_to_the_last_bit(
    model: Model, corpus: Path, tmp_path: Path, ended: list[dict[str, torch.Tensor]]
) -> None:
    """The files round the sums; the sums are compared before that."""
    build_index(model, corpus, tmp_path / "alone", **OPTIONS)
    build_index(model, corpus, tmp_path / "shared", workers=NearWorkers(model), **OPTIONS)
    build_index(model, corpus, tmp_path / "one", **{**OPTIONS, "shard_tokens": 10**6})
    alone, shared, one = ended
    assert alone.keys() == shared.keys()
    for name, tensor in alone.items():
        assert torch.equal(tensor.view(torch.int32), shared[name].view(torch.int32)), name
    sums = [name for name in alone if name.endswith(".totals.low")]
    assert any(not torch.equal(alone[name], one[name]) for name in sums), "the order matters"
    assert not any(tensor.any() for name, tensor in alone.items() if ".shard_" in name)


@pytest.mark.parametrize("what", ["start", "submit", "progress", "finished", "fetch", "close"])
def test_a_lost_worker_loses_nothing(
    model: Model, corpus: Path, tmp_path: Path, alone: Alone, what: str
) -> None:
    workers = NearWorkers(model, lambda call, number: call == what and number in (2, 3))
    folder = tmp_path / "shared"
    assert build_index(model, corpus, folder, workers=workers, **OPTIONS) == alone.summary
    assert file_bytes(folder) == alone.files
    assert workers.calls[what] > 2 and not workers.open


class DyingWorkers(NearWorkers):
    """The first one dies in its second shard: it answers at once, and every answer is lost."""

    def start(self, setup: ShardSetup) -> NearWorker:
        worker = super().start(setup)
        if self.calls["start"] == 1:
            self.kill_in_its_second_shard(worker)
        return worker

    def kill_in_its_second_shard(self, worker: NearWorker) -> None:
        submit, self.given = worker.submit, 0

        def gone() -> Arrays:
            raise WorkerLost("the process has ended")

        def submit_and_die(batches: tuple[TokenBatch, ...]) -> None:
            self.given += 1
            if self.given == 1:
                submit(batches)
            else:
                worker.finished = lambda timeout: gone  # type: ignore[method-assign]

        worker.submit = submit_and_die  # type: ignore[method-assign]


def test_a_dead_worker_gets_no_other_shard_when_its_death_shows_in_an_answer(
    model: Model, corpus: Path, tmp_path: Path, alone: Alone
) -> None:
    workers, folder = DyingWorkers(model), tmp_path / "shared"
    assert build_index(model, corpus, folder, workers=workers, **OPTIONS) == alone.summary
    assert file_bytes(folder) == alone.files
    assert workers.calls["start"] > N_WORKERS, "another one took its place"
    assert not workers.open


def test_workers_that_are_always_lost_end_the_build_and_what_is_merged_is_kept(
    model: Model, corpus: Path, tmp_path: Path, alone: Alone
) -> None:
    workers = NearWorkers(model, lambda call, number: call == "submit" and number > 5)
    with pytest.raises(TracerError, match=f"not indexed: {ATTEMPTS} workers were lost while"):
        build_index(
            model,
            corpus,
            tmp_path / "features",
            workers=workers,
            checkpoint_tokens=1,
            **OPTIONS,
        )
    assert not workers.open and workers.calls["fetch"] >= 1
    reports: list[int] = []
    resumed = build_index(
        model,
        corpus,
        tmp_path / "features",
        progress=lambda done, total, what: reports.append(done),
        **OPTIONS,
    )
    assert reports[0] > 80, "it resumed after the merged shards"
    assert resumed == alone.summary
    assert file_bytes(tmp_path / "features") == alone.files


@pytest.mark.parametrize("here_first", [True, False])
def test_a_build_stopped_in_one_way_resumes_in_the_other(
    model: Model, corpus: Path, tmp_path: Path, alone: Alone, here_first: bool
) -> None:
    """In the middle of a shard, too: this process ends it, and hands out the others."""

    def build(folder: str, here: bool, progress: Any = None) -> None:
        build_index(
            model,
            corpus,
            tmp_path / folder,
            checkpoint_tokens=120,
            workers=None if here else NearWorkers(model),
            progress=progress,
            **OPTIONS,
        )

    def stop(done: int, total: int, what: str) -> None:
        if done > 200 and (tmp_path / "features.partial" / "checkpoint.json").is_file():
            raise Cancelled("enough")

    with pytest.raises(Cancelled):
        build("features", here_first, stop)
    build("features", not here_first)
    assert file_bytes(tmp_path / "features") == alone.files


def test_an_error_of_a_shard_ends_the_build(
    model: Model, corpus: Path, tmp_path: Path, monkeypatch: MonkeyPatch
) -> None:
    def damaged(*_: Any) -> None:
        raise ModelError("the weights are damaged")

    workers = NearWorkers(model)
    monkeypatch.setattr(Gatherer, "add", damaged)
    with pytest.raises(ModelError, match="the weights are damaged"):
        build_index(model, corpus, tmp_path / "features", workers=workers, **OPTIONS)
    assert not workers.open


def test_a_build_with_other_shards_is_not_resumed(
    model: Model, corpus: Path, tmp_path: Path
) -> None:
    def stop(done: int, total: int, what: str) -> None:
        if done > 200:
            raise Cancelled("enough")

    def build(**more: Any) -> None:
        build_index(model, corpus, tmp_path / "f", **{**OPTIONS, "checkpoint_tokens": 50, **more})

    with pytest.raises(Cancelled):
        build(progress=stop)
    with pytest.raises(TracerError, match="an unfinished index with another shard_tokens"):
        build(shard_tokens=300)


@pytest.mark.parametrize("by_variable", [False, True])
def test_a_missing_ray_is_one_sentence(
    tmp_path: Path,
    corpus: Path,
    monkeypatch: MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    by_variable: bool,
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    command = ["index", "--corpus", str(corpus), "--output", str(tmp_path / "features")]
    if by_variable:
        monkeypatch.setenv("CIRCUIT_RAY", "local")
    else:
        command += ["--ray", "local"]
    assert main(command) == 2
    error = capsys.readouterr().err
    assert "Ray is not installed: pip install -r requirements-ray.txt" in error
    assert "Traceback" not in error and len(error.strip().splitlines()) == 1


def test_the_command_hands_the_workers_what_it_opens_itself(
    model: Model, corpus: Path, tmp_path: Path, monkeypatch: MonkeyPatch
) -> None:
    asked: list[tuple[Any, ...]] = []
    near = NearWorkers(model)

    def workers(address: str, name: str, transcoders: str | None, **options: Any) -> NearWorkers:
        asked.append((address, name, transcoders, options["dtype"]))
        return near

    monkeypatch.setattr("tracer.indexing.ray_shards.RayShards", workers)
    monkeypatch.chdir(model.source.model_folder.parent)
    folders = model.source.model_folder, model.source.transcoder_folder
    command = ["index", "--model", folders[0].name, "--transcoders", str(folders[1])]
    command += ["--corpus", str(corpus), "--context", str(CONTEXT), "--device", "cpu"]
    assert main([*command, "--output", str(tmp_path / "shared"), "--ray", "auto"]) == 0
    assert asked == [("auto", str(folders[0]), str(folders[1]), "float32")]
    assert len(near.sizes) == 1, "the corpus is smaller than a shard"
    assert main([*command, "--output", str(tmp_path / "alone")]) == 0
    assert file_bytes(tmp_path / "shared") == file_bytes(tmp_path / "alone") and len(asked) == 1
