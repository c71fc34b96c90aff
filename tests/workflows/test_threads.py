"""More than one CPU thread must earn its place."""

import time

import pytest
import torch

from medfm.workflows import threads
from medfm.workflows.threads import settle_threads


@pytest.fixture(autouse=True)
def _restored():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(("gain", "expected"), [(1.1, 1), (2.0, 2)])
def test_all_threads_only_where_they_pay(gain, expected, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(threads.time, "perf_counter", lambda: clock[0])

    def step():
        clock[0] += 1.0 if torch.get_num_threads() == 1 else 1.0 / gain

    torch.set_num_threads(2)
    assert settle_threads(None, step) == torch.get_num_threads() == expected


def test_a_users_number_stands_and_one_thread_measures_nothing():
    torch.set_num_threads(2)
    assert settle_threads(1, lambda: time.sleep(9)) == 1
    assert settle_threads(None, lambda: time.sleep(9)) == 1
