"""For all tests, before anything is imported."""

import os

from hypothesis import settings

# grpcio's fork handlers abort a child that another test forks from the same process to start a program.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

# No test judges speed: a busy machine is no finding.
settings.register_profile("farebox", deadline=None)
settings.load_profile("farebox")
