"""Layouts of migration folders and their history tables, one module a format."""
