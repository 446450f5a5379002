"""Batches in flight on a GPU: each gets its own features though buffers go round, an error fails its batch alone."""

from __future__ import annotations

import gc
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue

import numpy as np
import pytest
import torch
from measured_figures import Figure
from numpy.typing import NDArray
from torch import Tensor, nn
from wsipipe.data.errors import SurroundingsError
from wsipipe.models.backbones.backbone import Backbone, Embedder, Precision, find_backbone, ready
from wsipipe.models.backbones.weights import Weights
from wsipipe.stages.extract.embed_threads import CudaStreams, EmbedThreads, PlainThreads, embed_threads
from wsipipe.stages.extract.feed_batch import Batch

pytestmark = pytest.mark.gpu

SIZE, RING = 16, 4
SECONDS = 60.0
"""Until a batch that does not come fails the test."""


@pytest.fixture(scope="module", params=["fp32", "bf16"])
def embedder(request: pytest.FixtureRequest, device: torch.device) -> Embedder:
    return vit(device, request.param)


def vit(device: torch.device, precision: Precision, name: str = "vit_tiny_patch16_224") -> Embedder:
    backbone = find_backbone(name)
    torch.manual_seed(0)
    return ready(backbone, backbone.build("cpu"), Weights(Path("none"), "random"), device=device, precision=precision)


def mean_colours(device: torch.device, number: int = -1, error: Exception | None = None) -> Embedder:
    """A network that costs nothing, and fails at its call of that number, counted from 0 after it was made ready."""

    class Network(nn.Module):
        calls = -2

        def forward(self, pixels: Tensor) -> Tensor:
            self.calls += 1
            if error is not None and self.calls == number:
                raise error
            return pixels.mean((2, 3))

    backbone = Backbone(
        name="x",
        architecture="x",
        source="made here",
        interpolation="bicubic",
        pooling="pooled",
        resize=32,
        mean=(0.5,) * 3,
        std=(0.25,) * 3,
    )
    return ready(backbone, Network(), Weights(Path("none"), "random"), device=device, precision="fp32")


@contextmanager
def threads_of(
    embedder: Embedder, profile: Path | None = None, *, graphs: bool = True
) -> Iterator[tuple[EmbedThreads, SimpleQueue[Batch]]]:
    """The embedding threads of its device, and the queue on which batches come back."""
    back: SimpleQueue[Batch] = SimpleQueue()
    ended: list[Exception] = []
    threads = embed_threads(embedder, back.put, ended.append, cores=2, profile=profile, graphs=graphs)
    try:
        yield threads, back
    finally:
        threads.close()
    assert not ended


def pixels(number: int, side: int) -> NDArray[np.uint8]:
    return np.random.default_rng(number).integers(0, 256, (SIZE, side, side, 3), np.uint8)


def filled(batch: Batch, number: int) -> Batch:
    batch.begin(number)
    batch.pixels[:] = pixels(number, batch.side)
    batch.decoded[:] = True
    return batch


def new(embedder: Embedder, side: int = 224) -> Batch:
    return Batch(SIZE, side, pinned=embedder.device.type == "cuda")


def features_of(batch: Batch) -> NDArray[np.float32]:
    assert batch.error is None
    assert batch.features is not None
    return batch.features


def test_the_device_has_its_threads(embedder: Embedder) -> None:
    with threads_of(embedder) as (threads, _):
        assert isinstance(threads, CudaStreams if embedder.device.type == "cuda" else PlainThreads)


@pytest.mark.parametrize("sides", [(224,), (224, 112)], ids=["one shape", "two shapes"])
def test_each_batch_gets_its_own_features_though_buffers_go_round(embedder: Embedder, sides: tuple[int, ...]) -> None:
    """A buffer is filled anew the moment it comes back, as by threads that decode faster than the GPU computes."""
    count = 40 if embedder.device.type == "cuda" else 8
    found: dict[int, tuple[int, NDArray[np.float32]]] = {}
    with threads_of(embedder) as (threads, back):
        for number in range(min(RING, count)):
            threads.submit(filled(new(embedder, sides[number % len(sides)]), number))
        for number in range(RING, count + RING):
            batch = back.get(timeout=SECONDS)
            found[batch.number] = batch.side, features_of(batch)
            if number < count:
                threads.submit(filled(batch, number))
    assert threads.busy > 0
    assert found.keys() == set(range(count))
    for number, (side, features) in found.items():
        assert np.array_equal(features, embedder(torch.from_numpy(pixels(number, side))).cpu().numpy())


def test_an_error_fails_its_batch_and_the_others_go_on(device: torch.device) -> None:
    embedder = mean_colours(device, 3, ValueError("of this batch"))
    with threads_of(embedder, graphs=False) as (threads, back):
        batches = []
        for number in range(8):  # one after the other, so that it is known which is the third
            threads.submit(filled(new(embedder, 32), number))
            batches.append(back.get(timeout=SECONDS))
    assert [batch.number for batch in batches if batch.error is not None] == [3]
    assert "of this batch" in str(batches[3].error)
    for batch in batches[:3] + batches[4:]:
        expected = embedder(torch.from_numpy(pixels(batch.number, 32))).cpu().numpy()
        assert np.array_equal(features_of(batch), expected)


