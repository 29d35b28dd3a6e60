"""What the scenario tests stand on: the same stories on the local cluster and on a real one."""
