"""What the port's conformance suite needs from each implementation: a bed for one test."""
