"""The REST API: abstracts in by HTTP, results out by lookup, page or stream. It uses Redis, and no model.

Needs ``pip install 'abstream[gateway]'``. All state of a gateway is in Redis or can be read from there again, so that
any number of gateways may run, and be started and stopped at any time.
"""
