"""The doc server's demo: PostgreSQL with pgvector to PostgreSQL with another schema."""