def test_kernels_are_launched_together_with_the_same_bits(gpu: torch.device, embedder: Embedder) -> None:
    found: list[list[NDArray[np.float32]]] = []
    for graphs in (True, False):
        with threads_of(embedder, graphs=graphs) as (threads, back):
            found.append([])
            for number in range(5):
                threads.submit(filled(new(embedder), number))
                found[-1].append(features_of(back.get(timeout=SECONDS)))
        assert threads.pieces.recorded == graphs
    assert all(np.array_equal(one, other) for one, other in zip(*found, strict=True))


def test_a_network_that_cannot_be_recorded_is_computed_as_before(gpu: torch.device) -> None:
    """It looks at its own numbers, for which the CPU waits."""

    class Network(nn.Module):
        def forward(self, pixels: Tensor) -> Tensor:
            return pixels.mean((2, 3)) * (1.0 if pixels.sum().item() else 0.0)

    backbone = Backbone(
        name="x",
        architecture="x",
        source="made here",
        interpolation="bicubic",
        pooling="pooled",
        resize=32,
        mean=(0.5,) * 3,
        std=(0.25,) * 3,
    )
    embedder = ready(backbone, Network(), Weights(Path("none"), "random"), device=gpu, precision="fp32")
    with threads_of(embedder) as (threads, back):
        for number in range(5):
            threads.submit(filled(new(embedder, 32), number))
            wanted = embedder(torch.from_numpy(pixels(number, 32))).cpu().numpy()
            assert np.array_equal(features_of(back.get(timeout=SECONDS)), wanted)
    assert not threads.pieces.recorded


def test_memory_that_processes_share_is_pinned_and_copied_from(gpu: torch.device) -> None:
    embedder = mean_colours(gpu)
    batch = Batch(SIZE, 32, pinned=True, shared=True)
    assert batch.tiles.is_pinned()
    with threads_of(embedder) as (threads, back):
        for number in range(4):
            threads.submit(filled(batch, number))
            wanted = embedder(torch.from_numpy(pixels(number, 32))).cpu().numpy()
            assert np.array_equal(features_of(back.get(timeout=SECONDS)), wanted)


@pytest.mark.parametrize("said", ["CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED"])
def test_want_of_memory_is_answered_with_halves(device: torch.device, said: str) -> None:
    embedder = mean_colours(device, 0, RuntimeError(said))
    with threads_of(embedder) as (threads, back):
        threads.submit(filled(new(embedder, 32), 0))
        features = features_of(back.get(timeout=SECONDS))
    assert threads.pieces.size == SIZE // 2
    np.testing.assert_allclose(features, embedder(torch.from_numpy(pixels(0, 32))).cpu().numpy(), atol=1e-5)


def test_a_batch_that_does_not_fit_the_memory_is_halved(gpu: torch.device, figure: Figure) -> None:
    """The process may take so little of the GPU that the whole batch does not fit."""
    embedder = vit(gpu, "bf16", "vit_base_patch16_224")
    wanted = embedder(torch.from_numpy(pixels(0, 224))).cpu().numpy()
    many = torch.from_numpy(np.concatenate([pixels(number, 224) for number in range(32)]))
    gc.collect()
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(gpu).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved(gpu) + 600 * 2**20) / total, gpu)
    try:
        batch = Batch(len(many), 224, pinned=True)
        batch.tiles.copy_(many)
        batch.decoded[:] = True
        with threads_of(embedder) as (threads, back):
            threads.submit(batch)
            features = features_of(back.get(timeout=SECONDS))
            threads.submit(batch)
            again = features_of(back.get(timeout=SECONDS))
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, gpu)
    size = threads.pieces.size
    figure("a batch that does not fit", tiles=len(many), computed_at_a_time=size or len(many))
    assert size is not None
    assert size < len(many)
    assert np.array_equal(features, again)
    cosine = (
        (features[:SIZE] * wanted).sum(1) / np.linalg.norm(features[:SIZE], axis=1) / np.linalg.norm(wanted, axis=1)
    )
    assert cosine.min() > 0.999


def test_a_profile_shows_the_devices_kernels(device: torch.device, tmp_path: Path) -> None:
    embedder = mean_colours(device)
    with threads_of(embedder, tmp_path / "trace.json") as (threads, back):
        batch = new(embedder, 32)
        for number in range(25):
            threads.submit(filled(batch, number))
            back.get(timeout=SECONDS)
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    wanted = "kernel" if device.type == "cuda" else "cpu_op"
    assert any(event.get("cat") == wanted for event in events)


def test_a_profile_that_cannot_be_written_ends_the_thread(device: torch.device, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    failed: SimpleQueue[Exception] = SimpleQueue()
    embedder = mean_colours(device)
    threads = embed_threads(embedder, lambda _: None, failed.put, cores=1, profile=tmp_path / "file" / "trace.json")
    assert isinstance(failed.get(timeout=SECONDS), SurroundingsError)
    threads.close()


def test_the_second_gpu_takes_no_memory_of_the_first(gpu: torch.device) -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("there is one GPU here")
    before = torch.cuda.mem_get_info(0)[0]
    embedder = vit(torch.device("cuda:1"), "bf16")
    with threads_of(embedder) as (threads, back):
        threads.submit(filled(new(embedder), 0))
        features_of(back.get(timeout=SECONDS))
    assert before - torch.cuda.mem_get_info(0)[0] < 2**20
