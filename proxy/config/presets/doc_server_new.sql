-- The doc server's new database: documents of many types and their sources.
-- The nearest-neighbour index is not here: it is built after the load.
CREATE EXTENSION IF NOT EXISTS vector;

CREATE TABLE document_sources (
    id serial PRIMARY KEY,
    doc_type varchar(50) NOT NULL DEFAULT 'rust',
    source_name varchar(255) NOT NULL,
    config jsonb NOT NULL DEFAULT '{}',
    enabled boolean DEFAULT true,
    last_checked timestamptz,
    last_populated timestamptz,
    created_at timestamptz DEFAULT CURRENT_TIMESTAMP,
    updated_at timestamptz DEFAULT CURRENT_TIMESTAMP,
    UNIQUE (doc_type, source_name)
);

CREATE TABLE documents (
    id serial PRIMARY KEY,
    doc_type varchar(50) NOT NULL DEFAULT 'rust',
    source_name varchar(255) NOT NULL,
    doc_path text NOT NULL,
    content text NOT NULL,
    metadata jsonb DEFAULT '{}',
    embedding vector(3072),
    token_count int,
    created_at timestamp DEFAULT CURRENT_TIMESTAMP,
    updated_at timestamp DEFAULT CURRENT_TIMESTAMP,
    UNIQUE (doc_type, source_name, doc_path)
);
CREATE INDEX idx_documents_doc_type ON documents (doc_type);
CREATE INDEX idx_documents_source_name ON documents (source_name);
CREATE INDEX idx_documents_type_source ON documents (doc_type, source_name);
CREATE INDEX idx_documents_metadata ON documents USING gin (metadata);

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

CREATE FUNCTION touch_updated_at() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.updated_at = CURRENT_TIMESTAMP;
    RETURN NEW;
END
$$;
CREATE TRIGGER documents_touch BEFORE UPDATE ON documents
    FOR EACH ROW EXECUTE FUNCTION touch_updated_at();
CREATE TRIGGER document_sources_touch BEFORE UPDATE ON document_sources
    FOR EACH ROW EXECUTE FUNCTION touch_updated_at();
