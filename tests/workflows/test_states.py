"""Each shipped workflow stands in states.json with what a run found: executed, opened, or why not.

`make workflows` and `make browser` write it.
"""

from __future__ import annotations

from .shipped import ORDER, names, states


def test_states_name_the_shipped_workflows_and_no_others() -> None:
    assert sorted(states()) == names()


def test_a_workflow_was_run_and_opened_or_it_says_why_not(name: str) -> None:
    found = states()[name]
    assert sorted(found) == sorted(ORDER)
    for said in found.values():
        assert said == "yes" or len(said.split()) > 2, said
