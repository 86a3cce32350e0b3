-- The doc server's old database: crates and their documents, with a vector each.
CREATE EXTENSION IF NOT EXISTS vector;

CREATE TABLE crates (
    id serial PRIMARY KEY,
    name varchar(255) NOT NULL UNIQUE,
    version varchar(50),
    last_updated timestamp DEFAULT CURRENT_TIMESTAMP,
    total_docs int DEFAULT 0,
    total_tokens int DEFAULT 0
);

CREATE TABLE doc_embeddings (
    id serial PRIMARY KEY,
    crate_id int REFERENCES crates (id) ON DELETE CASCADE,
    crate_name varchar(255) NOT NULL,
    doc_path text NOT NULL,
    content text NOT NULL,
    embedding vector(3072),
    token_count int,
    created_at timestamp DEFAULT CURRENT_TIMESTAMP,
    UNIQUE (crate_name, doc_path)
);
CREATE INDEX idx_doc_embeddings_crate_name ON doc_embeddings (crate_name);
CREATE INDEX idx_doc_embeddings_crate_id ON doc_embeddings (crate_id);

CREATE TABLE crate_configs (
    id serial PRIMARY KEY,
    name text NOT NULL,
    version_spec text,
    current_version text,
    features text[],
    expected_docs int DEFAULT 0,
    enabled boolean DEFAULT true,
    last_checked timestamptz,
    last_populated timestamptz,
    created_at timestamptz DEFAULT CURRENT_TIMESTAMP,
    updated_at timestamptz DEFAULT CURRENT_TIMESTAMP,
    UNIQUE (name, version_spec)
);

CREATE TABLE population_jobs (
    id serial PRIMARY KEY,
    crate_config_id int REFERENCES crate_configs (id),
    status text CHECK (status IN ('pending', 'running', 'completed', 'failed')),
    started_at timestamptz,
    completed_at timestamptz,
    error_message text,
    docs_populated int,
    created_at timestamptz DEFAULT CURRENT_TIMESTAMP
);
