"""Which GPUs may be used, decided on plain readings; the driver itself needs a GPU."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nightlab.errors import NightlabError, SandboxError
from nightlab.sandbox import gpu
from nightlab.sandbox.gpu import SLACK_BYTES, Guard, Reading, unfit

IDLE = Reading(used_bytes=500 << 20, memory_errors=2)
UUID = "GPU-8f6d"


def guard(*readings: Reading | str) -> Guard:
    """One that reads these in turn, the last for ever; a text is a driver that says only that."""
    left = list(readings)

    def read(uuid: str) -> Reading:
        assert uuid == UUID
        one = left.pop(0) if len(left) > 1 else left[0]
        if isinstance(one, str):
            raise SandboxError(one)
        return one

    return Guard(read, settle_seconds=0.3)


@given(st.integers(0, 80 << 30))
def test_a_gpu_is_unfit_exactly_when_more_than_the_slack_did_not_come_back(used: int) -> None:
    reason = unfit(IDLE, Reading(used_bytes=used, memory_errors=2))
    assert bool(reason) == (used - IDLE.used_bytes > SLACK_BYTES)


def test_new_memory_errors_and_faults_make_a_gpu_unfit_and_old_errors_do_not() -> None:
    assert unfit(IDLE, IDLE) == ""
    assert "corrected: 1" in unfit(IDLE, Reading(used_bytes=0, memory_errors=3))
    assert "lost" in unfit(IDLE, Reading(used_bytes=0, faults=("it is lost",)))


def test_a_gpu_whose_memory_comes_back_late_serves_the_next_trial() -> None:
    full = Reading(used_bytes=70 << 30, memory_errors=2)
    one = guard(IDLE, full, IDLE)
    for _ in range(2):
        one.admit(UUID)
        one.release(UUID)
    assert one.quarantine == {}


def test_a_gpu_whose_memory_does_not_come_back_is_quarantined() -> None:
    one = guard(IDLE, Reading(used_bytes=IDLE.used_bytes + (2 << 30), memory_errors=2))
    one.admit(UUID)
    one.release(UUID)
    assert "2048 MiB" in one.quarantine[UUID]
    with pytest.raises(SandboxError, match="quarantine"):
        one.admit(UUID)


def test_a_gpu_that_somebody_else_began_to_use_is_not_given_out() -> None:
    one = guard(IDLE, IDLE, Reading(used_bytes=30 << 30, memory_errors=2))
    one.admit(UUID)
    one.release(UUID)
    with pytest.raises(SandboxError, match="not fit"):
        one.admit(UUID)
    assert one.quarantine == {}


def test_a_gpu_has_one_trial_at_a_time() -> None:
    one = guard(IDLE)
    one.admit(UUID)
    with pytest.raises(SandboxError, match="one trial per GPU"):
        one.admit(UUID)
    one.release(UUID)
    one.admit(UUID)


def test_a_driver_that_stops_answering_puts_the_gpu_in_quarantine() -> None:
    one = guard(IDLE, "it fell off the bus")
    one.admit(UUID)
    one.release(UUID)
    assert one.quarantine[UUID] == "it fell off the bus"
    silent = guard("no driver")
    with pytest.raises(SandboxError, match="no driver"):
        silent.admit(UUID)
    assert silent.quarantine == {}


def test_where_no_driver_is_the_remedy_is_named() -> None:
    with pytest.raises(NightlabError, match=r"nightlab\[gpu\]|does not answer"):
        gpu.read("GPU-of-nobody")
