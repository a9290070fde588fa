"""Muon, on matrices small enough to know the answer."""

import socket

import torch
from torch import distributed, multiprocessing

from trainer.muon import Muon, orthogonalized


def _matrices() -> list[torch.nn.Parameter]:
    torch.manual_seed(5)
    matrices = [torch.nn.Parameter(torch.randn(shape)) for shape in [(8, 24), (8, 24), (8, 24), (24, 8)]]
    for matrix in matrices:
        matrix.grad = torch.randn_like(matrix)
    return matrices


def _after_two_steps() -> list[torch.Tensor]:
    matrices = _matrices()
    optimizer = Muon(matrices, lr=0.1, weight_decay=0.1)
    optimizer.step()
    optimizer.step()
    return [matrix.detach() for matrix in matrices]


def _in_one_of_two(rank: int, address: str) -> None:
    distributed.init_process_group("gloo", init_method=address, rank=rank, world_size=2)
    shared = _after_two_steps()
    distributed.destroy_process_group()
    for ours, alone in zip(shared, _after_two_steps(), strict=True):
        torch.testing.assert_close(ours, alone)


def test_singular_values_come_near_one_and_directions_stay():
    matrices = torch.randn(3, 8, 24, generator=torch.Generator().manual_seed(1))

    found = orthogonalized(matrices)

    left, _, right = torch.linalg.svd(matrices, full_matrices=False)
    inside = left.mT @ found @ right.mT  # diagonal where the singular vectors are the same
    values = inside.diagonal(dim1=1, dim2=2)
    assert ((values > 0.6) & (values < 1.3)).all()
    assert (inside - torch.diag_embed(values)).abs().max() < 1e-3


def test_tall_matrices_are_treated_as_wide_ones_are():
    matrices = torch.randn(2, 24, 8, generator=torch.Generator().manual_seed(1))

    torch.testing.assert_close(orthogonalized(matrices), orthogonalized(matrices.mT).mT)


def test_it_finds_the_least_squares():
    torch.manual_seed(2)
    wanted, weights = torch.randn(8, 8), torch.nn.Parameter(torch.zeros(8, 8))
    optimizer = Muon([weights], lr=0.1)
    for step in range(400):
        optimizer.param_groups[0]["lr"] = 0.1 * (1 - step / 400)
        optimizer.zero_grad()
        ((weights - wanted) ** 2).sum().backward()
        optimizer.step()

    assert (weights - wanted).abs().max() < 0.05


def test_weights_without_a_gradient_stay_as_they_are():
    still = torch.nn.Parameter(torch.ones(4, 4))

    Muon([still], lr=0.1, weight_decay=0.5).step()

    assert (still == 1).all()


def test_two_processes_that_share_the_work_get_what_one_gets():
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"tcp://127.0.0.1:{free.getsockname()[1]}"

    multiprocessing.spawn(_in_one_of_two, (address,), nprocs=2)
