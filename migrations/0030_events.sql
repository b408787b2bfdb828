-- What happens on the platform, as it is received, and what enrichment adds (spec: business, section 3 and tables).
-- Nothing here refers to other tables: an event of something unknown is no reason to refuse it, and history outlives its subject.
-- Locks: creates tables only.

-- What a type of event counts as. An event of any other type is kept and enriched, and counts nowhere.
CREATE TABLE event_types (
    event_type varchar(100) PRIMARY KEY,
    counts_as  text NOT NULL CHECK (counts_as IN ('VIEW', 'CLICK', 'CONVERSION', 'OTHER')),
    created_at timestamptz NOT NULL DEFAULT now()
);
INSERT INTO event_types (event_type, counts_as)
VALUES ('asset_viewed', 'VIEW'), ('asset_downloaded', 'CLICK'), ('license_clicked', 'CLICK'), ('license_created', 'CONVERSION'),
       ('post_viewed', 'OTHER'), ('post_engagement_time', 'OTHER'), ('post_scroll_depth', 'OTHER'), ('post_cta_clicked', 'OTHER'),
       ('post_social_share_clicked', 'OTHER'), ('post_email_capture', 'OTHER');

CREATE TABLE events (
    id              text PRIMARY KEY DEFAULT gen_random_uuid()::text,
    occurred_at     timestamptz NOT NULL,
    created_at      timestamptz NOT NULL DEFAULT now(),
    source          text,
    event_type      varchar(100) NOT NULL,
    actor_type      text,
    actor_id        text,
    session_id      text,
    project_id      text,
    ip_asset_id     text,
    license_id      text,
    post_id         text,
    brand_id        text,
    creator_id      text,
    user_id         text,
    props           jsonb NOT NULL DEFAULT '{}',
    idempotency_key text UNIQUE,
    enrichment      jsonb,
    enriched_at     timestamptz,
    duplicate_of    text,
    is_bot          boolean NOT NULL DEFAULT false,
    -- What makes two rows the same event, as it was received: enrichment fills in ids, and must not make two of one.
    fingerprint     uuid NOT NULL
);
CREATE INDEX events_occurred ON events (occurred_at);
CREATE INDEX events_created ON events (created_at);
CREATE INDEX events_enriched ON events (enriched_at);
CREATE INDEX events_type ON events (event_type, occurred_at);
CREATE INDEX events_post ON events (post_id, occurred_at) WHERE post_id IS NOT NULL;
CREATE INDEX events_asset ON events (ip_asset_id, occurred_at);
CREATE INDEX events_session ON events (session_id);
CREATE INDEX events_fingerprint ON events (fingerprint);

CREATE FUNCTION events_fingerprint() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.fingerprint := md5(concat_ws(E'\n', NEW.event_type, coalesce(NEW.actor_id, 'anonymous'), coalesce(NEW.session_id, ''),
                                     coalesce(NEW.project_id, ''), coalesce(NEW.ip_asset_id, ''), coalesce(NEW.license_id, ''),
                                     coalesce(NEW.post_id, ''), floor(extract(epoch FROM NEW.occurred_at))::bigint))::uuid;
    RETURN NEW;
END $$;
CREATE TRIGGER events_fingerprint BEFORE INSERT ON events FOR EACH ROW EXECUTE FUNCTION events_fingerprint();

CREATE TABLE attributions (
    event_id     text PRIMARY KEY REFERENCES events ON DELETE CASCADE,
    utm_source   varchar(255),
    utm_medium   varchar(255),
    utm_campaign varchar(255),
    utm_term     varchar(255),
    utm_content  varchar(255),
    referrer     text,
    landing_page text,
    device_type  text,
    browser      text,
    os           text,
    created_at   timestamptz NOT NULL DEFAULT now(),
    updated_at   timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE analytics_sessions (
    session_id   text PRIMARY KEY,
    started_at   timestamptz NOT NULL,
    referrer     text,
    landing_page text,
    utm_source   varchar(255),
    utm_medium   varchar(255),
    utm_campaign varchar(255),
    utm_term     varchar(255),
    utm_content  varchar(255),
    created_at   timestamptz NOT NULL DEFAULT now()
);

-- What the roll-ups count. Measured from the receipt, not from "now": a period gives the same whenever it is computed again.
CREATE VIEW counted_events AS
SELECT e.id, e.occurred_at, e.event_type, t.counts_as, e.actor_id, e.session_id, e.project_id, e.ip_asset_id, e.license_id, e.post_id, e.props,
       coalesce(e.actor_id, 's:' || e.session_id) AS visitor
FROM events e
JOIN event_types t ON t.event_type = e.event_type
WHERE e.duplicate_of IS NULL AND NOT e.is_bot
  AND e.occurred_at BETWEEN e.created_at - interval '365 days' AND e.created_at + interval '1 hour';

-- A whole number of at most twelve digits among the properties of an event, else nothing.
CREATE FUNCTION property_number(props jsonb, name text) RETURNS bigint LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE WHEN props ->> name ~ '^\d{1,12}$' THEN (props ->> name)::bigint END;

-- Whether that property is there, and no such number.
CREATE FUNCTION property_malformed(props jsonb, name text) RETURNS boolean LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN coalesce(props ->> name !~ '^\d{1,12}$', false);
