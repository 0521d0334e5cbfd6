"""Precision, compilation, gradients by finite differences, and the memory that streaming needs."""

import subprocess
import sys

import pytest
import torch
from support import learn_oracle as oracle

from metric_core.learn.collective import World
from metric_core.learn.distance import block_distance, pair_distance, sparse_nonzero
from metric_core.learn.loss import all_triplets, triplet
from metric_core.learn.objective import Objective
from metric_core.learn.step import Outcome, global_loss

ONE = World(0, 1)


def outcome(objective: Objective, emb_BD: torch.Tensor, kind: str = "random") -> Outcome:
    _, label, face_id = oracle.batches()[kind]
    ids = torch.tensor(face_id)
    return global_loss(objective, ONE, emb_BD, torch.tensor(label), ids, seed=3, step=5, view_L=ids % 2)


@pytest.mark.parametrize("objective", oracle.objectives(), ids=oracle.name)
def test_gradients_equal_finite_differences(objective: Objective) -> None:
    emb_BD = oracle.batches()["random"][0].clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda e: outcome(objective, e).loss, (emb_BD,), eps=1e-7, atol=1e-5)


@pytest.mark.parametrize("distance", ["euclidean", "squared-euclidean", "cosine"])
def test_equal_rows_have_distance_and_gradient_zero(distance: str) -> None:
    x_XD = torch.nn.functional.normalize(torch.arange(1.0, 13.0, dtype=torch.float64).view(3, 4)).requires_grad_()
    i_P = torch.tensor([0, 1, 2])
    d_P = pair_distance(x_XD, i_P, x_XD.detach(), i_P, distance)
    d_P.sum().backward()
    assert float(d_P.detach().abs().max()) < 1e-15
    if distance != "cosine":
        assert float(x_XD.grad.abs().max()) == 0.0
        assert float(block_distance(x_XD, x_XD, distance).diagonal().abs().max()) == 0.0


@pytest.mark.parametrize("objective", oracle.objectives(), ids=oracle.name)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_embeddings_that_are_not_finite_are_counted(objective: Objective, value: float) -> None:
    emb_BD = oracle.batches()["random"][0].clone()
    assert int(outcome(objective, emb_BD).health["embeddings_not_finite"]) == 0
    emb_BD[1], emb_BD[4, 0] = value, value
    assert int(outcome(objective, emb_BD).health["embeddings_not_finite"]) == 2


@pytest.mark.parametrize("miner", ["batch-hard", "semi-hard", "all"])
def test_collapsed_float32_batch_has_finite_gradients(miner: str) -> None:
    emb_BD = torch.nn.functional.normalize(torch.ones(12, 5)).requires_grad_()
    result = outcome(Objective(miner=miner, margin=0.2), emb_BD)
    result.loss.backward()
    assert float(result.value) == pytest.approx(0.2, abs=1e-3)  # a loss equal to the margin means collapse
    assert torch.isfinite(emb_BD.grad).all()
    assert float(result.health["effective_rank"]) == 0.0


def test_swapped_sign_of_the_cosine_triplet_would_push_positives_apart() -> None:
    cos_ap = torch.tensor([0.3], dtype=torch.float64, requires_grad=True)
    triplet(1 - cos_ap, 1 - torch.tensor([0.5], dtype=torch.float64), 0.2).sum().backward()
    assert float(cos_ap.grad) == -1.0  # descending the loss raises cos(A, P)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_under_autocast_is_computed_in_float32(dtype: torch.dtype) -> None:
    emb_BD = oracle.batches()["random"][0].to(dtype)
    leaf_BD = emb_BD.clone().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = outcome(Objective(), leaf_BD)
    result.loss.backward()
    assert result.loss.dtype == torch.float32
    assert torch.equal(result.loss, outcome(Objective(), emb_BD.float()).loss)
    assert leaf_BD.grad.dtype == dtype


def test_compiled_step_runs_the_loss_eagerly() -> None:
    emb_BD, objective = oracle.batches()["random"][0], Objective()
    compiled = torch.compile(lambda e: outcome(objective, torch.nn.functional.normalize(2.0 * e)).loss, backend="eager")
    assert oracle.close(compiled(emb_BD), outcome(objective, emb_BD).loss)


def test_multi_view_without_views_is_refused() -> None:
    emb_BD, label, face_id = oracle.batches()["random"]
    with pytest.raises(ValueError, match="needs the view of every face"):
        global_loss(
            Objective(loss="multi-view"), ONE, emb_BD, torch.tensor(label), torch.tensor(face_id), seed=0, step=0
        )


def test_anchors_without_positive_are_counted() -> None:
    health = outcome(Objective(), oracle.batches()["one singleton"][0], "one singleton").health
    assert float(health["anchors_without_positive"]) == 1.0
    assert float(health["anchors"]) == 6.0


@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (4, 16), (7, 9), (0, 4)])
def test_sparse_nonzero_equals_nonzero(shape: tuple[int, int]) -> None:
    mask_AR = torch.rand(shape, generator=torch.Generator().manual_seed(1)) < 0.3
    for ours, theirs in zip(sparse_nonzero(mask_AR), mask_AR.nonzero(as_tuple=True)):
        assert torch.equal(ours, theirs)


def test_all_triplets_with_many_positives_equal_the_cube() -> None:
    draw = torch.Generator().manual_seed(2)
    d_ap_AK = torch.rand(4, 30, generator=draw, dtype=torch.float64).requires_grad_()
    d_an_AR = torch.rand(4, 50, generator=draw, dtype=torch.float64).requires_grad_()
    positive_AK = torch.rand(4, 30, generator=draw) < 0.7
    total_A, active_A = all_triplets(d_ap_AK, positive_AK, d_an_AR, 0.1)
    cube_AKR = (d_ap_AK[:, :, None] - d_an_AR[:, None, :] + 0.1).clamp(min=0.0) * positive_AK[:, :, None]
    assert oracle.close(total_A.detach(), cube_AKR.sum((1, 2)).detach())
    assert active_A.tolist() == (cube_AKR > 0).sum((1, 2)).tolist()
    ours = torch.autograd.grad(total_A.sum(), (d_ap_AK, d_an_AR))
    theirs = torch.autograd.grad(cube_AKR.sum(), (d_ap_AK, d_an_AR))
    assert all(oracle.close(a, b) for a, b in zip(ours, theirs))


PEAKS = """
import pathlib, torch
from metric_core.learn.collective import World
from metric_core.learn.objective import Objective
from metric_core.learn.step import global_loss

torch.set_num_threads(1)

def run(objective, n):
    emb_BD = torch.nn.functional.normalize(torch.randn(n, 16)).requires_grad_()
    ids = torch.arange(n)
    global_loss(objective, World(0, 1), emb_BD, ids // 4, ids, seed=0, step=0).loss.backward()

def megabytes(field):
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1e3

miners = ("batch-hard", "semi-hard", "all")
for objective in [*(Objective(miner=miner) for miner in miners), Objective(loss="softall")]:
    run(objective, 64)
    pathlib.Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = megabytes("VmRSS")
    run(objective, 6144)
    print(megabytes("VmHWM") - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="peak memory is read from /proc")
def test_streaming_never_holds_a_square_matrix() -> None:
    done = subprocess.run([sys.executable, "-c", PEAKS], capture_output=True, text=True, check=True, timeout=200)
    peaks = [float(line) for line in done.stdout.splitlines()]
    assert len(peaks) == 4
    assert max(peaks) < 110.0, peaks  # one float32 square of 6144 rows is 151 MB; the rest is the allocator's slack
