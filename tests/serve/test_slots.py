"""Which slot a prompt takes, and how much of it is there already."""

from __future__ import annotations

from gritlm.serve.engine.slot_table import UNKNOWN, SlotTable

SYSTEM = [1, 2, 3, 4]


def taken(slots: SlotTable, ids: list[int]):
    """A slot in which all of a prompt was read."""
    place = slots.take(ids)
    assert place is not None
    place.slot.ids = list(ids)
    return place


def test_a_conversation_that_goes_on_takes_its_own_slot_over():
    slots = SlotTable(2)
    first = taken(slots, [*SYSTEM, 5, 6, 7, 8])
    slots.free(first.slot)
    again = slots.take([*SYSTEM, 5, 6, 7, 8, 9, 10])
    assert (again.slot, again.tokens, again.source) == (first.slot, 8, None)


def test_the_last_token_of_a_prompt_is_always_left_to_read():
    slots = SlotTable(1)
    first = taken(slots, SYSTEM)
    slots.free(first.slot)
    assert slots.take(SYSTEM).tokens == 3


def test_the_first_words_of_a_running_chat_are_copied():
    slots = SlotTable(2)
    running = taken(slots, [*SYSTEM, 5, 6])
    other = slots.take([*SYSTEM, 7, 8])
    assert (other.tokens, other.source) == (4, running.slot)
    assert other.slot is not running.slot
    assert other.slot.ids == SYSTEM


def test_another_conversation_with_the_same_first_words_leaves_the_old_one_whole():
    slots = SlotTable(2)
    old = taken(slots, [*SYSTEM, *range(10, 30)])
    slots.free(old.slot)
    other = slots.take([*SYSTEM, 5, 6])
    assert (other.tokens, other.source) == (4, old.slot)
    assert old.slot.ids == [*SYSTEM, *range(10, 30)]


def test_the_least_recently_used_idle_slot_goes_first():
    slots = SlotTable(3)
    places = [taken(slots, [n, n, n]) for n in (10, 20, 30)]
    for number in (1, 0, 2):
        slots.free(places[number].slot)
    assert slots.take([7, 7]).slot is places[1].slot
    assert slots.take([8, 8]).slot is places[0].slot


def test_no_slot_is_given_while_all_are_busy():
    slots = SlotTable(1)
    busy = slots.take(SYSTEM)
    assert slots.take(SYSTEM) is None
    slots.free(busy.slot)
    assert slots.take(SYSTEM) is not None


def test_a_state_of_unknown_tokens_is_never_used_again():
    slots = SlotTable(1)
    place = slots.take(())
    place.slot.ids = [UNKNOWN] * 8
    slots.free(place.slot)
    assert slots.take(SYSTEM).tokens == 0


def test_what_cannot_be_relied_on_is_never_used_again():
    slots = SlotTable(1)
    place = taken(slots, SYSTEM)
    slots.forget(place.slot)
    slots.free(place.slot)
    assert slots.take([*SYSTEM, 5]).tokens == 0


def test_tokens_of_one_model_are_not_reused_by_another():
    slots = SlotTable(3)
    one, other = object(), object()
    first = slots.take([*SYSTEM, 4], one)
    first.slot.ids = [*SYSTEM, 4]
    slots.free(first.slot)
    assert slots.take([*SYSTEM, 5], other).tokens == 0
    assert slots.take([*SYSTEM, 5], one).tokens == len(SYSTEM)
