"""How kopf is told to watch."""

from itertools import islice

from godwit.controller import handlers


def test_a_watch_that_is_refused_is_tried_again_without_end():
    # A namespace that is gone answers 403 for ever; kopf ends the whole operator after the last of these.
    tries = list(islice(handlers.settings().networking.error_backoffs, 10_000))

    assert len(tries) == 10_000
    assert tries[0] == 1
    assert max(tries) == 30
