"""The REST door: abstracts in by HTTP, results out by lookup, page or stream. It knows Redis and nothing of models.

Needs ``pip install 'abstream[gateway]'``. Whatever a gateway remembers is in Redis or can be read there again, so that
any number of them may run, and may be started and stopped at any time.
"""
