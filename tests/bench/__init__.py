"""Measurements, by hand and never in CI: ratios of two things measured in one run, and the machine's facts beside them.

cd tests && ../.venv/bin/python -m bench               requests through the real Envoy, memory, starts (needs wrk)
cd tests && ../.venv/bin/python -m bench.transport     a call over each transport, without Envoy
cd tests && ../.venv/bin/python -m bench.ledger        usage into SQL
cd tests && ../.venv/bin/python -m bench.publish       entitlements into Valkey
cd tests && ../.venv/bin/python -m bench.rating        prices
cd tests && ../.venv/bin/python -m bench.measure       token counting

The first one's committed results are figures.md, figures.svg and figures.json: a later run is compared with them.
"""
