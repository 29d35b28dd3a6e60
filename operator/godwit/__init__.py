"""Godwit: a Kubernetes operator for safe PostgreSQL migrations.

The package has two wings that never import each other: the cluster wing (`controller`, `cluster`, `planner`,
`api`) and the database wing (`runner`, `engine`, `stores`). Both import `contract`. See docs/architecture.md.
"""

__version__ = "0.1.0"
