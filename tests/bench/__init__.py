"""Measurements, by hand and never in CI: ratios of two things measured in one run, and the machine's facts beside them.

cd tests && ../.venv/bin/python -m bench.gateway       a request through the real Envoy (needs wrk: apt install wrk)
cd tests && ../.venv/bin/python -m bench.transport     a call over each transport, without Envoy
cd tests && ../.venv/bin/python -m bench.ledger        usage into SQL
cd tests && ../.venv/bin/python -m bench.rating        prices
cd tests && ../.venv/bin/python -m bench.measure       token counting
"""
