"""The test of the promise fails on scripts that break it."""

import pytest
from hypothesis import Phase

from .test_promise import SCRIPTS, try_the_promise

ACKNOWLEDGE = "if redis.call('XACK', lane, ARGV[1], id) == 0 then"
PUBLISH = "redis.call('XADD', output, '*', 'event', event)"

BROKEN = {
    "a result is published although another worker was first": ("commit", "if outcome == 1 then", "if true then"),
    "a result is published, then acknowledged": ("commit", ACKNOWLEDGE, f"{PUBLISH}\n  {ACKNOWLEDGE}"),
    "answered identities are not remembered": ("commit", "redis.call('SADD', KEYS[5], identity) == 0", "false"),
    "the previous dedupe window is not checked": ("commit", "redis.call('SISMEMBER', KEYS[6], member) == 1 or ", ""),
    "the lease of another worker is renewed": ("extend", "not pending or pending[2] ~= ARGV[2]", "not pending"),
    "a renewal counts as a delivery": ("extend", ", 'JUSTID'", ""),
    "the delivery of a suspected entry is uncounted": ("release", "pending[4] - ARGV[4]", "pending[4] - 1"),
    "an entry whose lease has not expired is taken": ("reclaim", "'IDLE', ARGV[3], ", ""),
}


@pytest.mark.parametrize(("script", "sound", "broken"), BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_script_is_noticed(script, sound, broken, server, namespace, monkeypatch):
    assert sound in SCRIPTS[script], "the script has changed: break it anew"
    monkeypatch.setitem(SCRIPTS, script, SCRIPTS[script].replace(sound, broken))

    with pytest.raises(AssertionError):
        try_the_promise(server, namespace, Phase.generate)  # the first order of events will do, however long
