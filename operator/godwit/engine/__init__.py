"""The database wing: PostgreSQL work by psycopg, one verb a module. Knows nothing of Kubernetes."""
