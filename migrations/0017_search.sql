-- Full-text search over assets, creators, projects, licences and posts (spec: business, section 4). Rows that are here before it get
-- their vectors from a run of search-index-reindex.
-- Locks: each of the five tables against writes while its index is built. On a large database build the indexes CONCURRENTLY before.

CREATE EXTENSION IF NOT EXISTS unaccent;
CREATE TEXT SEARCH CONFIGURATION yg_english (COPY = english);
ALTER TEXT SEARCH CONFIGURATION yg_english ALTER MAPPING FOR word, hword, hword_part WITH unaccent, english_stem;

-- The first bytes of a text, up to a whole character.
CREATE FUNCTION search_cut(input text, bytes int) RETURNS text LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE AS $$
DECLARE
    encoded bytea;
BEGIN
    IF octet_length(input) <= bytes THEN
        RETURN input;
    END IF;
    encoded := convert_to(input, 'UTF8');
    WHILE bytes > 0 AND get_byte(encoded, bytes) & 192 = 128 LOOP
        bytes := bytes - 1;
    END LOOP;
    RETURN convert_from(substr(encoded, 1, bytes), 'UTF8');
END $$;

-- The strings of a JSON array. Whatever else JSON can be is no text, and no error.
CREATE FUNCTION search_strings(list jsonb) RETURNS text LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
RETURN (SELECT string_agg(item #>> '{}', ' ') FROM jsonb_path_query(list, 'strict $[*] ? (@.type() == "string")', '{}', true) AS item);

-- The keys of a JSON object that are true.
CREATE FUNCTION search_flags(flags jsonb) RETURNS text LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
RETURN (SELECT string_agg(key, ' ') FROM jsonb_each(CASE jsonb_typeof(flags) WHEN 'object' THEN flags END) WHERE value = 'true');

-- Texts by weight. All of them together are cut at 250,000 bytes: a vector of more than a megabyte is an error, and would refuse the
-- user's own write. The parser drops HTML, and what is in its scripts and styles.
CREATE FUNCTION search_weigh(a text, b text, c text, d text) RETURNS tsvector LANGUAGE plpgsql STABLE PARALLEL SAFE AS $$
DECLARE
    left_over int := 250000;
    vector tsvector;
BEGIN
    a := search_cut(coalesce(a, ''), left_over);
    left_over := left_over - octet_length(a);
    vector := setweight(to_tsvector('yg_english', a), 'A');
    IF b <> '' THEN
        b := search_cut(b, left_over);
        left_over := left_over - octet_length(b);
        vector := vector || setweight(to_tsvector('yg_english', b), 'B');
    END IF;
    IF c <> '' THEN
        c := search_cut(c, left_over);
        left_over := left_over - octet_length(c);
        vector := vector || setweight(to_tsvector('yg_english', c), 'C');
    END IF;
    IF d <> '' THEN
        vector := vector || setweight(to_tsvector('yg_english', search_cut(d, left_over)), 'D');
    END IF;
    RETURN vector;
END $$;

-- What the vector of a row has to be: nothing when it is deleted. A new column of a table that is to be found goes in here and into
-- the table's trigger.
CREATE FUNCTION search_vector_of(t ip_assets) RETURNS tsvector LANGUAGE sql STABLE PARALLEL SAFE
RETURN CASE WHEN t.deleted_at IS NULL THEN
    search_weigh(t.title, concat_ws(' ', t.description, search_strings(t.metadata -> 'tags')), NULL,
                 concat_ws(' ', t.type, replace(t.mime_type, '/', ' '))) END;

CREATE FUNCTION search_vector_of(t creators) RETURNS tsvector LANGUAGE sql STABLE PARALLEL SAFE
RETURN CASE WHEN t.deleted_at IS NULL THEN
    search_weigh(t.stage_name, concat_ws(' ', t.bio, search_strings(t.specialties)), NULL, NULL) END;

CREATE FUNCTION search_vector_of(t projects) RETURNS tsvector LANGUAGE sql STABLE PARALLEL SAFE
RETURN CASE WHEN t.deleted_at IS NULL THEN
    search_weigh(t.name, t.description, (SELECT company_name FROM brands WHERE id = t.brand_id), t.project_type) END;

CREATE FUNCTION search_vector_of(t licenses) RETURNS tsvector LANGUAGE sql STABLE PARALLEL SAFE
RETURN CASE WHEN t.deleted_at IS NULL THEN
    search_weigh((SELECT title FROM ip_assets WHERE id = t.ip_asset_id), (SELECT company_name FROM brands WHERE id = t.brand_id),
                 (SELECT name FROM projects WHERE id = t.project_id),
                 concat_ws(' ', t.license_type, search_strings(t.scope #> '{geographic,territories}'), search_flags(t.scope -> 'media'))) END;

CREATE FUNCTION search_vector_of(t posts) RETURNS tsvector LANGUAGE sql STABLE PARALLEL SAFE
RETURN CASE WHEN t.deleted_at IS NULL THEN
    search_weigh(t.title, concat_ws(' ', t.excerpt, search_strings(t.tags)), t.content, t.seo_keywords) END;

CREATE FUNCTION search_vector_refresh() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.search_vector := search_vector_of(NEW);
    RETURN NEW;
END $$;
-- Not of search_vector: what the jobs repair they have computed.
CREATE TRIGGER ip_assets_search BEFORE INSERT OR UPDATE OF title, description, metadata, type, mime_type, deleted_at ON ip_assets
    FOR EACH ROW EXECUTE FUNCTION search_vector_refresh();
CREATE TRIGGER creators_search BEFORE INSERT OR UPDATE OF stage_name, bio, specialties, deleted_at ON creators
    FOR EACH ROW EXECUTE FUNCTION search_vector_refresh();
CREATE TRIGGER projects_search BEFORE INSERT OR UPDATE OF name, description, brand_id, project_type, deleted_at ON projects
    FOR EACH ROW EXECUTE FUNCTION search_vector_refresh();
CREATE TRIGGER licenses_search BEFORE INSERT OR UPDATE OF ip_asset_id, brand_id, project_id, license_type, scope, deleted_at ON licenses
    FOR EACH ROW EXECUTE FUNCTION search_vector_refresh();
CREATE TRIGGER posts_search BEFORE INSERT OR UPDATE OF title, excerpt, tags, content, seo_keywords, deleted_at ON posts
    FOR EACH ROW EXECUTE FUNCTION search_vector_refresh();

CREATE INDEX ip_assets_search ON ip_assets USING gin (search_vector) WHERE deleted_at IS NULL;
CREATE INDEX creators_search ON creators USING gin (search_vector) WHERE deleted_at IS NULL;
CREATE INDEX projects_search ON projects USING gin (search_vector) WHERE deleted_at IS NULL;
CREATE INDEX licenses_search ON licenses USING gin (search_vector) WHERE deleted_at IS NULL;
CREATE INDEX posts_search ON posts USING gin (search_vector) WHERE deleted_at IS NULL;

-- Every row that can be found, as it is and as it has to be.
CREATE VIEW search_vectors AS
SELECT 'asset' AS entity, id, search_vector AS stored, search_vector_of(t) AS fresh FROM ip_assets t
UNION ALL SELECT 'creator', id, search_vector, search_vector_of(t) FROM creators t
UNION ALL SELECT 'project', id, search_vector, search_vector_of(t) FROM projects t
UNION ALL SELECT 'license', id, search_vector, search_vector_of(t) FROM licenses t
UNION ALL SELECT 'blog_post', id, search_vector, search_vector_of(t) FROM posts t;

CREATE TABLE search_reindex_runs (
    id             text PRIMARY KEY DEFAULT gen_random_uuid()::text,
    -- Which run of the ledger has it now: the first one, or the last continuation.
    run_key        text NOT NULL,
    entity_type    text CHECK (entity_type IN ('asset', 'creator', 'project', 'license', 'blog_post')),
    batch_size     int NOT NULL CHECK (batch_size BETWEEN 10 AND 1000),
    status         text NOT NULL DEFAULT 'RUNNING' CHECK (status IN ('RUNNING', 'COMPLETED', 'PARTIAL', 'FAILED')),
    current_entity text NOT NULL CHECK (current_entity IN ('asset', 'creator', 'project', 'license', 'blog_post')),
    cursor_id      text NOT NULL DEFAULT '',
    -- Rows when it began; rows that it has looked at, written, emptied because they are deleted, and could not write.
    total          bigint NOT NULL DEFAULT 0,
    processed      bigint NOT NULL DEFAULT 0,
    changed        bigint NOT NULL DEFAULT 0,
    cleared        bigint NOT NULL DEFAULT 0,
    errors         bigint NOT NULL DEFAULT 0,
    -- The first hundred of those that it could not write.
    failed         text[] NOT NULL DEFAULT '{}',
    started_at     timestamptz NOT NULL DEFAULT now(),
    heartbeat_at   timestamptz NOT NULL DEFAULT now(),
    finished_at    timestamptz
);
CREATE UNIQUE INDEX search_reindex_runs_running ON search_reindex_runs ((1)) WHERE status = 'RUNNING';
CREATE INDEX search_reindex_runs_run_key ON search_reindex_runs (run_key);
