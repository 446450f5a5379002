"""Each baseline network against its own paper's formulas, written out a second time."""

from __future__ import annotations

import math

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from wsipipe.data.errors import UsageError
from wsipipe.models.mil.abmil import ABMIL, ABMILConfig
from wsipipe.models.mil.bag_tensors import BagBatch
from wsipipe.models.mil.clam import CLAM, CLAMConfig, smooth_svm
from wsipipe.models.mil.feature_matching import FeatureMatching, FeatureMatchingConfig, contrast
from wsipipe.models.mil.network import SlideNetwork, Targets
from wsipipe.models.mil.transmil import TransMIL, TransMILConfig

WIDTH = 12


def slide(*sizes: int, seed: int = 0) -> BagBatch:
    """Slides without neighbourhoods: each tile has its self-loop."""
    tiles = sum(sizes)
    x = torch.randn(tiles, WIDTH, generator=torch.Generator().manual_seed(seed))
    return BagBatch(x, torch.arange(tiles).expand(2, -1), sizes)


def targets_of(*labels: int) -> Targets:
    return Targets(torch.tensor(labels), torch.tensor(labels).float())


def reached(term: Tensor, network: SlideNetwork) -> set[str]:
    """The modules to whose parameters a gradient of ``term`` flows."""
    names, parameters = zip(*network.named_parameters(), strict=True)
    gradients = torch.autograd.grad(term, parameters, retain_graph=True, allow_unused=True)
    return {name.split(".")[0] for name, gradient in zip(names, gradients, strict=True) if gradient is not None}


# ABMIL


@pytest.fixture
def abmil() -> ABMIL:
    torch.manual_seed(0)
    return ABMIL(ABMILConfig(in_features=WIDTH, hidden=16, attention=8)).eval()


