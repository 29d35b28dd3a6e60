"""A one-node Kubernetes for tests, built from source modules and run as plain processes. Standard library only."""
