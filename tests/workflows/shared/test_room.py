"""How workers fit on the nodes of a cluster."""

import pytest

from workflows.shared import cluster
from workflows.shared.cluster import Node


@pytest.mark.parametrize(
    ("nodes", "cpus", "gpus", "expected"),
    [
        ([(5, 0), (5, 0)], 3, 0, 2),
        ([(5, 0), (5, 0)], 2, 0, 4),
        ([(5, 0), (5, 0)], 6, 0, 0),
        ([(8, 2), (8, 0)], 1, 1, 2),
        ([(8, 2), (1, 4)], 2, 1, 2),
        ([(0, 4), (3, 1)], 1, 1, 1),
        ([], 1, 0, 0),
    ],
)
def test_no_worker_spans_two_nodes(nodes: list[Node], cpus: int, gpus: int, expected: int) -> None:
    assert cluster.workers_that_fit(nodes, cpus, gpus) == expected


@pytest.mark.parametrize(
    ("nodes", "workers", "expected"),
    [
        ([(4, 0)], 1, 4),
        ([(4, 0)], 2, 2),
        ([(4, 0)], 3, 1),
        ([(5, 0), (5, 0)], 3, 2),  # a third of all ten CPUs would be 3, of which only two workers find room
        ([(5, 0), (5, 0)], 2, 5),
        ([(16, 0), (2, 0)], 2, 8),
        ([(0, 0), (8, 0)], 4, 2),
        ([(4, 0)], 9, 1),
        ([], 1, 1),
    ],
)
def test_workers_get_the_most_cpus_that_all_of_them_can_have(nodes: list[Node], workers: int, expected: int) -> None:
    assert cluster.cpus_per_worker(nodes, workers) == expected
