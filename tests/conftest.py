"""For all tests, before anything is imported."""

import os

# grpcio's fork handlers abort a child that another test forks from the same process to start a program.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
