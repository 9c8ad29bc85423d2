"""The binding of the C area `serve`; answers themselves are tested in tests/frontend, over the whole way."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynamo._router import SelectionCore
from dynamo._serve import RouterBooking, holdings, json_escape


@given(st.text())
def test_escaped_text_is_the_inside_of_a_json_string(text):
    assert json.loads(b'"' + json_escape(text) + b'"') == text


def test_lone_surrogates_become_replacements():
    assert json.loads(b'"' + json_escape("a\ud800b") + b'"').startswith("a\ufffd")


def test_a_booking_that_no_call_takes_is_freed():
    core = SelectionCore(4)
    core.put_worker(1)
    chosen = core.pick([1, 2, 3, 4, 5], "a")
    booking = RouterBooking(core, chosen.ticket)
    assert core.stats()["booked"] == 1
    del booking
    assert core.stats()["booked"] == 0
    with pytest.raises(TypeError):
        RouterBooking(None, 5)


def test_holdings_are_what_the_events_said():
    core = SelectionCore(4)
    core.put_worker(1)
    core.stored(1, np.array([10, 11], np.uint64), np.array([1, 2], np.uint64))
    assert (holdings(core, 1), holdings(core, 2)) == (2, 0)
    assert holdings(SelectionCore(4, mode="round-robin"), 1) is None
