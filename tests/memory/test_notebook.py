"""Notes around the trials: the log, directives, lessons, calls, spectra; on every database."""

from dataclasses import replace

import pytest

from nightlab.memory.example import Clock, Example
from nightlab.memory.ledger import Ledger
from nightlab.memory.records import Call, Spectrum


@pytest.fixture
def begun(ledger: Ledger, clock: Clock) -> Ledger:
    """A ledger with a campaign, c1, that has measured its baseline, c1-0."""
    Example(ledger, clock).play(experiments=0)
    return ledger


def test_notes_of_every_kind_come_back_in_order(begun: Ledger) -> None:
    begun.log("c1", "fault", "disk nearly full", experiment="c1-0")
    seen = begun.events("c1")
    assert [event.message for event in seen][-1] == "disk nearly full"
    begun.add_directive("c1", "try rotary")
    stop = begun.add_directive("c1", "", kind="stop")
    assert [event.kind for event in begun.events("c1", after=seen[-1].id)] == ["directive"] * 2
    assert begun.events("c1", limit=1)[0].message == "stop: "
    begun.mark_seen(stop.id)
    assert [one.text for one in begun.directives("c1", unseen=True)] == ["try rotary"]
    assert len(begun.directives("c1")) == 2
    lesson = begun.add_lesson("c1", "rotary pays", ["c1-0"])
    assert begun.lessons() == begun.lessons("c1") == [lesson]


def test_calls_of_unknown_price_are_counted_apart(begun: Ledger) -> None:
    call = Call(
        model="m", prompt="p", reply="r", tokens_in=10, tokens_out=5, latency_seconds=1.5, usd=0.25
    )
    begun.record_call("c1", call, experiment="c1-0")
    begun.record_call("c1", replace(call, usd=None, error="no edit in it"))
    spent = begun.spent("c1")
    assert (spent.tokens, spent.usd, spent.unpriced_calls) == (30, 0.25, 1)
    assert begun.calls("c1", experiment="c1-0") == [call]


def test_spectra_are_replaced_by_layer_and_step(begun: Ledger) -> None:
    trial = begun.trials(experiment="c1-0")[0]
    first = Spectrum(trial=trial.id, layer="block 0", step=10, values={"entropy": 0.5})
    begun.record_spectra([first, replace(first, step=5)])
    begun.record_spectra([replace(first, values={"entropy": 0.75})])
    found = begun.spectra(trial.id)
    assert [one.step for one in found] == [5, 10]
    assert found[1].values == {"entropy": 0.75}