def test_abmil_is_the_paper_s_gated_attention(abmil: ABMIL) -> None:
    w = {name: value.double() for name, value in abmil.state_dict().items()}
    batch = slide(9)
    h = (batch.x.double() @ w["embedding.0.weight"].T + w["embedding.0.bias"]).clamp(min=0)
    content = torch.tanh(h @ w["attention.V.weight"].T + w["attention.V.bias"])
    gate = 1 / (1 + torch.exp(-(h @ w["attention.U.weight"].T + w["attention.U.bias"])))
    e = ((content * gate) @ w["attention.w.weight"].T + w["attention.w.bias"])[:, 0]
    a = torch.exp(e) / torch.exp(e).sum()
    logits = (a[:, None] * h).sum(dim=0) @ w["head.weight"].T + w["head.bias"]
    output = abmil(batch)
    torch.testing.assert_close(output.attention.double(), a, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(output.logits[0].double(), logits, atol=1e-6, rtol=1e-5)


def test_scores_are_the_exact_parts_of_the_slide_s_log_odds(abmil: ABMIL) -> None:
    batch = slide(9, 4)
    output = abmil(batch)
    parts = torch.stack([part.sum() for part in batch.split(output.attention * output.scores)])
    torch.testing.assert_close(parts, output.logits[:, 1] - output.logits[:, 0])


# CLAM


@pytest.fixture
def clam() -> CLAM:
    torch.manual_seed(0)
    return CLAM(CLAMConfig(in_features=WIDTH, hidden=16, attention=8, attended=3)).eval()


def ends(clam: CLAM, batch: BagBatch, label: int, k: int) -> float:
    """The clustering loss of one slide, tile by tile."""
    output = clam(batch)
    order = sorted(range(len(batch.x)), key=lambda tile: -float(output.attention.detach()[tile]))
    weight, bias = clam.instance_classifiers.weight, clam.instance_classifiers.bias
    total = 0.0
    for high, tiles in ((1, order[:k]), (0, order[len(order) - k :])):
        for tile in tiles:
            both = (weight @ output.embedded[tile] + bias).detach()[2 * label : 2 * label + 2].tolist()
            total += math.log(1 + math.exp(1 + both[1 - high] - both[high]))
    return total / (2 * k)


@pytest.mark.parametrize("label", [0, 1])
@pytest.mark.parametrize(("tiles", "k"), [(20, 3), (6, 3), (5, 2), (3, 1), (2, 1)])
def test_clam_tells_the_tiles_of_both_ends_apart(clam: CLAM, label: int, tiles: int, k: int) -> None:
    batch = slide(tiles)
    losses = clam.loss(clam(batch), targets_of(label)).values()
    assert losses["clustering"] == pytest.approx(ends(clam, batch, label, k), abs=1e-6)
    assert losses["total"] == pytest.approx(0.7 * losses["task"] + 0.3 * losses["clustering"], abs=1e-6)


def test_a_slide_of_one_tile_has_no_ends(clam: CLAM) -> None:
    assert clam.loss(clam(slide(1)), targets_of(1)).values()["clustering"] == 0
    both = clam.loss(clam(slide(1, 20)), targets_of(1, 0)).values()
    alone = clam.loss(clam(BagBatch(slide(1, 20).x[1:], torch.arange(20).expand(2, -1), (20,))), targets_of(0))
    assert both["clustering"] == pytest.approx(alone.values()["clustering"] / 2, abs=1e-6)


def test_no_tile_is_of_both_ends_where_all_are_equal(clam: CLAM) -> None:
    batch = BagBatch(slide(1).x.expand(6, -1).clone(), torch.arange(6).expand(2, -1), (6,))
    output = clam(batch)
    embedded = output.embedded.detach().requires_grad_()
    equal = type(output)(output.logits, output.attention, output.scores, batch, embedded)
    (gradient,) = torch.autograd.grad(clam.loss(equal, targets_of(1)).terms["clustering"], embedded)
    high, low = gradient[:3], gradient[3:]  # three tiles pull one way, three the other
    torch.testing.assert_close(high, high[:1].expand(3, -1))
    torch.testing.assert_close(low, low[:1].expand(3, -1))
    assert (high[0] * low[0]).sum() < 0


def test_a_label_s_clustering_teaches_the_classifier_of_its_own_class(clam: CLAM) -> None:
    for label in (0, 1):
        term = clam.loss(clam(slide(20)), targets_of(label)).terms["clustering"]
        (gradient,) = torch.autograd.grad(term, clam.instance_classifiers.weight)
        of_class = gradient.view(2, 2, -1).abs().sum(dim=(1, 2))
        assert of_class[label] > 0
        assert of_class[1 - label] == 0
    soft = Targets(torch.tensor([1]), torch.tensor([0.3]))
    found = clam.loss(clam(slide(20)), soft).values()["clustering"]
    assert found == pytest.approx(0.3 * ends(clam, slide(20), 1, 3) + 0.7 * ends(clam, slide(20), 0, 3), abs=1e-6)


def test_the_smooth_svm_of_two_classes_is_a_softplus() -> None:
    logits = torch.tensor([[2.0, -1.0], [0.5, 0.5]])
    wanted = (math.log(1 + math.exp(1 - 3)) + math.log(1 + math.exp(1))) / 2
    assert float(smooth_svm(logits, torch.tensor([0, 1]))) == pytest.approx(wanted)


# TransMIL


def transmil_of(hidden: int = 8, heads: int = 2) -> TransMIL:
    torch.manual_seed(0)
    return TransMIL(TransMILConfig(in_features=WIDTH, hidden=hidden, heads=heads)).eval()


def by_hand(network: TransMIL, x: Tensor) -> tuple[Tensor, Tensor]:
    """Logits and the tiles' share of the class token's attention, with the whole of every attention matrix."""
    w = network.state_dict()
    tiles, side, hidden = len(x), math.ceil(len(x) ** 0.5), network.config.hidden
    h = (x @ w["embedding.0.weight"].T + w["embedding.0.bias"]).clamp(min=0)
    source = [i % tiles for i in range(side**2)]
    tokens = torch.cat([w["class_token"], h[source]])

    def attend(name: str, tokens: Tensor) -> tuple[Tensor, Tensor]:
        y = functional.layer_norm(tokens, (hidden,), w[f"{name}.norm.weight"], w[f"{name}.norm.bias"])
        q, k, v = (y @ w[f"{name}.{part}.weight"].T for part in ("query", "key", "value"))
        seen, shares = [], []
        for columns in torch.arange(hidden).split(hidden // network.config.heads):
            matrix = (q[:, columns] @ k[:, columns].T / len(columns) ** 0.5).softmax(dim=1)
            seen.append(matrix @ v[:, columns])
            shares.append(matrix[0])
        out = torch.cat(seen, dim=1) @ w[f"{name}.out.0.weight"].T + w[f"{name}.out.0.bias"]
        return tokens + out, torch.stack(shares).mean(dim=0)

    tokens, _ = attend("layer1", tokens)
    square = tokens[1:].reshape(side, side, hidden)
    placed = square.clone()
    for number, size in enumerate((7, 5, 3)):
        kernel, bias = w[f"positions.convolutions.{number}.weight"], w[f"positions.convolutions.{number}.bias"]
        for row in range(side):
            for column in range(side):
                placed[row, column] += bias
                for r in range(max(0, row - size // 2), min(side, row + size // 2 + 1)):
                    for c in range(max(0, column - size // 2), min(side, column + size // 2 + 1)):
                        placed[row, column] += kernel[:, 0, r - row + size // 2, c - column + size // 2] * square[r, c]
    tokens, share = attend("layer2", torch.cat([tokens[:1], placed.reshape(-1, hidden)]))
    of_tile = torch.zeros(tiles).index_add(0, torch.tensor(source), share[1:])
    last = functional.layer_norm(tokens[0], (hidden,), w["norm.weight"], w["norm.bias"])
    return last @ w["head.weight"].T + w["head.bias"], of_tile / of_tile.sum()


@pytest.mark.parametrize("tiles", [1, 2, 3, 4, 5, 9, 12])
def test_transmil_is_attention_positions_attention(tiles: int) -> None:
    network = transmil_of()
    batch = slide(tiles, seed=tiles)
    logits, attention = by_hand(network, batch.x)
    output = network(batch)
    torch.testing.assert_close(output.logits[0], logits, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(output.attention, attention, atol=1e-6, rtol=1e-5)


def test_a_tile_that_the_class_token_saw_alone_would_decide_by_its_score() -> None:
    network = transmil_of()
    with torch.no_grad():
        network.layer2.query.weight *= 1e4  # attention becomes a choice of one token a head
    for seed in range(30):
        batch = slide(9, seed=seed)
        _, log_weights, _ = network.layer2.first(tokens_before_last(network, batch))
        (first, *others) = log_weights.argmax(dim=1).tolist()
        if first > 0 and others == [first] and log_weights.amax(dim=1).min() > -1e-6:
            output = network(batch)
            log_odds = (output.logits[0, 1] - output.logits[0, 0]).detach()
            torch.testing.assert_close(output.scores[first - 1], log_odds, atol=1e-5, rtol=1e-5)
            return
    pytest.fail("no slide where every head chose the same tile")


def tokens_before_last(network: TransMIL, batch: BagBatch) -> Tensor:
    tokens = network.layer1(torch.cat([network.class_token, network.embedding(batch.x)]))
    return torch.cat([tokens[:1], network.positions(tokens[1:], 3)])


def test_attention_that_forgets_the_tiles_is_still_attention() -> None:
    """A class token that looks at itself alone leaves the tiles shares that float32 cannot tell from nothing."""
    network = transmil_of()
    with torch.no_grad():
        network.layer2.query.weight.copy_(1e6 * network.layer2.key.weight)
    forgotten = 0
    for seed in range(20):
        batch = slide(9, seed=seed)
        _, log_weights, _ = network.layer2.first(tokens_before_last(network, batch))
        forgotten += float(log_weights.detach().exp()[:, 1:].sum()) == 0
        attention = network(batch).attention.detach()
        assert float(attention.sum()) == pytest.approx(1, abs=1e-5)
    assert forgotten


def test_memory_grows_with_the_tiles_not_with_their_square() -> None:
    """The kernel that it must run on keeps no (tiles × tiles) matrix; 10,000 tiles would need 400 MB a head for one."""
    network = transmil_of(hidden=16).train()
    batch = slide(2000)
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        network.loss(network(batch), targets_of(1)).total.backward()
    saved = 0

    def count(tensor: Tensor) -> Tensor:
        nonlocal saved
        saved = max(saved, tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        network(batch)
    assert saved < 100 * 2000


def test_heads_share_the_width() -> None:
    with pytest.raises(ValidationError, match="multiple of heads"):
        TransMILConfig(in_features=WIDTH, hidden=10, heads=4)


# FeatureMatching

GENES = 10


@pytest.fixture
def matching() -> FeatureMatching:
    torch.manual_seed(0)
    config = FeatureMatchingConfig(in_features=WIDTH, n_genes=GENES, hidden=16, attention=8, shared=6, head_hidden=5)
    return FeatureMatching(config).eval()


def measured(*bags: int, labels: tuple[int, ...] = (1, 0, 1)) -> Targets:
    expression = torch.randn(len(bags), GENES, generator=torch.Generator().manual_seed(9))
    return Targets(torch.tensor(labels), torch.tensor(labels).float(), expression, torch.tensor(bags))


def test_matching_compares_each_slide_with_its_own_rna(matching: FeatureMatching) -> None:
    output = matching(slide(5, 9, 3))
    taught = measured(0, 2)
    assert taught.expression is not None
    with torch.no_grad():
        embedding = matching.omics_encoder(taught.expression)
        v = matching.slide_regressor(output.pooled[[0, 2]])
        cosines = functional.cosine_similarity(v[:, None], embedding[None], dim=2)
        of_rna = functional.cross_entropy(matching.omics_head(embedding), torch.tensor([1, 1]), reduction="sum")
    wanted = {
        "omics": float(of_rna) / 3,
        "matching": float((1 - cosines.diagonal()).sum()) / 3,
        "contrast": float(functional.cross_entropy(cosines / 0.1, torch.arange(2), reduction="sum")) / 3,
    }
    losses = matching.loss(output, taught).values()
    assert {name: losses[name] for name in wanted} == pytest.approx(wanted, abs=1e-5)
    total = losses["task"] + losses["omics"] + losses["matching"] + 0.1 * losses["contrast"]
    assert losses["total"] == pytest.approx(total, abs=1e-5)


def test_rna_teaches_the_slide_and_never_the_reverse(matching: FeatureMatching) -> None:
    terms = matching.loss(matching(slide(5, 9, 3)), measured(0, 2)).terms
    reading = {"histology_encoder", "attention"}
    assert reached(terms["task"], matching) == reading | {"head"}
    assert reached(terms["omics"], matching) == {"omics_encoder", "omics_head"}
    assert reached(terms["matching"], matching) == reached(terms["contrast"], matching) == reading | {"slide_regressor"}


def test_without_rna_there_is_the_task_alone(matching: FeatureMatching) -> None:
    assert matching.loss(matching(slide(5, 9)), targets_of(1, 0)).terms.keys() == {"task"}
    blind = FeatureMatching(matching.config.model_copy(update={"n_genes": 0}))
    assert not [key for key in blind.state_dict() if key.startswith(FeatureMatching.omics)]
    with pytest.raises(UsageError, match="histology alone"):
        blind.loss(blind(slide(5, 9, 3)), measured(0, 2))


def test_the_contrast_is_low_where_slides_find_their_own() -> None:
    u = torch.eye(3)
    genes = torch.arange(3.0)[:, None].expand(3, 4)
    right = contrast(u, u, genes, 0.1)
    assert float(right) == pytest.approx(math.log(1 + 2 * math.exp(-10)), abs=1e-6)
    assert float(contrast(u.roll(1, dims=0), u, genes, 0.1)) == pytest.approx(10 + float(right), abs=1e-5)
    assert float(contrast(u[:1], u[1:2], genes[:1], 0.1)) == 0


def test_two_slides_of_a_patient_are_not_told_apart() -> None:
    u = torch.tensor([[1.0, 0], [1, 0], [0, 1]])
    genes = torch.tensor([[1.0], [1.0], [2.0]])
    # Each of the patient's two slides finds either copy: ln 2 is the least there is.
    wanted = (2 * math.log(2 + math.exp(-10)) + math.log(1 + 2 * math.exp(-10))) / 3
    assert float(contrast(u, u, genes, 0.1)) == pytest.approx(wanted, abs=1e-5)
