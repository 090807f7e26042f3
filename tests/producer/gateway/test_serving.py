"""The process of a gateway."""

import resource

from abstream.producer.gateway.serving import allow_files


def test_a_process_may_open_as_many_files_as_it_needs_and_the_system_lets_it():
    """Many systems begin with a limit of 1 024, and each stream of predictions is an open file."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (512, before[1]))
        assert allow_files(600) == 600
        assert allow_files(3) == 3
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (600, before[1])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
