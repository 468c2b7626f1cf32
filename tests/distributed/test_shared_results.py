"""Subjects are shared out by patient, each to one process."""

from __future__ import annotations

import random

import pytest

from scripts.distributed.shared_results import deal


def items(patients: list[int]) -> list[dict]:
    return [{"subject": f"s{number}", "patient": f"p{patient}"} for number, patient in enumerate(patients)]


@pytest.mark.parametrize("size", [1, 2, 3, 7])
@pytest.mark.parametrize("count", [0, 1, 2, 3, 10])
def test_shares_are_the_whole(size, count):
    whole = items(list(range(count)))
    shares = [deal(whole, rank, size) for rank in range(size)]
    assert sorted(item["subject"] for share in shares for item in share) == sorted(item["subject"] for item in whole)
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_patients_stay_together_and_loads_are_even():
    patients = [p for p in range(20) for _ in range(1 + p % 4)]
    random.Random(0).shuffle(patients)
    whole = items(patients)
    shares = [deal(whole, rank, 3) for rank in range(3)]
    owners = [{item["patient"] for item in share} for share in shares]
    assert sum(map(len, owners)) == 20 and set.union(*owners) == {item["patient"] for item in whole}
    assert max(map(len, shares)) - min(map(len, shares)) <= 4
    for share in shares:
        numbers = [int(item["subject"][1:]) for item in share]
        assert numbers == sorted(numbers)


def test_a_subject_without_a_patient_is_one():
    whole = [{"subject": "a"}, {"subject": "b"}]
    assert [deal(whole, rank, 2) for rank in range(2)] == [whole[:1], whole[1:]]
