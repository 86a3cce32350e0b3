-- The planning application's PostgreSQL table: work items, with a vector each.
CREATE EXTENSION IF NOT EXISTS vector;

CREATE TABLE work_items (
    id text PRIMARY KEY,
    item_id text,
    title text NOT NULL,
    description text,
    embedding vector(384),
    item_type text,
    status text,
    priority text,
    assignee text,
    tags text[] DEFAULT '{}',
    estimated_hours double precision,
    actual_hours double precision,
    progress double precision,
    parent_id text,
    dependencies text[] DEFAULT '{}',
    sequence_number text,
    order_index bigint DEFAULT 0,
    context_tags text[] DEFAULT '{}',
    complexity text,
    notes text,
    acceptance_criteria text[] DEFAULT '{}',
    executable boolean DEFAULT false,
    execution_instructions text,
    created_at timestamptz DEFAULT CURRENT_TIMESTAMP,
    updated_at timestamptz DEFAULT CURRENT_TIMESTAMP,
    metadata jsonb
);
CREATE INDEX idx_work_items_parent_id ON work_items (parent_id);
CREATE INDEX idx_work_items_status ON work_items (status);
