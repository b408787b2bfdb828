-- Projects, for which brands look for work (spec: platform, business).
-- Locks: creates tables only; the references lock brands and users against writes for a moment.

CREATE TABLE projects (
    id            text PRIMARY KEY DEFAULT gen_random_uuid()::text,
    brand_id      text NOT NULL REFERENCES brands ON DELETE RESTRICT,
    name          varchar(200) NOT NULL,
    description   text,
    status        text NOT NULL DEFAULT 'DRAFT' CHECK (status IN ('DRAFT', 'ACTIVE', 'IN_PROGRESS', 'COMPLETED', 'CANCELLED', 'ARCHIVED')),
    project_type  text NOT NULL DEFAULT 'CAMPAIGN' CHECK (project_type IN ('CAMPAIGN', 'CONTENT', 'LICENSING')),
    budget_cents  bigint NOT NULL DEFAULT 0 CHECK (budget_cents >= 0),
    -- Instants: a project that ends "on a day" ends at the end of it.
    start_date    timestamptz,
    end_date      timestamptz,
    objectives    jsonb,
    requirements  jsonb,
    metadata      jsonb,
    created_by    text NOT NULL REFERENCES users ON DELETE RESTRICT,
    updated_by    text,
    search_vector tsvector,
    deleted_at    timestamptz,
    created_at    timestamptz NOT NULL DEFAULT now(),
    updated_at    timestamptz NOT NULL DEFAULT now(),
    CHECK (end_date > start_date)
);
CREATE INDEX projects_ending ON projects (end_date, id) WHERE deleted_at IS NULL AND status NOT IN ('COMPLETED', 'CANCELLED', 'ARCHIVED');
CREATE INDEX projects_brand ON projects (brand_id, created_at);
