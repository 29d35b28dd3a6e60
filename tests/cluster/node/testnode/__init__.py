"""A one-node Kubernetes for tests: built from source, run as plain processes. Standard library only."""
