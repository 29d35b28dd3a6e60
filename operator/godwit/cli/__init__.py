"""The command line, `godwit`, also as `kubectl godwit`."""
