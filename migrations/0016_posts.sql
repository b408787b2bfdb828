-- Posts of the blog (spec: platform, business).
-- Locks: creates a table only; the reference locks users against writes for a moment.

CREATE TABLE posts (
    id            text PRIMARY KEY DEFAULT gen_random_uuid()::text,
    title         varchar(500) NOT NULL,
    slug          varchar(600) NOT NULL UNIQUE,
    excerpt       text,
    content       text NOT NULL,
    tags          jsonb,
    seo_keywords  text,
    author_id     text NOT NULL REFERENCES users ON DELETE RESTRICT,
    status        text NOT NULL DEFAULT 'DRAFT'
                  CHECK (status IN ('DRAFT', 'PENDING_REVIEW', 'APPROVED', 'REJECTED', 'SCHEDULED', 'PUBLISHED', 'ARCHIVED')),
    scheduled_for timestamptz,
    published_at  timestamptz,
    search_vector tsvector,
    deleted_at    timestamptz,
    created_at    timestamptz NOT NULL DEFAULT now(),
    updated_at    timestamptz NOT NULL DEFAULT now(),
    CHECK (status <> 'SCHEDULED' OR scheduled_for IS NOT NULL)
);
CREATE INDEX posts_due ON posts (scheduled_for, id) WHERE status = 'SCHEDULED' AND deleted_at IS NULL;
CREATE INDEX posts_author ON posts (author_id);
