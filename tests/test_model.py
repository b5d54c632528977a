"""The model of the waitlist's protocol: its smallest scope, and the rules whose absence it must notice.

All scopes are `make model`; the long ones run with `make soak`, too.
"""

from __future__ import annotations

import pathlib
import runpy
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "docs" / "model"))
try:
    import explore
    import protocol
finally:
    sys.path.pop(0)


@pytest.fixture(autouse=True)
def plain(mode):
    """A pure function: what it finds in threads it finds under gevent."""
    if mode == "gevent":
        pytest.skip("the model has no threads, sockets or clocks: it runs once, in the other mode")


def reachable(world, name):
    """Every moment that the steps lead to, each by the name of its own kind."""
    seen = {name(world)}
    left = list(seen)
    while left:
        here = world.at(left.pop())
        for step in here.steps():
            after = here.at(here.state())
            after.take(step)
            moment = name(after)
            if moment not in seen:
                seen.add(moment)
                left.append(moment)
    return seen


class TestModel:
    def test_no_invariant_breaks_in_a_duel(self):
        """
        Two contenders and one fault of any kind: every state is visited, and some are far from the first.
        """
        result = explore.explore(explore.DUEL)

        assert result.violation == ""
        assert result.states > 1000
        assert result.depth > 10

    @pytest.mark.parametrize("rule", explore.MISSED_IN)
    def test_a_missing_rule_is_noticed(self, rule):
        """
        Each rule is needed: without it there is a way to a broken invariant, and its last step is the breach.
        """
        scope = explore.MISSED_IN[rule]

        result = explore.explore(scope, rule)

        assert result.violation
        told = explore.story(scope, rule, result)
        print("\n".join(told))
        assert len(told) == len(result.trace) + 1

    @pytest.mark.parametrize(
        ("contenders", "kinds"),
        [
            (explore.apart(2), protocol.FAULTS - {"falls_behind"}),
            (explore.WITH_GO, protocol.FAULTS - {"falls_behind"}),
            pytest.param(explore.apart(2, 2), frozenset({"lost"}), marks=pytest.mark.soak),
        ],
        ids=["a duel", "beside Go", "twice each"],
    )
    def test_moments_that_are_one_have_the_same_future(self, contenders, kinds):
        """
        What is reached from representatives is what represents all that is reached, and no more.
        """
        world = protocol.Moment(explore.Scope("", contenders, 1, kinds))

        represented = reachable(world, protocol.Moment.representative)
        all_of_them = reachable(world, protocol.Moment.state)

        assert represented == {world.at(each).representative() for each in all_of_them}
        assert len(represented) < len(all_of_them)

    @pytest.mark.soak
    @pytest.mark.parametrize("scope", [*explore.SCOPES, *explore.LONG_SCOPES], ids=lambda scope: scope.name)
    def test_no_invariant_breaks(self, scope):
        """
        In no scope.
        """
        result = explore.explore(scope)

        print(scope.name, result)
        assert result.violation == ""

    def test_rules_are_called_what_the_sensitivity_table_calls_them(self):
        """
        But for the few that are only here.
        """
        table = runpy.run_path(str(ROOT / "tools" / "mutations.py"))["MUTATIONS"]

        assert set(protocol.RULES) <= {mutation.name for mutation in table}
        assert not set(protocol.RULES_OF_OUR_OWN) & {mutation.name for mutation in table}
