"""The port to a cluster and its two implementations: the API server, and this machine alone."""
