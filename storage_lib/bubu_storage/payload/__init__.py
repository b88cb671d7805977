"""Documents: how values become stored objects and references, and come back.

Pure parts (`codec`, `decoder`, `stored`, `paths`, `refs`, `selector`, `dehydrate`) know
no store; `hydrate` gets what it needs through a small fetcher interface. Bytes and names
equal those of BubuStack's Go SDK wherever that SDK does not lose data; the places where
it does are fixed in ways its readers cannot notice (tests/unit/payload/test_deviations.py).
"""
